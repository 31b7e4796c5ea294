import numpy as np
import pytest
import scipy.signal
import skimage
import torch

from icmlib.io import read_image
from icmlib.metrics.checkerboard import (
    PLANES,
    at_lattice,
    excess_prms,
    planes,
    read_pattern,
    tile_size,
    welch_spectrum,
)

# PAPERS.md, "the 6 in data/paper_samples": LPP of luma at S = 2 / 4 / 8 (dB), PRMS (grey levels).
PUBLISHED = {
    "base": (15.5, 22.2, 15.4, 3.80),
    "finetuned_low_impact": (14.2, 21.5, 14.8, 2.99),
    "finetuned": (12.0, 8.8, 6.7, 0.70),
    "bilateral": (8.7, 8.5, 2.3, 0.75),
    "gaussian": (10.6, 11.7, 3.9, 0.36),
}


def spectra_of(images, tile=128):
    return np.stack([at_lattice(welch_spectrum(planes(image), tile)) for image in images])


def pattern_of(images):
    """The pooled reading of images (n, N, N), grey, or (n, 3, N, N)."""
    images = torch.as_tensor(images)
    colour = images if images.ndim == 4 else images[:, None].expand(-1, 3, -1, -1)
    return read_pattern(spectra_of(colour, images.shape[-1]), images.shape[-1])


def lpp_of(pattern, plane=""):
    return [pattern[f"lpp{S}{plane}"] for S in (2, 4, 8)]


def noise(rng, n=20, size=128, level=8):
    return (128 + level * rng.standard_normal((n, size, size))) / 255


def grid(scale, size=128):
    """A pattern of period `scale` (product of two square-ish waves), zero mean, RMS 1."""
    wave = np.zeros((scale, scale))
    wave[: max(1, scale // 2), : max(1, scale // 2)] = 1
    wave = (wave - wave.mean()) / wave.std()
    return np.tile(wave, (size // scale, size // scale))


def test_planes_are_rgb_and_bt601():
    image = torch.rand(3, 4, 5)
    with_offset = skimage.color.rgb2ycbcr(image.double().permute(1, 2, 0).numpy()).T
    y, cb, cr = (with_offset - [[[16]], [[128]], [[128]]]) / [[[219]], [[224]], [[224]]]
    made = dict(zip(PLANES, planes(image), strict=True))
    assert np.allclose([made["R"], made["G"], made["B"]], image)
    assert np.allclose([made["Y"], made["Cb"], made["Cr"]], np.stack([y, cb, cr]).mT, atol=1e-5)


def test_spectrum_is_scipys_welch_along_an_axis(rng):
    # Rows that are all alike have power only on one axis, where a 1-D Welch says how much.
    row = rng.random(256)
    P = welch_spectrum(np.tile(row, (256, 1)), 128)
    _, expected = scipy.signal.welch(row, window="hann", nperseg=128, return_onesided=False)
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


@pytest.mark.parametrize("plane", PLANES)
def test_a_made_pattern_is_recovered_in_its_plane(rng, plane):
    """And the headline is the root mean square of R, G and B."""
    shift = torch.zeros(6, dtype=torch.float64)
    shift[PLANES.index(plane)] = 2.0
    r, g, b, y, cb, cr = shift.tolist()
    ycc = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    rgb = np.array([r, g, b]) + ycc
    image = noise(rng, 40, level=1)[:, None] + rgb[:, None, None] / 255 * grid(4)
    pattern = pattern_of(image)
    assert pattern[f"prms_{plane}"] == pytest.approx(2, rel=0.1)
    assert pattern["prms"] == pytest.approx(np.sqrt((rgb**2).mean()), rel=0.1)
    assert pattern["lpp4"] == max(pattern[f"lpp4_{each}"] for each in "RGB") > 3
    if plane in ("Cb", "Cr"):  # luma is blind to it
        assert pattern["prms_Y"] < 0.1 and abs(pattern["lpp4_Y"]) < 1


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
    paths = sorted((shared / "kodak").glob("*.png"))
    pattern = read_pattern(spectra_of(map(read_image, paths)), 128)
    # PAPERS.md, of luma: -0.1 / 0.1 / 0.0 dB and 0.42 grey levels.
    assert lpp_of(pattern, "_Y") == pytest.approx([-0.1, 0.1, 0.0], abs=0.06)
    assert pattern["prms_Y"] == pytest.approx(0.42, abs=0.006)
    assert all(abs(pattern[f"lpp{S}_{plane}"]) < 0.5 for S in (4, 8) for plane in PLANES)
    # Photo CD, where they come from, stores chroma at half the resolution
    assert pattern["lpp2_Cb"] > 10 and pattern["prms_Cb"] < 0.2


@pytest.fixture(scope="module")
def published(shared):
    folder = shared / "paper_samples"
    paths = {v: sorted(folder.glob(f"*/{v}.png")) for v in PUBLISHED}
    tile = tile_size(read_image(each[0]).shape[1:] for each in paths.values())
    spectra = {v: spectra_of(map(read_image, each), tile) for v, each in paths.items()}
    return {v: read_pattern(each, tile) for v, each in spectra.items()}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_crops_read_as_published(published, variant):
    *lpp, prms = PUBLISHED[variant]
    assert lpp_of(published[variant], "_Y") == pytest.approx(lpp, abs=0.051)  # to the printed digit
    assert published[variant]["prms_Y"] == pytest.approx(prms, abs=0.0051)


def test_excess():
    assert np.allclose(excess_prms(np.array([5.0, 1.0]), np.array([4.0, 2.0])), [3, 0])


def test_bootstrap_reads_what_resampled_images_read(rng):
    spectra = spectra_of(torch.rand(5, 3, 32, 32), 32)
    counts = rng.multinomial(5, [0.2] * 5, size=10)
    sample = read_pattern(spectra, 32, counts)
    for r, count in enumerate(counts):
        pattern = read_pattern(np.repeat(spectra, count, axis=0), 32)
        assert {name: each[r] for name, each in sample.items()} == pytest.approx(pattern)


def test_tile_size():
    assert tile_size([(512, 768), (300, 200)]) == 128
    assert tile_size([(512, 768), (75, 300)]) == 64
    assert tile_size([(16, 900)]) == 16
    with pytest.raises(ValueError, match="image is 40x15 px; the spectrum needs at least 16x16"):
        tile_size([(512, 768), (15, 40)])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="60x64 px; a tile of 64x64 does not fit"):
        welch_spectrum(np.zeros((64, 60)), 64)
    wrong = [(255.0, "255"), (255, "floats"), (-0.1, r"need \[0, 1\]"), (float("nan"), "nan")]
    for value, message in wrong:
        with pytest.raises(ValueError, match=message):
            planes(torch.full((3, 64, 64), value))
