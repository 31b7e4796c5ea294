"""One data set class for everything in COCO layout: a folder of images and an instances JSON."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torch.utils.data import Dataset
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from icmlib.datasets.annotations import first_few, read_annotations
from icmlib.io import UNREADABLE, InputError, did_you_mean, files_below, read_image
from icmlib.metrics.detection import encode_mask


def has_masks(coco: dict) -> bool:
    """Whether every annotation of a COCO dict has a mask."""
    return all(annotation.get("segmentation") for annotation in coco["annotations"])


def instance(category_id: int, mask: np.ndarray) -> dict:
    """A mask (H, W) bool as a COCO annotation, but for its ids."""
    encoded = encode_mask(mask)
    facts = {"category_id": category_id, "segmentation": encoded, "area": int(mask.sum())}
    return facts | {"bbox": rle.toBbox(encoded).tolist(), "iscrowd": 0}  # xywh, px


def read_ids(ids: list[int] | str | None, root: Path) -> list[int] | None:
    """Image ids as a split has them: a list, or a text file below `root`, one id per line."""
    if not isinstance(ids, str):
        return ids
    entries = (root / ids).read_text(encoding="utf-8-sig", errors="replace").split()
    if wrong := [entry for entry in entries if not entry.isdecimal()]:
        raise InputError(f"{root / ids}: {wrong[0][:60]!r} is no image id; one is like 139")
    return [int(entry) for entry in entries]


def select(
    images: list[dict], source: Path, ids: Iterable[int] | None, skip: int, limit: int | None
) -> list[dict]:
    """Of the images with these ids (None: all) `limit` after `skip`, in the order of the file,
    `source`. Raises ValueError: an id that is not listed, nothing left."""
    if not images:
        raise InputError(f"{source} has no images")
    if ids is not None:
        wanted, listed = set(ids), f"{source} lists {len(images):,} images"
        if unknown := sorted(wanted - {image["id"] for image in images}):
            what = f"{len(unknown):,} of the ids asked for are not among them"
            raise InputError(f"{listed}; {what}: {first_few(unknown)}")
        images = [image for image in images if image["id"] in wanted]
    if not (kept := images[skip:][:limit]):
        asked = f"of the {len(images):,} images asked for, skip: {skip} and limit: {limit}"
        raise InputError(f"{source}: {asked} leave none")
    return kept


def coco_categories() -> list[dict]:
    """COCO's 80 categories with their official ids, 1 to 90 with gaps."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    unused = ("__background__", "N/A")
    return [{"id": i, "name": name} for i, name in enumerate(names) if name not in unused]


def by_class(coco: dict, classes: dict[str, str], names: Sequence[str]) -> dict:
    """`annotations` and `categories` of the classes: category i is called `names[i - 1]`. Raises
    ValueError where names on either side do not match; says which, and the nearest."""
    theirs, unknown = {each["name"]: each["id"] for each in coco["categories"]}, []
    sides = (("category of the annotation file", classes, theirs),)
    sides += (("class of the network", classes.values(), names),)
    for what, asked, known in sides:
        wrong = [name for name in dict.fromkeys(asked) if name not in known]
        unknown += [f"{name!r} is no {what}{did_you_mean(name, known)}" for name in wrong]
    if unknown:
        raise InputError("\n- ".join(["data.classes does not match:", *unknown]))
    ids = {theirs[name]: 1 + names.index(to) for name, to in classes.items()}
    rows = [row for row in coco["annotations"] if row["category_id"] in ids]
    return {
        "annotations": [row | {"category_id": ids[row["category_id"]]} for row in rows],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }


