"""The training loops, in the order of the study. Each is plain PyTorch and resumes from its run.

task_network.py   train_task_network: the machine
base_codec.py     train_base_codec: rate + MSE + task-feature distance
decoder.py        finetune_decoder: PatchGAN on the first decoder layers; the bits stay
chain.py          finetune_chain: task loss + beta * rate, for the codec, the machine, or both
steps.py          what a step of each needs
launch.py         several processes, one a GPU, from a notebook
"""

from icmlib.training.base_codec import random_crop, train_base_codec
from icmlib.training.chain import finetune_chain
from icmlib.training.decoder import finetune_decoder, sample_patches
from icmlib.training.launch import launch
from icmlib.training.steps import batch_indices, late_decay, learning_rate, seeded
from icmlib.training.task_network import flip, train_task_network

__all__ = [
    "batch_indices",
    "finetune_chain",
    "finetune_decoder",
    "flip",
    "late_decay",
    "launch",
    "learning_rate",
    "random_crop",
    "sample_patches",
    "seeded",
    "train_base_codec",
    "train_task_network",
]
