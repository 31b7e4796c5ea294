import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from icmlib.metrics import fidelity
from icmlib.metrics.fidelity import (
    VGGDistance,
    WeightsUnavailable,
    feature_distance,
    psnr,
    ssim,
    to_8bit,
)


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
        expected = structural_similarity(
            channels_last(a),
            channels_last(b),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2,
            data_range=1,
        )
        assert value.item() == pytest.approx(expected, abs=1e-4)
    assert torch.allclose(ssim(x, x), torch.ones(2))


def test_ssim_refuses_images_under_its_window():
    x = torch.rand(1, 3, 40, 10)
    with pytest.raises(ValueError, match=r"10x40 px; this metric needs at least 11x11"):
        ssim(x, x)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: 2 * x - 1, r"runs from -1 to 1; need \[0, 1\]"),
        (lambda x: 255 * x, r"runs from 0 to 255"),
        (lambda x: x * float("nan"), "runs from nan"),
        (lambda x: x[0], "need images"),
        (lambda x: x[:, :1], "need images"),
        (lambda x: (255 * x).to(torch.uint8), "torch.uint8; need floats"),
    ],
)
def test_doors_are_watched(metric, change, message):
    x = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    with pytest.raises(ValueError, match=message):
        metric(change(x), change(x))
    with pytest.raises(ValueError, match="differ in shape"):
        metric(x, x[..., :15])


def test_feature_distance_by_hand():
    # Maps of variance 1 and 4; off by 1 and by 4: (1 / 1 + 16 / 4) / 2.
    unit = torch.tensor([-1.0, 1.0]).repeat(8).reshape(1, 1, 4, 4)
    features_x = {"p2": unit, "p3": 2 * unit + 7}
    features_y = {"p2": unit + 1, "p3": 2 * unit + 3}
    assert feature_distance(features_x, features_y).tolist() == pytest.approx([2.5])
    assert feature_distance(features_x, features_x).tolist() == [0.0]


def test_feature_distance_keeps_images_apart():
    x = {"p2": torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))}
    y = {"p2": x["p2"].clone()}
    y["p2"][1] += 1
    assert [d > 0 for d in feature_distance(x, y).tolist()] == [False, True, False]
    alone = feature_distance({"p2": x["p2"][1:2]}, {"p2": y["p2"][1:2]})
    assert torch.equal(alone, feature_distance(x, y)[1:2])


def test_feature_distance_has_the_right_gradient():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 4, 4, generator=generator)
    y = torch.randn(2, 3, 4, 4, generator=generator, requires_grad=True)
    feature_distance({"a": x}, {"a": y}).sum().backward()
    variance = x.flatten(1).var(dim=1, unbiased=False)[:, None, None, None]
    assert torch.allclose(y.grad, 2 * (y - x).detach() / (48 * variance), atol=1e-6)


def test_feature_distance_refuses_other_maps():
    a, b = torch.rand(1, 2, 4, 4), torch.rand(1, 2, 2, 2)
    for other, message in [({"q": a}, "same maps"), ({"p": b}, "map p: shapes")]:
        with pytest.raises(ValueError, match=message):
            feature_distance({"p": a}, other)
    with pytest.raises(ValueError, match="at least one"):
        feature_distance({}, {})


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def vgg_file(torch_home):
    """A file of VGG-16's layout with made weights: not VGG's, but read the way VGG's are."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        layout = vgg16(weights=None).state_dict()
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(t.shape, generator=generator) / t[0].numel() ** 0.5
        if name.startswith("features") and t.ndim == 4
        else torch.zeros(1).expand(t.shape)  # stored as one number: the file stays small
        for name, t in layout.items()
    }
    torch_home.mkdir(parents=True)
    torch.save(state, torch_home / "vgg16-397923af.pth")
    return state


def test_vgg_distance_reads_the_weights_file(vgg_file, pair, capfd):
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance = VGGDistance.load()
    first = distance.model.net.slice1[0].weight
    assert torch.equal(first, vgg_file["features.0.weight"])
    last = distance.model.net.slice5[-2].weight
    assert torch.equal(last, vgg_file["features.28.weight"])
    assert torch.equal(before, torch.random.get_rng_state())
    assert "".join(capfd.readouterr()) == ""

    x, y = pair
    weak, strong = distance(x, y).tolist()
    assert 0 < weak < strong
    assert distance(x, x).tolist() == [0, 0]
    expected = distance.model(x, y, normalize=True).flatten()  # lpips' own way to take [0, 1]
    assert torch.allclose(distance(x, y), expected)
    with pytest.raises(ValueError, match=r"need \[0, 1\]"):
        distance(2 * x - 1, 2 * y - 1)
    with pytest.raises(ValueError, match="at least 16x16"):
        distance(x[..., :15], y[..., :15])


def test_missing_vgg_weights_say_what_to_do(torch_home, monkeypatch):
    with pytest.raises(WeightsUnavailable, match="the file is missing") as missing:
        VGGDistance.load()

    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(WeightsUnavailable, match="no route to host") as offline:
        VGGDistance.load(download=True)
    for error in (missing, offline):
        assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(error.value)
        assert str(torch_home) in str(error.value)


def test_a_download_lands_where_it_is_read(vgg_file, torch_home, monkeypatch):
    stored = torch_home / "vgg16-397923af.pth"
    source = stored.rename(torch_home / "elsewhere.pth")

    def copy(url, destination, hash_prefix, progress):
        assert hash_prefix == "397923af" and not progress
        shutil.copy(source, destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", copy)
    VGGDistance.load(download=True)
    assert stored.exists()


def test_a_download_of_something_else_is_refused(vgg_file, torch_home, monkeypatch):
    stored = torch_home / "vgg16-397923af.pth"
    source = stored.rename(torch_home / "elsewhere.pth")
    monkeypatch.setattr(fidelity, "VGG_URL", source.as_uri())
    with pytest.raises(WeightsUnavailable, match="invalid hash value"):
        VGGDistance.load(download=True)
    assert not stored.exists()


def test_a_broken_weights_file_is_named(torch_home):
    torch_home.mkdir(parents=True)
    (torch_home / "vgg16-397923af.pth").write_bytes(b"half a file")
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        VGGDistance.load()


@pytest.mark.slow
def test_nothing_heavy_is_imported_until_asked_for():
    code = "import sys, icmlib.metrics.fidelity; assert 'lpips' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
