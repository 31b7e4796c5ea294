"""Image coding for machines, and for the people who look at the same bits.

image x -> codec.encode -> Bitstream (bytes) -> codec.decode -> x_hat -> task network -> detections
                               |                                  |            |
                              bpp                    PSNR SSIM VGG checkerboard mAP

evaluate.py       the line above, one row per image
datasets/         images with annotations, all in COCO layout
codecs/           encode, decode, latents, patches
tasks/            the machine
metrics/          what is measured
discriminator.py  PatchGAN
losses.py         named terms
training/         the loops; patchgan.py is the method
config.py         one frozen dataclass for each stage
device.py         GPU, processes, precision
io.py             files, fingerprints, weights, images
downloads.py      published weights, never unpickled

The core above knows no study. On it stand (the first line of a file says what is in it):

studies/          profiles, run folders, Table 1, rate against task, verdicts, figures
tool/             the command line `icm`, and what it runs
explorer/         one image, every decoder of its bits, in a notebook
bench/            how fast it is, side by side
"""

import pkgutil
from importlib.metadata import version

import lazy_loader

__version__ = version("icmlib")

# lazy: the command line starts without loading PyTorch
MODULES = {module.name for module in pkgutil.iter_modules(__path__)}
FUNCTIONS = {
    "config": "replace",
    "evaluate": "compare estimated_bpp evaluate load_evaluation load_vgg save_evaluation summarize",
    "io": "fingerprint",
    "studies.profile": "load_profile",
    "studies.runs": "load_task measure open_run read_summary run_folder",
    "studies.trained": "load_decoders",
}
FUNCTIONS = {module: names.split() for module, names in FUNCTIONS.items()}
MODULES -= {"evaluate"}  # which is also a function
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, MODULES, FUNCTIONS)
