"""Annotation files: COCO instances are checked as a whole and brought to one form.

After reading, every image has an `id` (int), a `file_name` and either both or none of `height` and
`width` (px); every annotation has `id`, `image_id`, `category_id`, `bbox` ([x, y, width, height] in
px, finite), `area`, `iscrowd` (0 or 1), `left_out` (why training does not see it, or "") and, where
it has a mask, `segmentation`: polygons that stay near the image, or run lengths of its size.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from icmlib.io import InputError

LARGEST = 65_535  # px of a side, as of a JPEG file
MIN_SIDE = 0.01  # px; detectors refuse smaller boxes, which have no area in float32
MALFORMED = (
    "segmentation is neither polygons (of 6 or more numbers, x and y in turns) nor whole run "
    "lengths"
)

Problems = dict[str, list]  # what is wrong -> ids of the images, annotations or categories


def read_annotations(path: str | Path) -> dict:
    """The instances JSON as a dict with `images`, `annotations` and `categories`.

    Raises ValueError: not JSON, or not sound COCO instances; names every kind of problem, how many
    there are and the first few ids of each.
    """
    coco = _parse(Path(path))
    checks = {"image": _images, "category": _categories, "annotation": _annotations}
    lines = [
        f"{name} {what}: {len(ids):,} (ids {first_few(ids)})"
        for name, check in checks.items()
        for what, ids in check(coco).items()
        if ids
    ]
    if lines:
        raise InputError("\n- ".join([f"annotation file {path} is not sound; correct it:", *lines]))
    return coco


def first_few(ids: Iterable) -> str:
    """Three of them, for a message that says how many there are."""
    ids = list(ids)
    return ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")


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
        if not _is_size([image.get("height"), image.get("width")]):
            image.pop("height", None), image.pop("width", None)  # they are read from the file
    no_text = [image.get("id") for image in images if not isinstance(image.get("file_name"), str)]
    return _ids(images) | {"file_name is no text": no_text}


def _is_size(sides) -> bool:
    whole = isinstance(sides, list) and list(map(type, sides)) == [int, int]
    return whole and all(0 < side <= LARGEST for side in sides)


def _categories(coco: dict) -> Problems:
    categories = coco["categories"]
    named = [each for each in categories if isinstance(each.get("name"), str) and each["name"]]
    twice = _twice(each["name"] for each in named)
    return _ids(categories) | {
        "has no name": [each.get("id") for each in categories if each not in named],
        "name is there twice": [each.get("id") for each in named if each["name"] in twice],
    }


def _ids(rows: list[dict]) -> Problems:
    ids = [row.get("id") for row in rows]
    return {
        "id is no whole number": [id for id in ids if type(id) is not int],
        "id is there twice": sorted(_twice(id for id in ids if type(id) is int)),
    }


def _twice(values: Iterable) -> set:
    return {value for value, count in Counter(values).items() if count > 1}


def _annotations(coco: dict) -> Problems:
    rows = coco["annotations"]
    sizes = {str(image.get("id")): _size(image) for image in coco["images"]}
    problems = {
        "image_id is of no image listed": _strangers(rows, "image_id", coco["images"]),
        "category_id is of no category listed": _strangers(rows, "category_id", coco["categories"]),
    }
    for row in rows:
        row.setdefault("iscrowd", 0)
        for what in _wrong(row, sizes.get(str(row.get("image_id")))):
            problems.setdefault(what, []).append(row.get("id"))
    problems |= _ids(rows)
    if not any(problems.values()):
        for row in rows:
            _complete(row, sizes[str(row["image_id"])])
    return problems


def _size(image: dict) -> list[int] | None:
    """[height, width], or None if the file does not state it."""
    return [image["height"], image["width"]] if "height" in image else None


def _strangers(rows: list[dict], key: str, listed: list[dict]) -> list:
    """Ids of the rows that name none of those listed."""
    known = {each["id"] for each in listed if type(each.get("id")) is int}
    return [r.get("id") for r in rows if type(r.get(key)) is not int or r[key] not in known]


def _wrong(row: dict, size: list[int] | None) -> Iterator[str]:
    """What is wrong with an annotation of an image of this size."""
    reach = max(size) if size else LARGEST  # px beyond the image, at most
    box, mask, area, crowd = (row.get(k) for k in ("bbox", "segmentation", "area", "iscrowd"))
    if not _are_numbers(box) or len(box) != 4:
        yield "bbox is not [x, y, width, height], four finite numbers"
    elif min(box[2:]) < 0:
        yield "bbox has a negative side"
    elif max(map(abs, box)) > 3 * reach:
        yield "bbox is far outside its image"
    if area is not None and not (_are_numbers([area]) and 0 <= area < 1e18):
        yield "area is no finite number of 0 or more"
    if type(crowd) is not int or crowd not in (0, 1):
        yield "iscrowd is neither 0 nor 1"
    if isinstance(mask, dict):
        yield from _wrong_runs(mask, size)
    elif mask is not None:
        yield from _wrong_polygons(mask, reach)


def _are_numbers(values) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {int, float}


def _wrong_polygons(mask, reach: int) -> Iterator[str]:
    polygons = mask if isinstance(mask, list) else [mask]
    if not all(_are_numbers(p) and len(p) >= 6 and len(p) % 2 == 0 for p in polygons):
        yield MALFORMED
    elif any(min(each) < -reach or max(each) > 2 * reach for each in mask):
        yield "segmentation reaches far outside its image"


def _wrong_runs(mask: dict, size: list[int] | None) -> Iterator[str]:
    """Whoever decodes run lengths of a larger mask than they state writes past its end."""
    stated, runs = mask.get("size"), mask.get("counts")
    if not _is_size(stated) or stated != (size or stated):
        yield "run lengths are of another size than the image"
        return
    runs = _runs(runs) if isinstance(runs, str) else runs
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not whole or sum(runs) != math.prod(stated):
        yield MALFORMED


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


def _complete(row: dict, size: list[int] | None) -> None:
    """Fills in what is missing, and marks what training leaves out."""
    x, y, width, height = row["bbox"]
    if row.get("area") is None:
        row["area"] = width * height
    row["left_out"] = ""
    if row["iscrowd"]:
        row["left_out"] = "crowd"
    elif min(width, height) < MIN_SIDE:
        row["left_out"] = "no area"
    elif size and (x + width <= 0 or y + height <= 0 or x >= size[1] or y >= size[0]):
        row["left_out"] = "outside its image"
