import numpy as np
import pytest
import scipy.signal
import torch
from PIL import Image

from icmlib.metrics.checkerboard import (
    excess_prms,
    luma,
    read_pattern,
    tile_size,
    welch_spectrum,
)

# PAPERS.md, "the 6 in data/paper_samples": LPP at S = 2 / 4 / 8 (dB), PRMS (grey levels).
PUBLISHED = {
    "base": (15.5, 22.2, 15.4, 3.80),
    "finetuned_low_impact": (14.2, 21.5, 14.8, 2.99),
    "finetuned": (12.0, 8.8, 6.7, 0.70),
    "bilateral": (8.7, 8.5, 2.3, 0.75),
    "gaussian": (10.6, 11.7, 3.9, 0.36),
}


def read(path):
    return torch.tensor(np.asarray(Image.open(path)) / 255).permute(2, 0, 1)


def spectra_of(paths):
    planes = [luma(read(path)) for path in paths]
    tile = tile_size(plane.shape for plane in planes)
    return np.stack([welch_spectrum(plane, tile) for plane in planes])


def pattern_of(planes):
    """The pooled reading of planes of one size."""
    return read_pattern(np.stack([welch_spectrum(plane, plane.shape[0]) for plane in planes]))


def lpp_of(pattern):
    return [pattern[f"lpp{S}"] for S in (2, 4, 8)]


def noise(rng, n=20, size=128, level=8):
    return (128 + level * rng.standard_normal((n, size, size))) / 255


def grid(scale, size=128):
    """A pattern of period `scale` (product of two square-ish waves), zero mean, RMS 1."""
    wave = np.zeros((scale, scale))
    wave[: max(1, scale // 2), : max(1, scale // 2)] = 1
    wave = (wave - wave.mean()) / wave.std()
    return np.tile(wave, (size // scale, size // scale))


def test_luma_is_bt601():
    image = torch.zeros(3, 4, 5)
    image[0], image[2] = 1.0, 0.5
    assert np.allclose(luma(image), 0.299 + 0.057)


def test_spectrum_is_scipys_welch_along_an_axis(rng):
    # Rows that are all alike have power only on one axis, where a 1-D Welch says how much.
    row = rng.random(256)
    P = welch_spectrum(np.tile(row, (256, 1)), 128)
    _, expected = scipy.signal.welch(
        row, window="hann", nperseg=128, noverlap=64, return_onesided=False, scaling="density"
    )
    # The Hann window across the rows gathers a constant's power: N * 4/6 of it at its bin.
    assert np.allclose(P[0], expected * 128 * 2 / 3)


def test_spectrum_is_the_mean_over_tiles_from_the_corner(rng):
    plane = rng.random((40, 56))
    corners = [(0, 0), (0, 16)]  # 40 = 32 + half a hop; 56 = 32 + 16 + half a hop
    tiles = [welch_spectrum(plane[y : y + 32, x : x + 32], 32) for y, x in corners]
    assert np.allclose(welch_spectrum(plane, 32), np.mean(tiles, axis=0))


@pytest.mark.parametrize("size, amplitude", [(64, 3.0), (128, 1.0)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_made_pattern_is_recovered(rng, scale, amplitude, size):
    planes = noise(rng, 40, size, level=2) + amplitude / 255 * grid(scale, size)
    pattern = pattern_of(planes)
    assert pattern["prms"] == pytest.approx(amplitude, rel=0.1)
    assert all(pattern[f"lpp{S}"] < 1 for S in (2, 4, 8) if S > scale)  # coarser lattices are empty
    assert pattern[f"lpp{scale}"] > 3


def test_lpp_by_hand(rng):
    # One line of amplitude a at (1/4, 1/4), and its mirror image, over noise of power s^2:
    # 2 of the 12 points of Lambda_4 read (s^2 + a^2 / 4 * N^2 * 4 / 9) / s^2, the others 1.
    y, x = np.indices((128, 128))
    a, s = 2 / 255, 4 / 255
    line = a * np.cos(2 * np.pi * (x + y) / 4)
    planes = noise(rng, 200, level=4) + line
    pattern = pattern_of(planes)
    peak = 1 + a**2 / 4 * 128**2 * 4 / 9 / s**2
    assert pattern["lpp4"] == pytest.approx(2 / 12 * 10 * np.log10(peak), abs=0.2)
    assert pattern["lpp8"] == pytest.approx(0, abs=0.3)
    assert pattern["prms"] == pytest.approx(2 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("stripe", [(128, 1), (1, 128)])
def test_a_ridge_along_an_axis_is_no_pattern(rng, stripe):
    # Stripes of every period fill one axis; only neighbours along it can tell.
    stripes = 40 * rng.standard_normal((40, *stripe)) / 255
    planes = np.clip(noise(rng, 40, level=1) + stripes, 0, 1)
    pattern = pattern_of(planes)
    assert all(abs(v) < 1.5 for v in lpp_of(pattern))


def test_flat_images_read_nothing():
    assert not any(pattern_of(np.full((1, 128, 128), 0.3)).values())


def test_photographs_read_zero_decibels(shared):
    pattern = read_pattern(spectra_of(sorted((shared / "kodak").glob("*.png"))))
    # PAPERS.md: -0.1 / 0.1 / 0.0 dB and 0.42 grey levels.
    assert lpp_of(pattern) == pytest.approx([-0.1, 0.1, 0.0], abs=0.06)
    assert pattern["prms"] == pytest.approx(0.42, abs=0.006)


@pytest.fixture(scope="module")
def published(shared):
    folder = shared / "paper_samples"
    return {v: spectra_of(sorted(folder.glob(f"*/{v}.png"))) for v in PUBLISHED}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_crops_read_as_published(published, variant):
    pattern = read_pattern(published[variant])
    *lpp, prms = PUBLISHED[variant]
    assert lpp_of(pattern) == pytest.approx(lpp, abs=0.051)  # to the printed digit
    assert pattern["prms"] == pytest.approx(prms, abs=0.0051)


def test_excess():
    assert excess_prms(5.0, 4.0) == 3.0
    assert excess_prms(1.0, 2.0) == 0.0
    assert np.allclose(excess_prms(np.array([5.0, 1.0]), np.array([4.0, 2.0])), [3, 0])


def test_bootstrap_reads_what_resampled_images_read(rng):
    spectra = np.stack([welch_spectrum(p, 32) for p in noise(rng, 5, 32)])
    counts = rng.multinomial(5, [0.2] * 5, size=10)
    sample = read_pattern(spectra, counts)
    for r, count in enumerate(counts):
        pattern = read_pattern(np.repeat(spectra, count, axis=0))
        assert sample["prms"][r] == pytest.approx(pattern["prms"])
        assert [each[r] for each in lpp_of(sample)] == pytest.approx(lpp_of(pattern))


def test_tile_size():
    assert tile_size([(512, 768), (300, 200)]) == 128
    assert tile_size([(512, 768), (75, 300)]) == 64
    assert tile_size([(16, 900)]) == 16
    with pytest.raises(ValueError, match="image is 40x15 px; the spectrum needs at least 16x16"):
        tile_size([(512, 768), (15, 40)])


def test_bad_input_is_refused():
    for value, message in ((255, "255"), (-0.1, r"need \[0, 1\]"), (float("nan"), "nan")):
        with pytest.raises(ValueError, match=message):
            luma(torch.full((3, 64, 64), value))
