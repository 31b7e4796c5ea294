"""One data set class for everything in COCO layout: a folder of images and an instances JSON."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image
from torch.utils.data import Dataset

from icmlib.datasets.annotations import first_few, read_annotations
from icmlib.io import IMAGE_SUFFIXES, read_image


def has_masks(coco: dict) -> bool:
    """Whether every annotation of a COCO dict has a mask."""
    return all(annotation.get("segmentation") for annotation in coco["annotations"])


def folder_annotations(folder: Path, names: list[str] | None = None) -> dict:
    """COCO dict without annotations for images of a plain folder: those named, or all below it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist")
    everything = (f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    files = [folder / name for name in names] if names else sorted(everything)
    if not files:
        raise ValueError(f"image folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    images = [{"id": i + 1, "file_name": str(f.relative_to(folder))} for i, f in enumerate(files)]
    return {"images": images, "annotations": [], "categories": []}


def read_ids(ids: list[int] | str | None, root: Path) -> list[int] | None:
    """Image ids as a profile's split has them: a list, or a text file below `root`, an id a line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither of both, an entry that is no id, or not one id.
    """
    if ids is None:
        return None
    if isinstance(ids, str):
        source = root / ids
        if not source.is_file():
            raise FileNotFoundError(f"list of image ids {source} does not exist")
        entries = source.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    elif isinstance(ids, list):
        source, entries = "ids", ids
    else:
        raise ValueError(f"ids is {ids!r}; give a list of image ids, or a file with an id a line")
    entries = [(i, str(entry).strip()) for i, entry in enumerate(entries, 1)]
    entries = [(i, entry) for i, entry in entries if entry]
    for i, entry in entries:
        if not re.fullmatch("[0-9]+", entry):
            raise ValueError(f"{source}, entry {i}: {entry[:60]!r} is no image id; one is like 139")
    if not entries:
        raise ValueError(f"{source} names no image id; without ids every image is taken")
    return [int(entry) for _, entry in entries]


def select(
    images: list[dict],
    source: str | Path,
    ids: Iterable[int] | None = None,
    skip: int = 0,
    limit: int | None = None,
) -> list[dict]:
    """Entries of the images with these ids (none: all), then of them `limit` after `skip`; in the
    order of the file, `source`.

    Raises:
        ValueError: an id that is not listed, or nothing is left.
    """
    if ids is not None:
        wanted = set(ids)
        unknown = sorted(wanted - {image["id"] for image in images})
        if unknown:
            raise ValueError(
                f"{source} lists {len(images):,} images; {len(unknown):,} of the ids asked for are "
                f"not among them: {first_few(unknown)}"
            )
        images = [image for image in images if image["id"] in wanted]
    kept = images[skip:][:limit]
    if not kept:
        raise ValueError(
            f"{source}: of the {len(images):,} images asked for, skip: {skip} and limit: {limit} "
            f"leave none"
        )
    return kept


class CocoDataset(Dataset):
    """Images with instance annotations.

    Args:
        images: folder of the image files.
        annotations: instances JSON; without one every image below `images` is taken, unlabelled.
        limit: keep only the first `limit` images.
        skip: leave out so many images before that, so that one file serves disjoint splits.
        files: without annotations, names of the images to take from the folder.
        ids: keep only the images with these ids; `skip` and `limit` count what that leaves.

    Each item is `(image, target)`: image (3, H, W) RGB float in [0, 1]; target a dict of
    `image_id` int, `boxes` (N, 4) xyxy in pixels, `labels` (N,) in 1..K (contiguous; see
    `category_ids`) and, of a data set `with_masks`, `masks` (N, H, W) uint8. Crowd regions and
    boxes without area are in `ground_truth`, which evaluation reads, but not in the target, which
    training reads. A data set is one of boxes alone as soon as one of its boxes has no mask.

    Raises:
        FileNotFoundError: no annotation file.
        ValueError: it is broken, or an annotation lacks what it needs.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path | None = None,
        limit: int | None = None,
        files: list[str] | None = None,
        skip: int = 0,
        ids: Iterable[int] | None = None,
    ):
        self.folder = Path(images)
        coco = (
            read_annotations(annotations) if annotations else folder_annotations(self.folder, files)
        )
        kept = select(coco["images"], annotations or images, ids, skip, limit)
        kept_ids = {image["id"] for image in kept}
        self.ground_truth = {
            "info": coco.get("info", {}),
            "images": kept,
            "annotations": [a for a in coco["annotations"] if a["image_id"] in kept_ids],
            "categories": coco["categories"],
        }
        self.category_ids = [c["id"] for c in sorted(coco["categories"], key=lambda c: c["id"])]
        self.categories = {c["id"]: c["name"] for c in coco["categories"]}
        self._labels = {category: i + 1 for i, category in enumerate(self.category_ids)}
        self._instances: dict[int, list[dict]] = {image["id"]: [] for image in kept}
        for annotation in self.ground_truth["annotations"]:
            self._instances[annotation["image_id"]].append(annotation)
        self.with_masks = has_masks(self.ground_truth)

    def __len__(self) -> int:
        return len(self.ground_truth["images"])

    def path(self, index: int) -> Path:
        return self.folder / self.ground_truth["images"][index]["file_name"]

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image, in px, from the annotations or the files' headers."""
        return [self._size(i, image) for i, image in enumerate(self.ground_truth["images"])]

    def _size(self, index: int, image: dict) -> tuple[int, int]:
        if "height" in image and "width" in image:
            return image["height"], image["width"]
        with Image.open(self.path(index)) as file:
            return file.height, file.width

    def image(self, index: int) -> torch.Tensor:
        """(3, H, W); raises ValueError where the annotations state another size."""
        image = read_image(self.path(index))
        stated = self._size(index, self.ground_truth["images"][index])
        if tuple(image.shape[1:]) != tuple(stated):
            raise ValueError(
                f"image {self.path(index)} is {image.shape[2]}x{image.shape[1]} px; its "
                f"annotations say {stated[1]}x{stated[0]}"
            )
        return image

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        image = self.image(index)
        image_id = self.ground_truth["images"][index]["id"]
        return image, {"image_id": image_id, **self._target(image_id, *image.shape[1:])}

    def _target(self, image_id: int, height: int, width: int) -> dict[str, torch.Tensor]:
        usable = [a for a in self._instances[image_id] if not a["left_out"]]
        boxes = torch.tensor([a["bbox"] for a in usable], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
        labels = [self._labels[a["category_id"]] for a in usable]
        target = {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64)}
        if self.with_masks:
            masks = [_decode(a["segmentation"], height, width) for a in usable]
            masks = np.array(masks, np.uint8).reshape(-1, height, width)
            target["masks"] = torch.from_numpy(masks)
        return target


def _decode(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Polygons, or run lengths compressed or not -> (H, W) uint8."""
    if isinstance(segmentation, list):
        return rle.decode(rle.merge(rle.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, height, width)
    return rle.decode(segmentation)
