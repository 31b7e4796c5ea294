"""Image coding for machines, and for the people who look at the same bits.

image x -> codec.encode -> Bitstream (bytes) -> codec.decode -> x_hat -> task network -> detections
                               |                                  |            |
                              bpp                    PSNR SSIM VGG checkerboard mAP

datasets/         images with annotations, all in COCO layout
codecs/           encode, decode, latents, patches
discriminator.py  PatchGAN             losses.py    named terms
tasks/            the machine          training.py  the loops
metrics/          what is measured     evaluate.py  the line above, one row an image
config.py  runs.py  study.py  plots.py  cli.py      profiles, run folders, tables, figures
"""

from icmlib import codecs, datasets, plots, study, tasks, training
from icmlib.config import load_profile, replace
from icmlib.evaluate import compare, estimated_bpp, evaluate, load, load_vgg, save, summarize
from icmlib.runs import fingerprint, open_run, read_summary, run_folder

__all__ = [
    "codecs",
    "compare",
    "datasets",
    "estimated_bpp",
    "evaluate",
    "fingerprint",
    "load",
    "load_profile",
    "load_vgg",
    "open_run",
    "plots",
    "read_summary",
    "replace",
    "run_folder",
    "save",
    "study",
    "summarize",
    "tasks",
    "training",
]
