"""Annotation files: COCO instances are checked as a whole and brought to one form.

After reading, every image has an `id` (int), a `file_name` and either both or none of `height` and
`width` (px); every annotation has `id`, `image_id`, `category_id`, `bbox` ([x, y, width, height] in
px, finite), `area`, `iscrowd` (0 or 1), `left_out` (why training does not see it, or "") and, where
it has a mask, `segmentation`: polygons that stay near the image, or run lengths of its size.
"""

import gc
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pydantic_core import from_json

from icmlib.io import InputError

LARGEST = 65_535  # px of a side, as of a JPEG file
MIN_SIDE = 0.01  # px; detectors refuse smaller boxes, which have no area in float32


def read_annotations(path: str | Path) -> dict:
    """The instances JSON as a dict with `images`, `annotations` and `categories`. Raises
    FileNotFoundError; ValueError: not JSON, or not sound COCO instances; names every kind of
    problem, how many there are and the first few ids of each."""
    problems, collects = defaultdict(list), gc.isenabled()
    gc.disable()  # of millions of new objects none is garbage, and looking takes half of the time
    try:
        coco = _parse(Path(path))
        for what, id in _problems(coco):
            problems[what].append(id)
    finally:
        if collects:
            gc.enable()
    if problems:
        lines = [f"{what}: {len(ids):,} (ids {first_few(ids)})" for what, ids in problems.items()]
        raise InputError("\n- ".join([f"annotation file {path} is not sound; correct it:", *lines]))
    return coco


def first_few(ids: list) -> str:
    """Three of them, for a message that says how many there are."""
    return ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")


def _parse(path: Path) -> dict:
    if not path.exists():
        where = "data/README.md says where each data set goes"
        raise FileNotFoundError(f"annotation file {path} does not exist; {where}")
    try:
        coco = from_json(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))  # a byte order mark
    except ValueError as error:
        file = f"annotation file {path} ({path.stat().st_size:,} bytes)"
        raise InputError(f"{file} is not valid JSON ({error}); get it again") from error
    for name in ("images", "annotations", "categories"):
        found = coco.get(name) if isinstance(coco, dict) else None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise InputError(f"annotation file {path} has no list of {name}: not COCO instances")
    if not coco["images"]:
        raise InputError(f"annotation file {path} lists no images")
    return coco


def _problems(coco: dict) -> Iterator[tuple[str, object]]:
    """What is wrong, with the id of each that has it; what is sound is completed."""
    images, categories, rows = coco["images"], coco["categories"], coco["annotations"]
    for kind, each in (("image", images), ("category", categories), ("annotation", rows)):
        ids = [one.get("id") for one in each]
        yield from ((f"{kind} id is no whole number", id) for id in ids if type(id) is not int)
        counts = Counter(id for id in ids if type(id) is int)
        yield from ((f"{kind} id is there twice", id) for id, count in counts.items() if count > 1)
    for image in images:
        if not isinstance(image.get("file_name"), str):
            yield "image file_name is no text", image.get("id")
    names = Counter(each["name"] for each in categories if isinstance(each.get("name"), str))
    for category in categories:
        if not isinstance(category.get("name"), str) or not category["name"]:
            yield "category has no name", category.get("id")
        elif names[category["name"]] > 1:
            yield "category name is there twice", category.get("id")
    sizes = {image["id"]: _size(image) for image in images if type(image.get("id")) is int}
    known = {each["id"] for each in categories if type(each.get("id")) is int}
    for row in rows:
        for what in _annotation(row, sizes, known):
            yield f"annotation {what}", row.get("id")


def _size(image: dict) -> tuple[int, int] | None:
    """(height, width), or None: it will be read from the file."""
    size = image.get("height"), image.get("width")
    if all(type(side) is int and 0 < side <= LARGEST for side in size):
        return size
    image.pop("height", None), image.pop("width", None)
    return None


def _annotation(row: dict, sizes: dict[int, tuple | None], categories: set[int]) -> list[str]:
    """What is wrong with it; if nothing is, it is completed."""
    image_id, category_id = row.get("image_id"), row.get("category_id")
    size = sizes.get(image_id) if type(image_id) is int else None
    reach = max(size) if size else LARGEST  # px beyond the image, at most
    box, crowd, mask = row.get("bbox"), row.setdefault("iscrowd", 0), row.get("segmentation")
    x, y, width, height = box if _are_numbers(box, 4) else [math.nan] * 4
    area = 0 if row.get("area") is None else row["area"]
    malformed = far = other = False
    if isinstance(mask, dict):
        malformed, other = _run_lengths(mask, size)
    elif mask is not None:
        malformed, far = _polygons(mask, reach)
    problems = {
        "image_id is of no image listed": type(image_id) is not int or image_id not in sizes,
        "category_id is of no category listed": (
            type(category_id) is not int or category_id not in categories
        ),
        "bbox is not [x, y, width, height], four finite numbers": math.isnan(x),
        "bbox has a negative side": min(width, height) < 0,
        "bbox lies in the first pixel; fractions of the image have to become px": (
            min(x, y) >= 0 and max(x + width, y + height) < 1 and min(width, height) > MIN_SIDE
        ),
        "bbox is far outside its image": max(map(abs, (x, y, width, height))) > 3 * reach,
        "area is no finite number of 0 or more": not (_is_finite(area) and area >= 0),
        "iscrowd is neither 0 nor 1": type(crowd) is not int or crowd not in (0, 1),
        "segmentation is neither polygons (of 6 or more numbers, x and y in turns) nor whole run "
        "lengths": malformed,
        "segmentation reaches far outside its image": far,
        "run lengths are of another size than the image": other,
    }
    if not any(problems.values()):
        if row.get("area") is None:
            row["area"] = float(width * height)
        beside = size and (x >= size[1] or y >= size[0] or min(x + width, y + height) <= 0)
        reasons = {"crowd": crowd, "no area": min(width, height) < MIN_SIDE}
        reasons["outside its image"] = beside
        row["left_out"] = next((reason for reason, is_so in reasons.items() if is_so), "")
    return [what for what, is_so in problems.items() if is_so]


def _is_finite(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _are_numbers(values, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(_is_finite, values))


def _polygons(polygons, reach: int) -> tuple[bool, bool]:
    """Whether they are malformed, and whether they reach far outside the image."""
    try:
        numbers = list(chain.from_iterable(polygons))
        odd = any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons)
        malformed = odd or not isinstance(polygons, list) or not math.isfinite(sum(numbers))
        return malformed, bool(numbers) and (min(numbers) < -reach or max(numbers) > 2 * reach)
    except (TypeError, OverflowError):  # no lists, no numbers, too long
        return True, False


def _run_lengths(mask: dict, size: tuple[int, int] | None) -> tuple[bool, bool]:
    """Whether they are not those of a whole mask (whoever decodes such writes past its end), and
    whether that is of another size than the image."""
    counts, stated = mask.get("counts"), mask.get("size")
    runs = _runs(counts) if isinstance(counts, str) else counts
    pixels = math.prod(stated) if _are_numbers(stated, 2) else math.nan
    is_whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    is_other = math.isnan(pixels) or (size is not None and tuple(stated) != size)
    return not is_whole or sum(runs) != pixels, is_other


def _runs(counts: str) -> list[int]:
    """COCO's compressed run lengths (rleFrString in its maskApi.c), or [] if they are none: five
    bits of a number per character; from the fourth on, numbers are differences to the last but one.
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