class CocoDataset(Dataset):
    """Images with instance annotations.

    Args:
        images: folder of the image files.
        annotations: instances JSON; without one every image below `images` is taken, unlabelled.
        limit, skip: keep only so many images, after so many.
        files: without annotations, names of the images to take from the folder.
        ids: keep only the images with these ids; `skip` and `limit` count what that leaves.
        classes: category -> class, by name; others are left out. By default all as they are.
        class_names: all classes of the network, in its order; by default those that `classes` has.

    Each item is `(image, target)`: image (3, H, W) RGB float in [0, 1]; target a dict of
    `image_id` int, `boxes` (N, 4) xyxy in pixels, `labels` (N,) in 1..K (contiguous; see
    `category_ids`) and, if the data set is `with_masks`, `masks` (N, H, W) uint8. One box without a
    mask makes it a data set of boxes alone. Crowd regions, objects without area and those outside
    their image are in `ground_truth`, which evaluation reads, but not in the target, which training
    reads; `left_out` counts them. Raises as `read_annotations`, `by_class` and `select` do."""

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path | None = None,
        limit: int | None = None,
        files: list[str] | None = None,
        skip: int = 0,
        ids: Iterable[int] | None = None,
        classes: dict[str, str] | None = None,
        class_names: Sequence[str] = (),
    ):
        self.folder, source = Path(images), Path(annotations or images)
        self.upright = annotations is None  # annotations are of the image as it is stored
        if annotations:
            coco = read_annotations(source)
        else:
            names = files or [str(file.relative_to(source)) for file in files_below(source)]
            coco = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names, 1)]}
            coco |= {"annotations": [], "categories": []}
        if classes:
            coco |= by_class(coco, classes, class_names or list(dict.fromkeys(classes.values())))
        kept = select(coco["images"], source, ids, skip, limit)
        self._coco = COCO()  # by image: pycocotools' own way to make this index prints
        self._coco.imgs = {image["id"]: image for image in kept}
        own = [a for a in coco["annotations"] if a["image_id"] in self._coco.imgs]
        for annotation in own:
            self._coco.imgToAnns[annotation["image_id"]].append(annotation)
        self.ground_truth = {"info": {}} | coco | {"images": kept, "annotations": own}
        self.categories = {each["id"]: each["name"] for each in coco["categories"]}
        self.category_ids = sorted(self.categories)
        self.with_masks = has_masks(self.ground_truth)
        self.left_out = Counter(filter(None, (a["left_out"] for a in own)))

    def __len__(self) -> int:
        return len(self.ground_truth["images"])

    def path(self, index: int) -> Path:
        return self.folder / self.ground_truth["images"][index]["file_name"]

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image, in px, from the annotations or the files' headers."""
        return [self._size(index) for index in range(len(self))]

    def turned(self) -> list[str]:
        """Files that their EXIF orientation turns. Of annotated ones, check that the annotations
        are of the image as it is stored: that is how it is read."""
        names = [image["file_name"] for image in self.ground_truth["images"]]
        return [name for k, name in enumerate(names) if _orientation(self.path(k)) > 1]

    def misfits(self) -> list[str]:
        """Files that are missing, no images, or not of the size that the annotations state."""
        paths = []
        for index, image in enumerate(self.ground_truth["images"]):
            path, stated = self.path(index), (image.get("width"), image.get("height"))
            with contextlib.suppress(*UNREADABLE), Image.open(path) as file:
                if stated in ((None, None), file.size):
                    continue
            paths.append(str(path))
        return paths

    def _size(self, index: int) -> tuple[int, int]:
        image = self.ground_truth["images"][index]
        if "height" not in image:  # it is kept there: polygons are judged at this size
            with Image.open(self.path(index)) as file:
                size = file.size
            turned = self.upright and _orientation(self.path(index)) > 4
            image["height"], image["width"] = size if turned else size[::-1]
        return image["height"], image["width"]

    def image(self, index: int) -> torch.Tensor:
        """(3, H, W); raises ValueError where the annotations state another size."""
        image, (height, width) = read_image(self.path(index), self.upright), self._size(index)
        if image.shape[1:] != (height, width):
            sizes = f"{image.shape[2]}x{image.shape[1]} px; its annotations say {width}x{height}"
            raise InputError(f"image {self.path(index)} is {sizes}")
        return image

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        image, image_id = self.image(index), self.ground_truth["images"][index]["id"]
        usable = [a for a in self._coco.imgToAnns[image_id] if not a["left_out"]]
        boxes = torch.tensor([a["bbox"] for a in usable], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
        labels = [1 + self.category_ids.index(a["category_id"]) for a in usable]
        target = {"image_id": image_id, "boxes": boxes, "labels": torch.tensor(labels).long()}
        if self.with_masks:
            masks = np.array([self._coco.annToMask(a) for a in usable], np.uint8)
            target["masks"] = torch.from_numpy(masks.reshape(-1, *image.shape[1:]))
        return image, target


def _orientation(path: Path) -> int:
    """1: as it is stored; 5 to 8: height and width change places."""
    with Image.open(path) as file:
        return file.getexif().get(ExifTags.Base.Orientation, 1)
