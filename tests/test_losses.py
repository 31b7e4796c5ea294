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
    ("place", "points"),  # of the lattice of its period
    [
        ((0, 1 / 8), 48),
        ((1 / 4, 3 / 8), 48),
        ((1 / 4, 1 / 2), 12),
        ((0, 1 / 2), 3),
        ((0, 0), None),  # a change of brightness
        ((5 / 64, 12 / 64), None),  # between the lattice lines
    ],
)
def test_lattice_prominence_of_a_known_pattern(place, points):
    """Of one sinusoid of 3 grey levels, by hand: 10 log10(1 + peak / noise) at f and -f, over the
    points of that lattice, three lattices and six planes; a green one has its share in each."""
    wave = pattern(3.0, *place)
    window = torch.hann_window(64, dtype=torch.float64)
    one_line = place == (0, 1 / 2)  # f is -f
    amplitude = 3 * math.cos(0.4) if one_line else 3 / 2
    peak = (amplitude * 32**2) ** 2 / float(window.outer(window).square().sum())
    weight = (1 if one_line else 2) / points / 3 if points else 0.0

    def decibels(*shares: float) -> float:
        levels = [10 * math.log10(1 + share**2 * peak / losses.NOISE) for share in shares]
        return weight * sum(levels) / 6

    grey = float(losses.lattice_prominence(FLAT + wave))
    assert grey == pytest.approx(decibels(1, 1, 1, 1), rel=1e-3, abs=1e-9)
    green = float(losses.lattice_prominence(FLAT + torch.eye(3)[1, :, None, None] * wave))
    shares = (1, 0.587, 0.587 / 1.772, 0.587 / 1.402)
    assert green == pytest.approx(decibels(*shares), rel=1e-3, abs=1e-9)


def test_lattice_prominence_spares_what_is_no_peak():
    """Noise has little prominence, an edge none, though it has much power at the frequencies."""
    torch.manual_seed(0)
    edge = FLAT.clone()
    edge[..., :, 30:] = 0.9
    assert float(losses.lattice_prominence(edge)) < 0.01
    noise = 0.5 + 0.05 * torch.randn(48, 3, 64, 64)
    assert float(losses.lattice_prominence(noise)) < 0.5
    grid = noise + pattern(12.0, 1 / 8, 1 / 4)
    assert float(losses.lattice_prominence(grid)) > float(losses.lattice_prominence(noise)) + 0.2


@pytest.mark.parametrize(("height", "width"), [(24, 24), (60, 60), (64, 32)])
def test_lattice_prominence_needs_whole_periods(height, width):
    with pytest.raises(ValueError, match=f"patches of {width}x{height} px; the lattice term"):
        losses.lattice_prominence(FLAT[..., :height, :width])


def test_discriminator_scores_many_places():
    """(s/8 - 1)^2 scores a patch, and a shift of the patch shifts the scores."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8).eval()
    x = torch.rand(2, 3, 72, 64)
    scores = discriminator(x)
    assert scores.shape == (2, 1, 8, 7)
    moved = discriminator(x.roll(8, dims=-2))
    torch.testing.assert_close(moved[:, :, 3:6], scores[:, :, 2:5])
