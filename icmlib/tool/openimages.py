"""Open Images V6 instance masks as COCO instances, in COCO's 80 categories.

The official files are read from one folder; data/README.md says which, and where from.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from icmlib.datasets.coco import coco_categories, instance
from icmlib.io import UNREADABLE, InputError, project_file, write


def convert(root: str | Path, split: str, image_list: str | Path | None = None) -> dict:
    """Write `<root>/annotations/instances_<split>.json`, whole or not at all, of a split `train`,
    `validation` or `test`; only of the images in `image_list`, an official CSV or any text with
    their ids, if there is one.

    An image is in it if at least one of its masks is: Open Images annotates only the classes that
    were verified in an image, so one without masks is not known to be empty.

    Returns the report, also in `instances_<split>.report.json`: how many `rows` there were, how
    many `annotations` and `images` they gave, and for each reason that left out rows how many, with
    three `examples`. Raises FileNotFoundError, ValueError: an input is missing, or another file
    than its name says.
    """
    root = Path(root)
    files = _inputs(root, split, image_list)
    rows = _read_rows(files, root / split)
    coco = _instances(rows, root, split)
    left_out = rows[rows.reason != ""].groupby("reason").MaskPath
    report = {"rows": len(rows)} | {each: len(coco[each]) for each in ("annotations", "images")}
    report |= {reason: len(masks) for reason, masks in left_out}
    report["examples"] = {reason: list(masks[:3]) for reason, masks in left_out}
    if not coco["annotations"]:
        raise InputError(f"no mask of {files['masks']} can be used: {report}")
    texts = {"report.json": json.dumps(report, indent=2), "json": json.dumps(coco)}
    for suffix, text in texts.items():
        write(root / "annotations" / f"instances_{split}.{suffix}", text)
    return report


def _inputs(root: Path, split: str, image_list: str | Path | None) -> dict[str, Path]:
    """The files that are read; raises FileNotFoundError for files and folders that are missing."""
    classes = root / "class-descriptions-boxable.csv"
    classes = next(root.glob(f"*{classes.name}"), classes)  # V7's begins with oidv7-
    files = {"classes": classes, "masks": root / f"{split}-annotations-object-segmentation.csv"}
    if image_list:
        files["list"] = Path(image_list)
    needed = [*files.values(), root / split, root / f"{split}-masks"]
    if missing := ", no ".join(str(path) for path in needed if not path.exists()):
        where = "data/README.md says where each comes from"
        raise FileNotFoundError(f"Open Images: no {missing}; {where}")
    return files


def _read_csv(path: Path, **options) -> pd.DataFrame:
    """The table as text; raises ValueError where it is another file than its name says."""
    try:
        return pd.read_csv(path, dtype=str, na_filter=False, encoding_errors="replace", **options)
    except ValueError as error:  # pandas' own are ValueErrors
        raise InputError(f"{path} is not what its name says ({error}); get it again") from error


def _read_labels(path: Path) -> pd.Series:
    """Label (`/m/01g317`) -> id of COCO's category; NaN for a class that the table has not."""
    classes = _read_csv(path, names=["label", "open_images_name"])
    if not classes.label.str.startswith("/m/").any():
        raise InputError(f"{path} holds no label like /m/01g317; get it again")
    table = pd.read_csv(project_file("data/openimages_classes.csv"))
    joined = classes.merge(table, "left", "open_images_name")
    return joined.drop_duplicates("label").set_index("label").coco_id


def _read_list(path: Path) -> set[str]:
    """The image ids, 16 hexadecimal digits each, of an official CSV or of any other text."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        ids = {image for line in lines for image in re.findall(r"\b[0-9a-f]{16}\b", line)}
    if not ids:
        raise InputError(f"image list {path} holds no image id; one is like 000a1249af2bc5f0")
    return ids


def _read_rows(files: dict[str, Path], images: Path) -> pd.DataFrame:
    """The list of masks, each with its COCO `category` and the `reason` to leave it out, or ""."""
    columns = ["MaskPath", "ImageID", "LabelName"]
    rows = _read_csv(files["masks"], usecols=columns, index_col=False, quoting=csv.QUOTE_NONE)
    labels = _read_labels(files["classes"])
    rows["category"] = rows.LabelName.map(labels)
    listed = _read_list(files["list"]) if "list" in files else rows.ImageID
    is_whole = rows.MaskPath.str.fullmatch(r"[\w.-]+\.png") & (rows.LabelName != "")
    wrong = {  # the first that holds counts
        "broken_rows": ~is_whole,
        "unknown_classes": ~rows.LabelName.isin(labels.index),
        "classes_not_in_table": rows.category.isna(),
        "images_not_listed": ~rows.ImageID.isin(listed),
        "missing_images": ~rows.ImageID.isin([path.stem for path in images.glob("*.jpg")]),
    }
    rows["reason"] = np.select(list(wrong.values()), list(wrong), "")
    usable = rows[rows.reason == ""]
    rows.loc[usable.index[usable.duplicated("MaskPath")], "reason"] = "duplicate_masks"
    return rows


def _instances(rows: pd.DataFrame, root: Path, split: str) -> dict:
    """COCO instances of the rows without a reason; those whose mask cannot be read get one."""
    images, annotations = {}, []
    usable = rows[rows.reason == ""].sort_values(["ImageID", "MaskPath"])
    for row in tqdm(usable.itertuples(), f"{split} masks", len(usable)):
        name = f"{row.ImageID}.jpg"
        mask = _read_mask(root / f"{split}-masks" / row.MaskPath, root / split / name)
        if isinstance(mask, str):
            rows.loc[row.Index, "reason"] = mask
            continue
        image = {"id": len(images) + 1, "file_name": name, "open_images_id": row.ImageID}
        image |= dict(zip(("height", "width"), mask.shape))
        ids = {"id": len(annotations) + 1, "image_id": images.setdefault(name, image)["id"]}
        annotations.append(ids | instance(int(row.category), mask))
    info = {"description": f"Open Images V6, {split}, in COCO's categories"}
    coco = {"info": info, "images": list(images.values()), "annotations": annotations}
    return coco | {"categories": coco_categories()}


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
