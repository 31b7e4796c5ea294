"""Task networks, the machine at the end of the chain. One takes RGB images in [0, 1] and does its
own channel order, scaling and resizing, differentiably: its loss reaches the codec."""

from pathlib import Path
from typing import Protocol

import torch

from icmlib import device
from icmlib.config import TaskConfig
from icmlib.io import InputError, imported, load_weights, project_file
from icmlib.tasks import detectron2, proxies, torchvision

__all__ = ["Images", "TaskNetwork", "create", "detectron2", "load", "proxies", "torchvision"]

Images = torch.Tensor | list[torch.Tensor]  # (B, 3, H, W), or B times (3, H, W)


class TaskNetwork(Protocol):
    """What the study asks of a machine; any `nn.Module` with these three methods will do."""

    def loss(self, images: Images, targets: list[dict]) -> dict[str, torch.Tensor]:
        """Named scalar training losses; targets as `icmlib.datasets.CocoDataset` gives them."""

    def features(self, images: Images) -> dict[str, torch.Tensor]:
        """Named feature maps (B, C, h, w), for the task-feature distance."""

    def predict(self, images: Images, features: dict | None = None) -> list[dict]:
        """Per image: boxes (N, 4) xyxy in px, labels (N,) in 1..K, scores (N,) and, if it segments
        instances, masks (N, H, W) bool. `features` are these images', if they are known."""


def create(config: TaskConfig) -> torch.nn.Module:
    """The task network of a profile, with the weights that the profile names, if any: one of the
    two libraries', or what a function of yours returns, `build(config)` as `module:build`. Raises
    ValueError: an unknown name, or settings that the network does not have; ImportError: detectron2
    is not installed; as `icmlib.downloads.read_state` and `icmlib.io.load_weights`."""
    network, library = _build(config)
    if library and config.weights in library.PUBLISHED:
        library.load_published(network, config)
    elif config.weights:
        load_weights(network, project_file(config.weights))
    return network


def load(config: TaskConfig, path: str | Path) -> torch.nn.Module:
    """A trained task network, frozen, on the GPU if there is one; raises as `load_weights`."""
    network, _ = _build(config)
    load_weights(network, path)
    return network.to(device.current()).eval().requires_grad_(False)


def _build(config: TaskConfig) -> tuple:
    """The network, randomly initialised by the config's seed, and whose it is, if a library's."""
    name, known = config.name, (*torchvision.SMALL, *torchvision.DETECTORS)
    if name.startswith(detectron2.PREFIX):
        library, build = detectron2, detectron2.detector
    elif name in known:
        library, build = torchvision, torchvision.detector
    elif ":" in name:
        library, build = None, imported(name, "task network")
    else:
        more = f"{detectron2.PREFIX}<config of its model zoo>, or a function of yours"
        names = f"{', '.join(known)}, {more} as module:function"
        raise InputError(f"unknown task network {name!r}; known: {names}")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return build(config), library
