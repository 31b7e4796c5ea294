import math

import pytest
import torch

from icmlib import losses
from icmlib.discriminator import PatchDiscriminator

REAL, FAKE = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.25])
FLAT = torch.full((1, 3, 64, 64), 0.5, dtype=torch.float64)


def softplus(value: float) -> float:
    return math.log(1 + math.exp(value))


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        ("hinge", (0 + 0.5) / 2 + (0 + 1.25) / 2, (2 - 0.25) / 2),
        ("least_squares", (1 + 0.25) / 2 + (4 + 0.0625) / 2, (9 + 0.5625) / 2),
        (
            "cross_entropy",
            (softplus(-2) + softplus(-0.5)) / 2 + (softplus(-2) + softplus(0.25)) / 2,
            (softplus(2) + softplus(-0.25)) / 2,
        ),
    ],
)
def test_adversarial_losses_by_hand(kind, discriminator, generator):
    assert float(losses.discriminator_loss(kind, REAL, FAKE)) == pytest.approx(discriminator)
    assert float(losses.generator_loss(kind, FAKE)) == pytest.approx(generator)


def test_rate_by_hand():
    """Four latents of 1/8 (3 bits each) and one of 1/2 (1 bit) over 26 pixels: 0.5 bpp."""
    likelihoods = {"y": torch.full((1, 2, 2), 1 / 8), "z": torch.tensor([1 / 2])}
    assert float(losses.rate(likelihoods, 26)) == pytest.approx(0.5)


def pattern(amplitude: float, fy: float, fx: float, size: int = 64) -> torch.Tensor:
    """A grey sinusoid of an amplitude in grey levels, (1, 3, s, s)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    wave = torch.cos(2 * math.pi * (fy * y + fx * x) + 0.4)
    return (amplitude / 255 * wave).double().expand(1, 3, size, size)


@pytest.mark.parametrize(
    ("place", "power"),
    [
        ((0, 1 / 8), 9 / 2),
        ((1 / 4, 3 / 8), 9 / 2),
        ((0, 1 / 2), (3 * math.cos(0.4)) ** 2),  # phase 0.4, and all of it in one line
        ((0, 0), 0),  # a change of brightness
        ((5 / 64, 12 / 64), 0),  # between the lattice lines
    ],
)
def test_lattice_power_of_a_known_pattern(place, power):
    """A^2 / 2 on the lattice, of which the peak of a Hann window holds 1 / 2.25."""
    wave = pattern(3.0, *place)
    measured = losses.lattice_power(FLAT, FLAT + wave)
    assert float(measured) == pytest.approx(power / 2.25, rel=1e-3, abs=1e-9)
    for colour in torch.eye(3)[..., None, None]:  # the mean over R, G and B
        one = losses.lattice_power(FLAT, FLAT + colour * wave)
        assert float(one) == pytest.approx(power / 2.25 / 3, rel=1e-3, abs=1e-9)


def test_lattice_power_is_of_the_residual():
    """A pattern that the original has itself costs nothing; the mean is over patches."""
    one, two = pattern(3.0, 0, 1 / 8), pattern(3.0, 0, 1 / 8)
    assert float(losses.lattice_power(FLAT + one, FLAT + two)) < 1e-20
    both = losses.lattice_power(FLAT.expand(2, -1, -1, -1), torch.cat([FLAT, FLAT + two]))
    assert float(both) == pytest.approx(1.0, rel=1e-3)


def test_lattice_power_needs_whole_periods():
    with pytest.raises(ValueError, match="patches of 60 px are not a multiple of the period 8"):
        losses.lattice_power(FLAT[..., :60, :60], FLAT[..., :60, :60])


def test_discriminator_scores_many_places():
    """(s/8 - 1)^2 scores a patch, and a shift of the patch shifts the scores."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8).eval()
    x = torch.rand(2, 3, 72, 64)
    scores = discriminator(x)
    assert scores.shape == (2, 1, 8, 7)
    moved = discriminator(x.roll(8, dims=-2))
    torch.testing.assert_close(moved[:, :, 3:6], scores[:, :, 2:5])
