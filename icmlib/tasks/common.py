"""What the adapters of both libraries share."""

import torch

from icmlib.config import TaskConfig
from icmlib.io import InputError


def masks_of(target: dict) -> torch.Tensor:
    """(N, H, W) of a network that trains on masks; raises InputError if the data set has none."""
    if "masks" not in target:
        what = "this task network trains on masks, and not every box of the data set has one"
        how = "complete them, or take a network such as fasterrcnn_resnet50_fpn"
        raise InputError(f"{what} (`segmentation`); {how}")
    return target["masks"]


def check_classes(config: TaskConfig, known: int) -> None:
    """Raises ValueError where the published weights know another number of classes."""
    if known != config.num_classes:
        what = f"{config.name} with weights {config.weights} knows {known} classes"
        how = f"Set it to {known}, or weights to null"
        raise InputError(f"{what}; the profile says num_classes: {config.num_classes}. {how}")


def training_mode(model: torch.nn.Module) -> None:
    """Training mode; batch norm follows the batches only where its own weights are trained."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train(any(p.requires_grad for p in module.parameters()))
