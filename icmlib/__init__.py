"""Image coding for machines, and for the people who look at the same bits.

image x -> codec.encode -> Bitstream (bytes) -> codec.decode -> x_hat -> task network -> detections
                               |                                  |            |
                              bpp                    PSNR SSIM VGG checkerboard mAP

datasets/         images with annotations, all in COCO layout
codecs/           encode, decode, latents, patches
discriminator.py  PatchGAN             losses.py    named terms
tasks/            the machine          training/    the loops
proxies.py        what stands in for it in base training
metrics/          what is measured     evaluate.py  the line above, one row an image
config.py  runs.py  plots.py              profiles, run folders, figures
cli.py  notebooks.py  comparison.py       the command line `icm`, and what it runs
study.py  codec_zoo.py  knob.py       study 1: rows, aims; other codecs; between two decoders
rate_task.py  curves.py               study 2: points, curves, findings
performance.py  bench/                              what makes it fast, and how fast it is
processes.py                                        which of several processes this is
explorer/                             one image, every decoder of its bits, in a notebook
downloads.py  pickled_arrays.py                     published weights, never unpickled
"""

import lazy_loader

# lazy: the command line starts without loading PyTorch
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "bench",
        "codec_zoo",
        "codecs",
        "curves",
        "datasets",
        "explorer",
        "knob",
        "performance",
        "plots",
        "proxies",
        "rate_task",
        "study",
        "tasks",
        "training",
    ],
    submod_attrs={
        "config": ["load_profile", "replace"],
        "evaluate": [
            "compare",
            "estimated_bpp",
            "evaluate",
            "load_evaluation",
            "load_vgg",
            "save_evaluation",
            "summarize",
        ],
        "io": ["fingerprint"],
        "runs": ["open_run", "read_summary", "run_folder"],
    },
)
