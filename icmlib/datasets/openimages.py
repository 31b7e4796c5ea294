"""Open Images V6 instance masks as COCO instances, in COCO's 80 categories.

The official files are read from one folder (data/README.md says which, and where from):

    class-descriptions-boxable.csv               label -> name
    <split>-annotations-object-segmentation.csv  one row per mask
    <split>-masks/<MaskPath>                     PNG, not always of its image's size
    <split>/<ImageID>.jpg

The results are annotations/instances_<split>.json and a report of what was left out. Names of masks
and images are held in memory; run lengths go straight to the file.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from icmlib.datasets.coco import coco_categories, instance
from icmlib.io import UNREADABLE, InputError, project_root, written


def convert(root: str | Path, split: str, image_list: str | Path | None = None) -> dict:
    """Write `<root>/annotations/instances_<split>.json`, whole or not at all.

    An image is in it if at least one of its masks is: Open Images annotates only the classes that
    were verified in an image, so one without masks is not known to be empty. Image ids follow the
    order of the Open Images ids, annotation ids that of the masks' file names.

    Args:
        root: folder of the official files.
        split: `train`, `validation` or `test`.
        image_list: only these images: an official CSV, or a text with one id per line.

    Returns:
        The report, also in `instances_<split>.report.json`: how many `rows` there were, how many
        `annotations` and `images` they gave, and for each reason that left out rows (as
        `missing_masks`) how many, with the first three of the masks among the `examples`.

    Raises:
        FileNotFoundError: an input is not there.
        ValueError: an input is another file than its name says, or no mask could be used.
    """
    root = Path(root)
    files = _inputs(root, split, image_list)
    target = root / "annotations" / f"instances_{split}.json"
    report = {"rows": 0, "annotations": 0, "images": 0, "examples": {}}
    masks = _read_masks(files, root / split, report)
    with written(target) as half:
        _write(half, masks, root, split, report)
        if not report["annotations"]:
            raise InputError(f"no mask of {files['masks']} can be used: {report}")
        with written(target.with_suffix(".report.json")) as half_report:
            half_report.write_text(json.dumps(report, indent=2), "utf-8")
    return report


def _inputs(root: Path, split: str, image_list: str | Path | None) -> dict[str, Path]:
    """The files that are read; raises FileNotFoundError for files and folders that are missing."""
    name = "class-descriptions-boxable.csv"
    (classes,) = [*root.glob(f"*{name}")][:1] or [root / name]  # V7's begins with oidv7-
    files = {"classes": classes, "masks": root / f"{split}-annotations-object-segmentation.csv"}
    if image_list:
        files["list"] = Path(image_list)
    needed = [*files.values(), root / split, root / f"{split}-masks"]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"Open Images: no {', no '.join(missing)}; data/README.md says where each comes from"
        )
    return files


def _read_csv(path: Path, **options) -> Iterator[pd.DataFrame]:
    """The table in chunks; raises ValueError where it is another file than its name says."""
    strings = {"dtype": str, "na_filter": False, "encoding_errors": "replace"}
    try:
        yield from pd.read_csv(path, **strings, **{"chunksize": 100_000, **options})
    except ValueError as error:  # pandas' own are ValueErrors
        raise InputError(f"{path} is not what its name says ({error}); get it again") from error


def _read_labels(path: Path) -> pd.Series:
    """Label (`/m/01g317`) -> id of COCO's category; NaN for a class that the table has not."""
    classes = pd.concat(_read_csv(path, names=["label", "open_images_name"]))
    if not classes.label.str.startswith("/m/").any():
        raise InputError(f"{path} holds no label like /m/01g317; get it again")
    table = pd.read_csv(project_root() / "data" / "openimages_classes.csv")
    joined = classes.merge(table, "left", "open_images_name")
    return joined.drop_duplicates("label").set_index("label").coco_id


