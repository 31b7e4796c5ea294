"""The PatchGAN discriminator: is this patch of an original or of a decoded image?"""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Sequential):
    """Strided 4x4 convolutions with spectral norm and LeakyReLU; a score for each of many places.

    (B, 3, s, s) -> (B, 1, s/8 - 1, s/8 - 1), without a sigmoid. Isola et al., "Image-to-image
    translation with conditional adversarial networks", CVPR 2017; Miyato et al., "Spectral
    normalization", ICLR 2018."""

    def __init__(self, width: int = 32):
        layers = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 4, 1, 1)))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return super().forward(2 * patches - 1).float()
