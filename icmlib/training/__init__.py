"""The training loops, in the order of the study. Each is plain PyTorch and resumes."""
# ruff: noqa: F401

from icmlib.training.base_codec import train_base_codec
from icmlib.training.chain import finetune_chain
from icmlib.training.journal import Journal
from icmlib.training.patchgan import finetune_decoder, sample_patches
from icmlib.training.steps import batch_indices, seeded
from icmlib.training.task_network import train_task_network