def _read_list(path: Path) -> set[str]:
    """The image ids, 16 hexadecimal digits each, of an official CSV or of any other text."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        ids = {image for line in lines for image in re.findall(r"\b[0-9a-f]{16}\b", line)}
    if not ids:
        raise InputError(f"image list {path} holds no image id; one is like 000a1249af2bc5f0")
    return ids


def _read_masks(files: dict[str, Path], images: Path, report: dict) -> pd.DataFrame:
    """The masks to encode, in order of image and mask; the other rows go into the report."""
    labels = _read_labels(files["classes"])
    listed = _read_list(files["list"]) if "list" in files else None
    there = {path.stem for path in images.glob("*.jpg")}
    columns = ["MaskPath", "ImageID", "LabelName"]
    layout = {"usecols": columns, "index_col": False, "quoting": csv.QUOTE_NONE}
    kept = []
    for rows in _read_csv(files["masks"], **layout):
        rows["category"] = rows.LabelName.map(labels)
        is_whole = rows.MaskPath.str.fullmatch(r"[\w.-]+\.png") & (rows.LabelName != "")
        wrong = {  # the first that holds counts
            "broken_rows": ~is_whole,
            "unknown_classes": ~rows.LabelName.isin(labels.index),
            "classes_not_in_table": rows.category.isna(),
            "images_not_listed": listed is not None and ~rows.ImageID.isin(listed),
            "missing_images": ~rows.ImageID.isin(there),
        }
        reasons = np.select(list(wrong.values()), list(wrong), "")
        for reason in wrong:
            _leave_out(report, reason, rows.MaskPath[reasons == reason])
        report["rows"] += len(rows)
        kept.append(rows[reasons == ""])
    masks = pd.concat(kept)
    again = masks.duplicated("MaskPath")
    _leave_out(report, "duplicate_masks", masks.MaskPath[again])
    return masks[~again].sort_values(["ImageID", "MaskPath"])


def _leave_out(report: dict, reason: str, masks: pd.Series | list[str]) -> None:
    if len(masks):
        report[reason] = report.get(reason, 0) + len(masks)
        report["examples"][reason] = [*report["examples"].get(reason, []), *masks[:3]][:3]


def _write(path: Path, masks: pd.DataFrame, root: Path, split: str, report: dict) -> None:
    """COCO instances, one annotation at a time."""
    images: dict[str, dict] = {}
    with path.open("w", encoding="utf-8") as out:
        out.write('{"annotations": [')
        for row in tqdm(masks.itertuples(), f"{split} masks", len(masks)):
            name = f"{row.ImageID}.jpg"
            mask = _read_mask(root / f"{split}-masks" / row.MaskPath, root / split / name)
            if isinstance(mask, str):
                _leave_out(report, mask, [row.MaskPath])
                continue
            height, width = mask.shape
            facts = {"file_name": name, "height": height, "width": width}
            facts |= {"id": len(images) + 1, "open_images_id": row.ImageID}
            image = images.setdefault(name, facts)
            out.write(",\n" if report["annotations"] else "\n")
            report["annotations"] += 1
            ids = {"id": report["annotations"], "image_id": image["id"]}
            out.write(json.dumps(ids | instance(int(row.category), mask)))
        info = {"description": f"Open Images V6, {split}, in COCO's categories"}
        rest = {"images": list(images.values()), "categories": coco_categories(), "info": info}
        out.write("],\n" + json.dumps(rest)[1:])
    report["images"] = len(images)


def _read_mask(mask: Path, image: Path) -> np.ndarray | str:
    """The mask (H, W) at the size of its image, or why there is none."""
    try:
        with Image.open(image) as file:  # the header alone
            size = file.size
    except UNREADABLE:
        return "unreadable_images"
    try:
        with Image.open(mask) as file:
            pixels = np.array(file.convert("L").resize(size, Image.Resampling.NEAREST)) > 0
    except FileNotFoundError:
        return "missing_masks"
    except UNREADABLE:
        return "unreadable_masks"
    return pixels if pixels.any() else "empty_masks"
