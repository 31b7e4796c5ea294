"""Speed, side by side: the library's way beside what one would otherwise run, on this machine.

A case builds a `Pair`: two functions that do the same work, ours and theirs, from the same start.
Theirs is plain PyTorch, CompressAI or pycocotools.

harness.py     measure, peak_memory, operations
finetuning.py  a generator step; whole steps of every row
training.py    base training
evaluation.py  data sets to bitstreams and back; metrics; COCO's figures
cost.py        what a profile costs: hours, disk
"""
# ruff: noqa: F401

from icmlib.bench.cost import cost
from icmlib.bench.evaluation import coco_evaluation, coding, evaluation
from icmlib.bench.finetuning import finetuning, generator_step, latents_seconds
from icmlib.bench.harness import measure, operations, peak_memory
from icmlib.bench.training import base_step, base_training
