"""Batch norm in detectors: trained with the network from scratch, frozen around given weights."""

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def training_mode(model: nn.Module) -> None:
    """Training mode, in which batch norm follows the batches where its own weights are trained.

    A frozen network keeps its running statistics: being asked for a loss does not train it. One
    that is trained from scratch needs those of the batch: with the first ones, mean 0 and variance
    1, batch norm would normalise nothing.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(any(p.requires_grad for p in module.parameters()))


def freeze(module: nn.Module, eps: float) -> None:
    """Batch norm below a module becomes constant, as torchvision does it around its weights; `eps`
    is what they were trained with."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps))
        else:
            freeze(child, eps)
