"""The network whose features base training compares: the task network, or VGG-16 as in the paper
(Le et al. 2021, arXiv 2108.09993), which does not state the layers, weight or warm-up: here they
are `vgg16_layers`, `lambda_feature` and `warmup` of `icmlib.config.BaseTrainingConfig`."""

import torch
from torch import nn
from torchvision.models import VGG16_Weights, vgg16

from icmlib.config import VGG16_LAYERS, BaseTrainingConfig
from icmlib.downloads import read_state
from icmlib.metrics.fidelity import VGG_URL


def create(config: BaseTrainingConfig, task: nn.Module) -> nn.Module:
    """The network whose features a profile's base training compares; raises as `VGG16`."""
    return VGG16(config.vgg16_layers) if config.proxy == "vgg16" else task


class VGG16(nn.Module):
    """torchvision's VGG-16 with its ImageNet weights (IMAGENET1K_V1; None: untrained), frozen; the
    features are the outputs of `layers`, such as `relu1_2`. Raises as
    `icmlib.downloads.read_state`: the weights (528 MB) are downloaded at first use."""

    def __init__(self, layers: list[str], weights: str | None = "IMAGENET1K_V1"):
        super().__init__()
        state = read_state(VGG_URL, f"VGG-16 {weights}") if weights else None
        with torch.device("meta" if state else "cpu"):  # no first weights before the file's
            network = vgg16(weights=None)
        if state:
            network.load_state_dict(state, assign=True)
        relus = [i for i, each in enumerate(network.features) if isinstance(each, nn.ReLU)]
        self.ends = {i: name for i, name in zip(relus, VGG16_LAYERS) if name in layers}
        self.layers = network.features[: max(self.ends) + 1]
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
