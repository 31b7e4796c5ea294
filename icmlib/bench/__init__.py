"""Speed, side by side: the library's way beside what one would otherwise run, on this machine.

A case builds a `Pair`: two functions that do the same work, ours and theirs, from the same start.
Theirs is plain PyTorch or CompressAI.
"""
# ruff: noqa: F401

from icmlib.bench.cost import cost
from icmlib.bench.evaluation import coding, evaluation
from icmlib.bench.harness import bound, compared, measure, operations, seconds_a_step, where
from icmlib.bench.training import base_training, finetuning_step, generator_step
