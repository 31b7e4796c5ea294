"""The network whose features base training compares: the task network, or VGG-16 as in the paper
(Le et al. 2021, arXiv 2108.09993), which does not state the layers, weight or warm-up: here they
are `vgg16_layers`, `lambda_feature` and `warmup` of `icmlib.config.BaseTrainingConfig`."""

import torch
from torch import nn
from torchvision.models import vgg16
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import normalize

from icmlib.config import VGG16_LAYERS, BaseTrainingConfig
from icmlib.downloads import read_state
from icmlib.metrics.fidelity import VGG_URL

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and standard deviation


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
        wanted = {str(i): name for i, name in zip(relus, VGG16_LAYERS) if name in layers}
        self.layers = create_feature_extractor(network.features, wanted)
        self.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps (B, C, h, w) by layer, the finest first, of RGB images (B, 3, H, W) in [0, 1], of
        at least 16x16 px for all five stages; gradients reach the images."""
        return self.layers(normalize(images.to(next(self.parameters()).device), *IMAGENET))
