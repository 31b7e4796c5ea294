"""Annotation files: COCO instances are checked as a whole and brought to one form.

After reading, every image has an `id` (int), a `file_name` and either both or none of `height` and
`width` (px); every annotation has `id`, `image_id`, `category_id`, `bbox` ([x, y, width, height] in
px, finite), `area`, `iscrowd` (0 or 1), `left_out` (why training does not see it, or "") and, where
it has a mask, `segmentation`: polygons that stay near the image, or run lengths of its size.
"""

import contextlib
import gc
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from icmlib.io import InputError

LARGEST = 65_535  # px of a side, as of a JPEG file
MIN_SIDE = 0.01  # px; detectors refuse smaller boxes, which have no area in float32

Problems = dict[str, list]  # what is wrong -> ids of the images, annotations or categories


def read_annotations(path: str | Path) -> dict:
    """The instances JSON as a dict with `images`, `annotations` and `categories`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or not sound COCO instances; names every kind of problem, how many
            there are and the first few ids of each.
    """
    with _no_collection():
        coco = _parse(Path(path))
        problems = {
            f"{name} {what}": ids
            for name, check in CHECKS.items()
            for what, ids in check(coco).items()
            if ids
        }
    if problems:
        lines = [f"{what}: {len(ids):,} (ids {first_few(ids)})" for what, ids in problems.items()]
        raise InputError("\n- ".join([f"annotation file {path} is not sound; correct it:", *lines]))
    return coco


def first_few(ids: Iterable) -> str:
    """Three of them, for a message that says how many there are."""
    ids = list(ids)
    return ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")


