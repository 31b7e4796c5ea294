"""Data sets by name. All are COCO-style (images and an instances JSON) and read by one class.

deadleaves.py   synthetic scenes, generated on first use
coco.py         the data set class: any folder in COCO layout, or a plain folder of images
openimages.py   Open Images into COCO layout
missing.py      what of a downloaded data set is not there
"""

from pathlib import Path

import skimage

from icmlib import device
from icmlib.config import DataConfig
from icmlib.datasets import deadleaves
from icmlib.datasets.coco import CocoDataset, has_masks, read_ids
from icmlib.datasets.missing import check
from icmlib.io import project_root, read_image

__all__ = ["CocoDataset", "check", "create", "has_masks", "photographs", "read_image"]


def create(config: DataConfig, split: str, limit: int | None = None) -> CocoDataset:
    """The data set of a profile.

    Args:
        config: which data set and where; dead leaves are generated if not there yet.
        split: `train`, `val` or `test`.
        limit: only the first so many images.
    """
    if config.name == "deadleaves":
        counts = {"train": config.train, "val": config.val, "test": config.test}
        root = project_root() / config.root
        with device.state().main_process_first():
            folder = deadleaves.generate(root, config.size, counts, config.seed)
        return CocoDataset(folder / split, deadleaves.annotation_file(folder, split), limit)
    if config.name == "coco":
        files = config.splits[split]
        known = ("images", "annotations", "ids", "skip", "limit")
        unknown = set(files) - set(known)
        if unknown:  # a mistyped skip would let train and val overlap
            raise ValueError(
                f"split {split!r} has unknown keys {', '.join(sorted(unknown))}; known: "
                f"{', '.join(known)}"
            )
        root = project_root() / config.root
        return CocoDataset(
            root / files["images"],
            root / files["annotations"],
            limit or files.get("limit"),
            skip=files.get("skip", 0),
            ids=read_ids(files.get("ids"), root),
        )
    raise ValueError(f"unknown data set {config.name!r}; known: deadleaves, coco")


def photographs(folder: str | Path | None = None) -> CocoDataset:
    """All images below a folder (from the project's root), or the colour photographs that
    scikit-image ships."""
    if folder is not None:
        return CocoDataset(project_root() / folder)
    names = ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"]
    return CocoDataset(Path(skimage.data_dir), files=names)
