"""The training loops, in the order of the study. Each is plain PyTorch and resumes.

task_network.py   train_task_network: the machine
base_codec.py     train_base_codec: rate + MSE + task-feature distance
patchgan.py       finetune_decoder: PatchGAN on the first decoder layers; the bits stay
chain.py          finetune_chain: task loss + beta * rate, for the codec, the machine, or both
steps.py          what a step of each needs
journal.py        log, checkpoint and weights of a training
"""
# ruff: noqa: F401

from icmlib.training.base_codec import train_base_codec
from icmlib.training.chain import finetune_chain
from icmlib.training.journal import Journal
from icmlib.training.patchgan import finetune_decoder, sample_patches
from icmlib.training.steps import batch_indices, seeded
from icmlib.training.task_network import train_task_network
