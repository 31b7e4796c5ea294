"""Data sets by name, read by one class: images with an instances JSON as COCO has it, or alone."""

from collections.abc import Iterator
from pathlib import Path

import skimage
from pydantic.dataclasses import dataclass

from icmlib import device
from icmlib.config import STRICT, DataConfig, from_dict
from icmlib.datasets import deadleaves
from icmlib.datasets.annotations import first_few
from icmlib.datasets.coco import CocoDataset, coco_categories, has_masks, read_ids
from icmlib.io import InputError, imported, project_root, read_image

__all__ = ["CocoDataset", "check", "create", "has_masks", "photographs", "read_image"]


@dataclass(frozen=True, config=STRICT)
class Split:
    """A split of a profile's data set in COCO layout; all paths are below the data set's root."""

    images: str  # folder
    annotations: str | None = None  # instances JSON; none: every image below the folder, unlabelled
    ids: list[int] | str | None = None  # of the images to take, or a text file, one per line
    skip: int = 0
    limit: int | None = None


def create(config: DataConfig, split: str, limit: int | None = None) -> CocoDataset:
    """The `train`, `val` or `test` split of a profile's data, or its first `limit` images. Dead
    leaves are generated at first use.

    A name `module:create` is a function of yours, `create(config, split, limit)`. It returns a
    CocoDataset, or what has of one `len()`, items, `image`, `path`, `sizes`, `turned`, `misfits`,
    `folder`, `ground_truth`, `categories`, `category_ids`, `with_masks` and `left_out`."""
    if ":" in config.name:
        return imported(config.name, "data set")(config, split, limit)
    root = project_root() / config.root
    if config.name == "deadleaves":
        counts = {"train": config.train, "val": config.val, "test": config.test}
        with device.state().main_process_first():
            folder = deadleaves.generate(root, config.size, counts, config.seed)
        return CocoDataset(folder / split, deadleaves.annotation_file(folder, split), limit)
    if not config.splits:
        raise InputError(f"data set {config.name!r} has no splits; give them, or take deadleaves")
    files, names = _split(config, split), config.class_names
    if names == "COCO":
        names = [category["name"] for category in coco_categories()]
    limits = [each for each in (limit, files.limit) if each is not None]
    return CocoDataset(
        root / files.images,
        files.annotations and root / files.annotations,
        limit=min(limits, default=None),
        skip=files.skip,
        ids=read_ids(files.ids, root),
        classes=config.classes,
        class_names=names,
    )


def photographs(folder: str | Path | None = None) -> CocoDataset:
    """All images below a folder (from the project's root), or scikit-image's in colour."""
    if folder is not None:
        return CocoDataset(project_root() / folder)
    names = ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"]
    return CocoDataset(Path(skimage.data_dir), files=names)


def check(config: DataConfig, num_classes: int | None = None) -> None:
    """Looks for every file that the three splits of a profile need; of images, headers are read.
    Raises ValueError: names everything that is missing, broken or of another size than the
    annotations say, and splits that have not the `num_classes` of the task network."""
    if config.name == "deadleaves":
        return
    splits = deadleaves.SPLITS
    if problems := [f"{s}: {each}" for s in splits for each in _problems(config, s, num_classes)]:
        where = "data/README.md says where each file comes from and goes"
        raise InputError("\n- ".join([f"the data set is not whole; {where}", *problems]))


def _split(config: DataConfig, split: str) -> Split:
    return from_dict(Split, config.splits.get(split) or {}, f"data.splits.{split}")


def _problems(config: DataConfig, split: str, num_classes: int | None) -> Iterator[str]:
    try:
        files = None if ":" in config.name else _split(config, split)
        if files and files.annotations:  # without any, `create` says so
            folder = project_root() / config.root / files.images
            if not folder.is_dir():
                yield f"image folder {folder} does not exist"
        data = create(config, split)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    known = len(data.category_ids)
    if num_classes not in (None, known):
        yield f"there are {known} categories; the profile's task.num_classes is {num_classes}"
    if data.folder.is_dir() and (misfits := data.misfits()):
        what = "are missing, cannot be read, or are not of the size that the annotations state"
        hint = "; names hold backslashes, write /" if any("\\" in name for name in misfits) else ""
        yield f"{len(misfits):,} of {len(data):,} images {what}: {first_few(misfits)}{hint}"