@contextlib.contextmanager
def _no_collection():
    """Inside, Python does not look for garbage: JSON leaves none, and with COCO's millions of lists
    the search takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parse(path: Path) -> dict:
    if not path.exists():
        raise FileNotFoundError(
            f"annotation file {path} does not exist; data/README.md says where each data set goes"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        coco = json.loads(text, parse_constant=str)  # NaN becomes text, which is no number
    except (ValueError, RecursionError) as error:
        size = path.stat().st_size
        raise InputError(
            f"annotation file {path} ({size:,} bytes) is not valid JSON ({error}); get it again"
        ) from error
    for name in ("images", "annotations", "categories"):
        found = coco.get(name) if isinstance(coco, dict) else None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise InputError(f"annotation file {path} has no list of {name}: not COCO instances")
    if not coco["images"]:
        raise InputError(f"annotation file {path} lists no images")
    return coco


def _images(coco: dict) -> Problems:
    images = coco["images"]
    for image in images:
        sides = [image.get("height"), image.get("width")]
        if not all(type(side) is int and 0 < side <= LARGEST for side in sides):
            image.pop("height", None), image.pop("width", None)  # they are read from the file
    names = [image.get("file_name") for image in images]
    return _ids(images) | {
        "file_name is no text": [
            image.get("id") for image, name in zip(images, names) if not isinstance(name, str)
        ]
    }


def _categories(coco: dict) -> Problems:
    names = {
        k: category["name"]
        for k, category in enumerate(coco["categories"])
        if isinstance(category.get("name"), str) and category["name"]
    }
    twice = _twice(names.values())
    categories = [each.get("id") for each in coco["categories"]]
    return _ids(coco["categories"]) | {
        "has no name": [id for k, id in enumerate(categories) if k not in names],
        "name is there twice": [id for k, id in enumerate(categories) if names.get(k) in twice],
    }


def _ids(rows: list[dict]) -> Problems:
    ids = [row.get("id") for row in rows]
    if set(map(type, ids)) <= {int} and len(set(ids)) == len(ids):
        return {}
    whole = [id for id in ids if type(id) is int]
    wrong = [id for id in ids if type(id) is not int]
    return {"id is no whole number": wrong, "id is there twice": sorted(_twice(whole))}


def _twice(values: Iterable) -> set:
    return {value for value, count in Counter(values).items() if count > 1}


def _annotations(coco: dict) -> Problems:
    rows = coco["annotations"]
    if not rows:
        return {}
    boxes = _numbers([row.get("bbox") for row in rows], 4)
    areas = _numbers([0 if (area := row.get("area")) is None else area for row in rows])
    crowd = [row.setdefault("iscrowd", 0) for row in rows]
    size = _sizes(coco["images"], rows)  # 0 where it is not known
    reach = np.where(size.min(1) > 0, size.max(1), LARGEST)  # px beyond the image, at most
    malformed, far, other = _segmentations(rows, size, reach)
    problems = {
        "image_id is of no image listed": _unknown(rows, "image_id", coco["images"]),
        "category_id is of no category listed": _unknown(rows, "category_id", coco["categories"]),
        "bbox is not [x, y, width, height], four finite numbers": np.isnan(boxes).any(1),
        "bbox has a negative side": (boxes[:, 2:] < 0).any(1),
        "bbox lies in the first pixel; fractions of the image have to become px": (
            (boxes[:, :2] >= 0) & (boxes[:, :2] + boxes[:, 2:] < 1) & (boxes[:, 2:] > MIN_SIDE)
        ).all(1),
        "bbox is far outside its image": (np.abs(boxes) > 3 * reach[:, None]).any(1),
        "area is no finite number of 0 or more": ~(areas >= 0),
        "iscrowd is neither 0 nor 1": [type(c) is not int or c not in (0, 1) for c in crowd],
        "segmentation is neither polygons (of 6 or more numbers, x and y in turns) nor whole run "
        "lengths": malformed,
        "segmentation reaches far outside its image": far,
        "run lengths are of another size than the image": other,
    }
    found = {what: np.flatnonzero(bad) for what, bad in problems.items()}
    found = {what: [rows[k].get("id") for k in bad] for what, bad in found.items() if len(bad)}
    found |= _ids(rows)
    if not any(found.values()):
        _complete(rows, boxes, size)
    return found


def _sizes(images: list[dict], rows: list[dict]) -> np.ndarray:
    """(n, 2): height and width of the image of each annotation."""
    table = np.array([(i.get("height", 0), i.get("width", 0)) for i in images] + [(0, 0)])
    known = {image["id"]: k for k, image in enumerate(images) if type(image.get("id")) is int}
    ids = [row.get("image_id") for row in rows]
    return table[[known.get(id, -1) if type(id) is int else -1 for id in ids]]


def _unknown(rows: list[dict], key: str, listed: list[dict]) -> list[bool]:
    """Whether the row names none of those listed."""
    known = {each.get("id") for each in listed if type(each.get("id")) is int}
    values = [row.get(key) for row in rows]
    if set(map(type, values)) == {int} and known.issuperset(values):
        return [False]
    return [type(value) is not int or value not in known for value in values]


def _numbers(rows: list, *width: int) -> np.ndarray:
    """(n, *width) floats; rows that are not so many finite numbers are nan."""
    try:
        array = np.array(rows)
        if array.dtype.kind in "if" and array.shape == (len(rows), *width):
            return np.where(np.isfinite(array), array, np.nan)
    except ValueError:  # rows of several lengths
        pass
    array = np.full((len(rows), *width), np.nan)
    for k, row in enumerate(rows):
        numbers = row if width else [row]
        right = isinstance(numbers, list) and len(numbers) == math.prod(width)
        if right and all(map(_finite, numbers)):
            array[k] = row
    return array


def _finite(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def _segmentations(rows: list[dict], size: np.ndarray, reach: np.ndarray) -> tuple:
    """Which are malformed, reach far outside the image, or are run lengths of another size."""
    wrong, low, high = np.zeros((3, len(rows)))
    encoded = []
    for k, row in enumerate(rows):
        mask = row.get("segmentation")
        if type(mask) is dict:
            encoded.append(k)
        elif mask:
            try:
                least, most = min(map(min, mask)), max(map(max, mask))
                wrong[k] = any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask)
                low[k], high[k] = least + 0.0, most + 0.0  # text and lists cannot be added to
            except (TypeError, ValueError, OverflowError):  # no numbers, none at all, too long
                wrong[k] = True
        elif mask is not None and mask != []:
            wrong[k] = True
    other = np.zeros(len(rows), bool)
    if encoded:
        masks = [rows[k]["segmentation"] for k in encoded]
        stated = _numbers([mask.get("size") for mask in masks], 2)
        known = (size[encoded] > 0).all(1)
        other[encoded] = known & (stated != size[encoded]).any(1) | np.isnan(stated).any(1)
        whole = [_is_whole(m.get("counts"), n) for m, n in zip(masks, stated.prod(1))]
        wrong[encoded] = ~np.array(whole)
    return wrong > 0, (low < -reach) | (high > 2 * reach), other


def _is_whole(counts, pixels: float) -> bool:
    """Whether run lengths, as a list or compressed, are those of a mask of so many pixels: whoever
    decodes others writes past the end of the mask."""
    runs = _runs(counts) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    return whole and sum(runs) == pixels


def _runs(counts: str) -> list[int]:
    """COCO's compressed run lengths (rleFrString in its maskApi.c), or [] if they are none: five
    bits of a number per character; from the fourth number on, its difference to the last but one.
    """
    runs, number, bits = [], 0, 0
    for code in counts.encode("latin1", "replace"):
        code -= 48
        if not 0 <= code < 64 or bits > 30:  # numbers of 32 bits
            return []
        number |= (code & 31) << bits
        bits += 5
        if not code & 32:  # the last of a number; 16 is its sign
            number -= 1 << bits if code & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = bits = 0
    return [] if bits else runs


def _complete(rows: list[dict], boxes: np.ndarray, size: np.ndarray) -> None:
    """Fills in what is missing, and marks what training leaves out."""
    small = (boxes[:, 2:] < MIN_SIDE).any(1)
    end, start = boxes[:, :2] + boxes[:, 2:], boxes[:, :2]
    beside = (size > 0).all(1) & ((end <= 0) | (start >= size[:, ::-1])).any(1)
    for row, box, tiny, out in zip(rows, boxes.tolist(), small.tolist(), beside.tolist()):
        if row.get("area") is None:
            row["area"] = box[2] * box[3]
        reasons = {"crowd": row["iscrowd"], "no area": tiny, "outside its image": out}
        row["left_out"] = next((reason for reason, is_so in reasons.items() if is_so), "")


CHECKS = {"image": _images, "category": _categories, "annotation": _annotations}
