"""VGG-16 as the proxy: torchvision's maps from torchvision's file, frozen, open to gradients."""

import functools

import pytest
import torch
from conftest import tiny_codec
from torchvision.models import VGG16_Weights, vgg16

from icmlib import downloads, training
from icmlib.config import VGG16_LAYERS, BaseTrainingConfig, FinetuneConfig
from icmlib.io import fingerprint
from icmlib.tasks import proxies
from icmlib.training.base_codec import task_feature_distance

PAPER = BaseTrainingConfig(steps=4, batch=2, crop=32, proxy="vgg16")


@functools.cache
def made() -> dict[str, torch.Tensor]:
    """Weights in torchvision's layout; not VGG-16's."""
    with torch.device("meta"):
        layout = vgg16(weights=None).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(t.shape, generator=generator) * (2 / t[0].numel()) ** 0.5
        if name.startswith("features") and t.ndim == 4
        else torch.zeros(1).expand(t.shape)  # stored as one number: the file stays small
        for name, t in layout.items()
    }


@pytest.fixture
def state(publish, monkeypatch):
    state = made()
    monkeypatch.setattr(downloads, "VGG_PACKAGE", "not-installed")
    monkeypatch.setattr(downloads, "VGG_URL", publish(state))
    return state


@pytest.fixture
def pair():
    """Images in [0, 1], (2, 3, 32, 32), and the same under noise."""
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.rand(2, 2, 3, 32, 32, generator=generator)
    return x, (x + 0.2 * noise).clamp(0, 1)


def test_maps_are_those_of_torchvision(state, pair):
    """Of images as torchvision normalises them; asked for few, it stops at the last."""
    with torch.device("meta"):
        theirs = vgg16(weights=None)
    theirs.load_state_dict(state, assign=True)
    x = VGG16_Weights.IMAGENET1K_V1.transforms(crop_size=32, resize_size=32)(pair[0])
    maps, stage, place = {}, 1, 0
    with torch.no_grad():
        for layer in theirs.features:
            x = layer(x)
            if isinstance(layer, torch.nn.ReLU):
                place += 1
                maps[f"relu{stage}_{place}"] = x.clone()
            elif isinstance(layer, torch.nn.MaxPool2d):
                stage, place = stage + 1, 0
        ours = proxies.VGG16(list(VGG16_LAYERS)).features(pair[0])
    assert list(ours) == list(maps) == list(VGG16_LAYERS)
    assert all(torch.equal(ours[name], maps[name]) for name in maps)
    network = proxies.VGG16(["relu3_1", "relu1_2"])
    few = network.features(pair[0])
    assert list(few) == ["relu1_2", "relu3_1"]
    assert all(torch.equal(few[name], maps[name]) for name in few)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in network.modules()) == 5


def test_gradients_reach_the_decoded_image_alone(state, pair):
    x, x_hat = (image.requires_grad_() for image in pair)
    task_feature_distance(proxies.create(PAPER, None), x, x_hat).backward()
    assert x.grad is None and (x_hat.grad.flatten(1).abs().sum(1) > 0).all()


def test_the_proxy_is_frozen_and_trains_the_codec(state, scenes, new_run):
    """It has the say, not the task network; its weights stay, bit for bit."""
    proxy = proxies.create(PAPER, None)
    before, codec = fingerprint(proxy), tiny_codec(seed=2)
    assert not proxy.training and not any(p.requires_grad for p in proxy.parameters())
    assert proxies.create(BaseTrainingConfig(), codec) is codec  # by default the given network
    training.train_base_codec(codec, proxy, scenes("train"), PAPER, new_run())
    log = new_run().logged()
    assert (log["feature"] > 0).all() and fingerprint(proxy) == before
    assert fingerprint(codec) != fingerprint(tiny_codec(seed=2))
    with pytest.raises(ValueError, match="lambda_task is on the task network's own loss"):
        training.patchgan.set_up(codec, proxy, FinetuneConfig(lambda_task=1.0))
