"""Loss terms. Each returns a scalar; only the training loops weigh and sum them."""

import math

import torch
import torch.nn.functional as F


def rate(likelihoods: dict[str, torch.Tensor], pixels: int) -> torch.Tensor:
    """Bits per pixel that an ideal entropy coder would spend: the sum of -log2 of all latents'
    likelihoods, over the pixels of the batch (B * H * W)."""
    return sum(-p.log().sum() for p in likelihoods.values()) / (math.log(2) * pixels)


def discriminator_loss(kind: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """What the discriminator minimises, from its scores of original and of decoded patches; `kind`
    is `hinge` (Lim & Ye 2017), `least_squares` (Mao et al. 2017) or `cross_entropy` (Goodfellow et
    al. 2014)."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "least_squares":
        return ((real - 1) ** 2).mean() + (fake**2).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(kind: str, fake: torch.Tensor) -> torch.Tensor:
    """What the decoder minimises, from the discriminator's scores of decoded patches."""
    if kind == "hinge":
        return -fake.mean()
    if kind == "least_squares":
        return ((fake - 1) ** 2).mean()
    return F.softplus(-fake).mean()


def lattice_power(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """Power of the residual at the frequencies where a decoder's checkerboard lives: the
    Hann-windowed residual of patches (P, 3, s, s) in [0, 1], at the multiples of 1/8 cycles per
    pixel without DC, scaled as `icmlib.metrics.checkerboard` scales spectra, the mean over patches
    and over R, G and B, in squared grey levels (of 255). Raises ValueError: s is no multiple of 8.
    """
    size = x.shape[-1]
    if size % 8:
        raise ValueError(f"patches of {size} px are not a multiple of the period 8")
    residual = 255 * (x_hat - x)
    window = torch.hann_window(size, periodic=True, dtype=x.dtype, device=x.device)
    window = window[:, None] * window
    spectrum = torch.fft.fft2(residual * window).abs() ** 2 / (window**2).sum() / size**2
    lattice = spectrum[..., :: size // 8, :: size // 8]
    return (lattice.sum((-2, -1)) - lattice[..., 0, 0]).mean()
