"""What of a downloaded data set is not there: all of it in one message, not file by file."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from icmlib.config import DataConfig, project_root
from icmlib.datasets.coco import read_annotations

NAMED = 3  # of the missing images


def check(config: DataConfig) -> None:
    """Look for every file that the three splits of a profile need; dead leaves need none.

    Raises:
        ValueError: names everything that is missing.
    """
    if config.name != "coco":
        return
    read = lru_cache(maxsize=None)(read_annotations)  # train and val may share one file
    root = project_root() / config.root
    problems = [
        f"{split}: {problem}"
        for split in ("train", "val", "test")
        for problem in _split_problems(root, config.splits.get(split), read)
    ]
    if problems:
        raise ValueError(
            "the data set is not whole; data/README.md says where each file goes\n- "
            + "\n- ".join(problems)
        )


def _split_problems(root: Path, files: dict | None, read) -> Iterator[str]:
    unnamed = [key for key in ("images", "annotations") if key not in (files or {})]
    if unnamed:
        yield f"the profile's data.splits names no {' and no '.join(unnamed)}"
        return
    folder = root / files["images"]
    if not folder.is_dir():
        yield f"image folder {folder} does not exist"
    try:
        listed = read(root / files["annotations"])["images"]
    except (FileNotFoundError, ValueError) as error:
        yield str(error)
        return
    if folder.is_dir():
        yield from _image_problems(folder, _used(listed, files))


def _used(listed: list[dict], files: dict) -> list[dict]:
    """Those that `skip` and `limit` leave."""
    return listed[files.get("skip", 0) :][: files.get("limit")]


def _image_problems(folder: Path, images: list[dict]) -> Iterator[str]:
    if not images:
        yield "skip and limit leave no images"
    missing = [each["file_name"] for each in images if not (folder / each["file_name"]).is_file()]
    if missing:
        more = ", ..." if len(missing) > NAMED else ""
        yield (
            f"{len(missing):,} of {len(images):,} images are not in {folder}: "
            f"{', '.join(missing[:NAMED])}{more}"
        )
