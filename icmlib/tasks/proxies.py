"""The network whose features base training compares: the task network, or VGG-16 as in the paper
(Le et al. 2021, arXiv 2108.09993), which does not state the layers, weight or warm-up: here they
are `vgg16_layers`, `lambda_feature` and `warmup` of `icmlib.config.BaseTrainingConfig`."""

import torch
from torchvision.models import vgg16
from torchvision.models.feature_extraction import create_feature_extractor

from icmlib import downloads
from icmlib.config import VGG16_LAYERS, BaseTrainingConfig

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and standard deviation


def create(config: BaseTrainingConfig, task: torch.nn.Module) -> torch.nn.Module:
    """The network whose features a profile's base training compares; raises as `VGG16`."""
    return VGG16(config.vgg16_layers) if config.proxy == "vgg16" else task


class VGG16(torch.nn.Module):
    """torchvision's VGG-16 with its ImageNet weights, frozen; the features are the outputs of
    `layers`, such as `relu1_2`. Raises as `icmlib.downloads.vgg16`."""

    recordable = True  # see icmlib.training.steps.Recorded

    def __init__(self, layers: list[str]):
        super().__init__()
        with torch.device("meta"):  # no first weights before the file's
            network = vgg16(weights=None).features
        network.load_state_dict(downloads.vgg16()[0], assign=True)
        relus = [i for i, each in enumerate(network) if isinstance(each, torch.nn.ReLU)]
        wanted = {str(i): name for i, name in zip(relus, VGG16_LAYERS) if name in layers}
        self.layers = create_feature_extractor(network, wanted)
        for name, values in zip(("mean", "deviation"), IMAGENET):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps (B, C, h, w) by layer, the finest first, of RGB images (B, 3, H, W) in [0, 1], of
        at least 16x16 px for all five stages; gradients reach the images."""
        return self.layers((images.to(self.mean.device) - self.mean) / self.deviation)
