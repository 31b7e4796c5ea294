"""Loss terms. Each returns a scalar; only the training loops weigh and sum them."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from icmlib.io import InputError
from icmlib.metrics.checkerboard import FROM_RGB, SCALES

NOISE = 1.0  # squared grey levels: power of white noise of 1 grey level


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


def lattice_prominence(x_hat: torch.Tensor) -> torch.Tensor:
    """How far a decoder's pattern stands out of decoded patches (P, 3, s, s) in [0, 1], in dB: the
    mean of LPP_2, LPP_4 and LPP_8 of `icmlib.metrics.checkerboard` over R, G, B, Y, Cb and Cr, with
    a gradient; points below their surroundings count as 0. P is the Hann-windowed power of all
    patches together, in squared grey levels of 255. B, which gets no gradient, is the mean of the
    two neighbours 2 bins away on a row, or of those on a column, whichever is more: pictures have
    most of their power on the axes. NOISE is added to both, so that faint patterns cost little.
    Raises ValueError: s is under 32 or no multiple of 8, or patches are no squares.
    """
    height, size = x_hat.shape[-2:]
    if size % 8 or size < 32 or height != size:
        need = "squares of at least 32 px, a multiple of 8; take out images smaller than a patch"
        raise InputError(f"patches of {size}x{height} px; the lattice term needs {need}")
    planes = torch.einsum("pc,ncij->npij", torch.tensor(FROM_RGB).to(x_hat), 255 * x_hat)
    window = torch.hann_window(size, dtype=x_hat.dtype, device=x_hat.device)
    window = window[:, None] * window
    power = torch.fft.fft2(planes * window).abs().square().mean(0) / window.square().sum() + NOISE

    def beside(*by: int) -> torch.Tensor:  # the power `by` bins from the lattice, (6, 8, 8)
        return power.roll(by, (-2, -1))[..., :: size // 8, :: size // 8]

    rows, columns = beside(0, 2) + beside(0, -2), beside(2, 0) + beside(-2, 0)
    around = torch.maximum(rows, columns).detach() / 2
    prominence = (10 * torch.log10(beside(0, 0) / around)).relu().mean(0)  # (8, 8)
    sums = [prominence[:: 8 // scale, :: 8 // scale].sum() for scale in (1, *SCALES)]  # 1: DC
    counts = (scale**2 * 3 / 4 for scale in SCALES)  # of points that no coarser lattice has
    return sum((b - a) / n for (a, b), n in zip(pairwise(sums), counts)) / len(SCALES)
