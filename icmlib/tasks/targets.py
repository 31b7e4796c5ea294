"""What both libraries' adapters ask of a training target."""

import torch


def masks_of(target: dict) -> torch.Tensor:
    """(N, H, W); raises ValueError of a data set without them, whose network needs none either."""
    if "masks" not in target:
        raise ValueError(
            "this task network trains on masks, and not every box of the data set has one "
            "(`segmentation`); complete them, or take a network of boxes alone, such as "
            "fasterrcnn_resnet50_fpn"
        )
    return target["masks"]
