"""What of a downloaded data set is not there: all of it in one message, not file by file."""

import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from icmlib.config import DataConfig
from icmlib.datasets.annotations import first_few, read_annotations
from icmlib.datasets.coco import read_ids, select
from icmlib.io import project_root


def check(config: DataConfig, num_classes: int | None = None) -> None:
    """Look for every file that the three splits of a profile need; dead leaves need none.

    Whether images can be read is not tried: there are too many.

    Args:
        num_classes: of the task network, where it is to know all categories of the data.

    Raises:
        ValueError: names everything that is missing or empty, and the archives that lie beside it.
    """
    if config.name != "coco":
        return
    read = lru_cache(maxsize=None)(read_annotations)  # train and val may share one file
    root = project_root() / config.root
    problems: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        for problem in _split_problems(root, config.splits.get(split) or {}, read, num_classes):
            problems.setdefault(problem, []).append(split)
    if problems:
        lines = [
            "the data set is not whole; data/README.md says where each file comes from and goes",
            *(f"{', '.join(splits)}: {problem}" for problem, splits in problems.items()),
            *_archives(root),
        ]
        raise ValueError("\n- ".join(lines))


def _split_problems(root: Path, files: dict, read, num_classes: int | None) -> Iterator[str]:
    unnamed = [key for key in ("images", "annotations") if key not in files]
    if unnamed:
        yield f"the profile's data.splits names no {' and no '.join(unnamed)}"
        return
    folder, annotations = root / files["images"], root / files["annotations"]
    if not folder.is_dir():
        yield f"image folder {folder} does not exist"
    try:
        coco = read(annotations)
        ids = read_ids(files.get("ids"), root)
        images = select(coco["images"], annotations, ids, files.get("skip", 0), files.get("limit"))
    except (OSError, ValueError) as error:
        yield str(error)
        return
    known = len(coco["categories"])
    if num_classes not in (None, known):
        ours = f"the profile's task.num_classes is {num_classes}"
        yield f"{annotations} has {known} categories; {ours}"
    if folder.is_dir():
        yield from _image_problems(folder, [image["file_name"] for image in images])


def _image_problems(folder: Path, names: list[str]) -> Iterator[str]:
    sizes = {n: path.stat().st_size if (path := folder / n).is_file() else None for n in names}
    missing = [name for name, size in sizes.items() if size is None]
    empty = [name for name, size in sizes.items() if size == 0]
    for some, what in ((missing, f"not in {folder}"), (empty, f"empty files in {folder}")):
        if some:
            yield f"{len(some):,} of {len(names):,} images are {what}: {first_few(some)}"


def _archives(root: Path) -> Iterator[str]:
    """What was downloaded and perhaps not unpacked, or not to its end."""
    for archive in sorted(root.glob("*.zip")):
        if zipfile.is_zipfile(archive):  # its directory is at its end
            yield f"{archive} is there; is all of it unpacked?"
        else:
            size = archive.stat().st_size
            yield f"{archive} ({size:,} bytes) is cut short or no archive; get it again"
