"""The network whose features base training compares: the task network, or VGG-16 as in the paper
(Le et al. 2021, arXiv 2108.09993), which does not state the layers, weight or warm-up: here they
are `vgg16_layers`, `lambda_feature` and `warmup` of `icmlib.config.BaseTrainingConfig`."""

import torch
from torch import nn
from torchvision.models import VGG16_Weights, vgg16

from icmlib import downloads
from icmlib.config import VGG16_LAYERS, BaseTrainingConfig


def create(config: BaseTrainingConfig, task: nn.Module) -> nn.Module:
    """The network whose features a profile's base training compares; raises as `VGG16`."""
    return VGG16(config.vgg16_layers) if config.proxy == "vgg16" else task


class VGG16(nn.Module):
    """torchvision's VGG-16, frozen; the features are the outputs of `layers`, such as `relu1_2`.

    Args:
        trained: its ImageNet weights, by `icmlib.downloads.vgg16` (raises as that does).
    """

    def __init__(self, layers: list[str], trained: bool = True):
        super().__init__()
        with torch.device("meta" if trained else "cpu"):  # no first weights before the file's
            network = vgg16(weights=None).features
        if trained:
            network.load_state_dict(downloads.vgg16()[0], assign=True)
        relus = [i for i, each in enumerate(network) if isinstance(each, nn.ReLU)]
        self.ends = {i: name for i, name in zip(relus, VGG16_LAYERS) if name in layers}
        self.layers = network[: max(self.ends) + 1]
        preset = VGG16_Weights.IMAGENET1K_V1.transforms()
        for name in ("mean", "std"):
            value = torch.tensor(getattr(preset, name)).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps (B, C, h, w) by layer, the finest first, of RGB images (B, 3, H, W) in [0, 1], of
        at least 16x16 px for all five stages; gradients reach the images."""
        x = (images.to(self.mean.device) - self.mean) / self.std
        maps = {}
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.ends:
                maps[self.ends[i]] = x
        return maps
