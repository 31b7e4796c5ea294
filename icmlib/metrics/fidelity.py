"""Fidelity of a decoded image to its original: PSNR, (MS-)SSIM, VGG distance, feature distance.

Images are RGB floats in [0, 1], (B, 3, H, W). Each metric returns one value per image, (B,), and
refuses other shapes and ranges. Round decoded images once (`to_8bit`) before calling any of them.
"""

import warnings

import pytorch_msssim
import torch
from torch import Tensor

from icmlib import downloads
from icmlib.io import InputError

MS_SSIM_SIDE = 161  # px, of the smallest image that has five scales
ROWS = 256  # of pixels or windows, at once: a large photograph fills the memory


def to_8bit(x: Tensor) -> Tensor:
    """The image as an 8-bit file holds it: round(255 x) / 255. Any shape, values in [0, 1]."""
    check_range("x", x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 does not hold 256 levels
    return (255 * x).round_().div_(255)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (dB) of each image, (B,), both rounded to 8 bits first: -10
    log10(MSE over all pixels and channels); inf for identical images."""
    _check_pair(x, y)
    total = 0
    for a, b in zip(x.split(ROWS, dim=2), y.split(ROWS, dim=2)):
        error = torch.round(255 * a) - torch.round(255 * b)  # grey levels, exact
        total = total + error.square().sum(dim=(1, 2, 3), dtype=torch.float64)
    return -10 * torch.log10(total / x[0].numel() / 255**2)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image, (B,), at most 1 (Wang et al. 2004): 11x11 Gaussian
    window of sigma 1.5, inside the image only, mean over channels; at least 11x11 px."""
    _check_pair(x, y, smallest=11)
    places, total = x.shape[-2] - 10, 0  # rows of windows
    for top in range(0, places, ROWS):
        rows = slice(top, top + ROWS + 10)
        # channels last, the depthwise windows take a third of the time
        strips = (image[..., rows, :].float() for image in (x, y))
        strips = (strip.contiguous(memory_format=torch.channels_last) for strip in strips)
        share = min(ROWS, places - top) / places
        total = total + share * pytorch_msssim.ssim(*strips, data_range=1.0, size_average=False)
    return total


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at five scales, (B,), at most 1 (Wang et al. 2003); images of at least 161x161 px."""
    _check_pair(x, y, smallest=MS_SSIM_SIDE)
    return pytorch_msssim.ms_ssim(x.float(), y.float(), data_range=1.0, size_average=False)


def feature_distance(features_x: dict[str, Tensor], features_y: dict[str, Tensor]) -> Tensor:
    """Distance of two sets of feature maps (B, C, H, W): (B,), 0 for equal maps, about 2 for
    unrelated ones. Mean over maps of MSE(map_x, map_y) / variance(map_x), in float32."""
    distances = []
    for name in features_x:
        x, y = features_x[name].float().flatten(1), features_y[name].float().flatten(1)
        variance = x.var(dim=1, unbiased=False).clamp_min(1e-6)  # a dead map must not divide by 0
        distances.append((x - y).square().mean(dim=1) / variance)
    return torch.stack(distances).mean(0)


class VGGDistance(torch.nn.Module):
    """LPIPS on VGG-16 (Zhang et al. 2018, arXiv 1801.03924), version 0.1; lower is closer. lpips
    brings its linear layers, `icmlib.downloads.vgg16` the rest; `source` says from where."""

    def __init__(self):
        super().__init__()
        state, self.source = downloads.vgg16()
        import lpips  # here, since it takes seconds and most runs never ask for it

        # keep the caller's random state; lpips calls torchvision by an old name and hears about it
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random weights: its way to VGG-16's would unpickle
            self.model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        names = self.model.net.state_dict()  # sliceK.N.weight is N.weight of VGG-16's features
        self.model.net.load_state_dict({k: state[k.split(".", 1)[1]] for k in names})
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each image, (B,), of two batches (B, 3, H, W) in [0, 1], at least 16x16."""
        _check_pair(x, y, smallest=16)  # the fifth stage sees 1/16
        return self.model(2 * x.float() - 1, 2 * y.float() - 1).flatten()  # LPIPS wants [-1, 1]


def _check_pair(x: Tensor, y: Tensor, smallest: int = 1) -> None:
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3:
        found = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"need images (B, 3, H, W) of one shape; found {found}")
    height, width = x.shape[2:]
    if min(height, width) < smallest:
        needs = f"this metric needs at least {smallest}x{smallest}"
        raise ValueError(f"image is {width}x{height} px; {needs}")
    check_range("x", x)
    check_range("y", y)


def check_range(name: str, image: Tensor) -> None:
    """Raises ValueError: not floats, or not in [0, 1]."""
    if not image.is_floating_point():
        raise InputError(f"{name} is {image.dtype}; need floats in [0, 1]")
    low, high = (value.item() for value in image.aminmax())
    if not (low >= 0 and high <= 1):  # NaN fails, too
        raise InputError(f"{name} runs from {low:.4g} to {high:.4g}; need [0, 1]")
