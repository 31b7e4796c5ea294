"""Open Images V6 instance masks as COCO instances, in COCO's 80 categories.

Read are the official files below one folder (data/README.md says which, and where from):

    class-descriptions-boxable.csv               label -> name
    <split>-annotations-object-segmentation.csv  a row a mask
    <split>-masks/<MaskPath>                     PNG, not always of its image's size
    <split>/<ImageID>.jpg

Written are annotations/instances_<split>.json and, beside it, a report of what was left out.

In between, a work file (SQLite) holds one row a mask: what is in memory does not grow with their
number, and a stopped conversion goes on where it was.
"""

import csv
import hashlib
import json
import re
import sqlite3
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from faster_coco_eval.core import mask as rle
from PIL import Image
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from tqdm.auto import tqdm

from icmlib.config import project_root
from icmlib.datasets.coco import UNREADABLE
from icmlib.io import fingerprint, written

BOX = ("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax")
COLUMNS = ("MaskPath", "ImageID", "LabelName", "BoxID", *BOX)
ROWS = (  # why a row never became a mask
    "broken_rows",
    "unknown_classes",  # not in class-descriptions-boxable.csv
    "classes_not_in_table",  # data/openimages_classes.csv
    "images_not_listed",
    "duplicate_masks",  # the first row counts
)
MASKS = (  # why a mask never became an annotation
    "missing_images",
    "unreadable_images",
    "missing_masks",
    "unreadable_masks",
    "empty_masks",
)
BATCH = 256  # masks in one transaction: what a kill can cost
SCHEMA = """
    CREATE TABLE listed (image TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE left_out (reason TEXT PRIMARY KEY, number INTEGER);
    CREATE TABLE masks (
        path TEXT PRIMARY KEY, image TEXT, category INTEGER,
        outcome TEXT, height INTEGER, width INTEGER, counts TEXT
    ) WITHOUT ROWID;
    CREATE INDEX outcomes ON masks (outcome);
"""


def convert(root: str | Path, split: str, image_list: str | Path | None = None) -> dict:
    """Write `<root>/annotations/instances_<split>.json`; one that is whole is left alone.

    An image is in it where at least one of its masks is: Open Images annotates only the classes
    that were verified in an image, so one without masks is not known to be empty. Image ids follow
    the order of the Open Images ids, annotation ids that of the masks' file names.

    Args:
        root: folder of the official files.
        split: `train`, `validation` or `test`.
        image_list: only these images: the official CSV of a split's images, or a line an id; none:
            all that are in `<root>/<split>`.

    Returns:
        The report, also in `instances_<split>.report.json`: how many `rows` there were, how many
        `annotations` and `images` they gave, and for each reason how many rows did not, with the
        names of the first masks among the `examples`.

    Raises:
        FileNotFoundError: an input is not there.
        ValueError: an input is another file than its name says, no mask could be used, or the
            JSON was made from other inputs.
    """
    root = Path(root)
    files = _inputs(root, split, image_list)
    inputs = {name: path and _sha256(path) for name, path in files.items()}
    target = root / "annotations" / f"instances_{split}.json"
    if target.exists():
        report = _report_of(target, inputs)
        warnings.warn(
            f"{target} is there already and left as it is; after more images or masks have come, "
            f"remove it and run again",
            stacklevel=2,
        )
        return report
    with closing(_work_file(target, inputs, files)) as db:
        _encode_masks(db, root, split)
        counts = _count(db)
        if not counts["annotations"]:
            raise ValueError(f"no mask of {files['masks']} can be used: {counts}")
        with written(_report_file(target)) as half:
            report = {**counts, "examples": _examples(db), "inputs": inputs}
            half.write_text(json.dumps(report, indent=2))
        _write(db, target, f"Open Images V6, {split}, in COCO's categories")
    for each in target.parent.glob(f"*.{target.stem}.*.work*"):
        each.unlink()
    return _report_of(target, inputs)


def _inputs(root: Path, split: str, image_list: str | Path | None) -> dict[str, Path | None]:
    """The files that are read; raises FileNotFoundError for those and folders that are missing."""
    found = sorted(root.glob("*class-descriptions-boxable.csv"))  # V7's begins with oidv7-
    files = {
        "classes": found[0] if found else root / "class-descriptions-boxable.csv",
        "masks": root / f"{split}-annotations-object-segmentation.csv",
        "table": project_root() / "data" / "openimages_classes.csv",
        "list": None if image_list is None else Path(image_list),
    }
    needed = [*filter(None, files.values()), root / split, root / f"{split}-masks"]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"Open Images: no {', no '.join(missing)}; data/README.md says where each comes from"
        )
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _report_file(target: Path) -> Path:
    return target.with_suffix(".report.json")


def _report_of(target: Path, inputs: dict) -> dict:
    path = _report_file(target)
    report = json.loads(path.read_text()) if path.exists() else {}
    if report.get("inputs") != inputs:
        raise ValueError(f"{target} was made from other inputs; remove it to convert these")
    return report


# --- classes and rows ----------------------------------------------------------------------


def categories() -> list[dict]:
    """COCO's 80 categories with their official ids (1 to 90 with gaps), as torchvision's networks
    have them; those without a class in Open Images, too, so that labels keep their numbers."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [
        {"id": i, "name": name}
        for i, name in enumerate(names)
        if name not in ("__background__", "N/A")
    ]


def read_table(path: Path) -> dict[str, int]:
    """Name of an Open Images class -> id of COCO's category.

    Raises:
        ValueError: a line without a class, or with a category that is not COCO's by name and id.
    """
    known = {(each["name"], str(each["id"])) for each in categories()}
    table = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for line, row in enumerate(csv.DictReader(stream), 2):
            name = row.get("open_images_name")
            if not name or (row.get("coco_name"), row.get("coco_id")) not in known:
                raise ValueError(f"{path}, line {line}: {row} is no class and category of COCO")
            table[name] = int(row["coco_id"])
    return table


def _read_labels(path: Path, table: dict[str, int]) -> dict[str, int | None]:
    """Label (`/m/01g317`) -> category id; None for a class that is not in the table."""
    rows = [row for row in _csv_rows(path) if row[0] != "LabelName"]  # V7's header
    wrong = [row for row in rows if len(row) != 2 or not re.match(r"/[a-z]/", row[0])]
    if wrong or not rows:
        raise ValueError(f"{path} holds {(wrong or ['nothing'])[0]}, not a label and a name a line")
    return {label: table.get(name) for label, name in rows}


def _read_list(path: Path) -> Iterator[tuple[str]]:
    """Ids of the images of an official CSV (column ImageID), or of a text (`train/<id>`, too).

    Raises:
        ValueError: a line without an id.
    """
    column = 0
    for i, row in enumerate(_csv_rows(path)):
        if i == 0 and "ImageID" in row:
            column = row.index("ImageID")
            continue
        image = Path(row[column].strip()).stem if len(row) > column else ""
        if not re.fullmatch(r"\w+", image):
            raise ValueError(f"image list {path}, line {i + 1}: {row} holds no image id")
        yield (image,)


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows that are not empty; raises ValueError for what is no CSV."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        try:
            yield from filter(None, csv.reader(stream))
        except csv.Error as error:
            raise ValueError(f"{path} is not a CSV file ({error}); get it again") from None


def _mask_rows(path: Path) -> Iterator[dict | None]:
    """The rows by column; None for a broken one. Split by hand: fields are never quoted, and a
    stray quotation mark must not swallow the rows after it.

    Raises:
        ValueError: the first line is not that of the official file.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        header = stream.readline().strip().split(",")
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(missing)} but {', '.join(header)[:200]}: "
                f"not the object segmentations of Open Images"
            )
        for line in filter(str.strip, stream):
            fields = line.rstrip("\r\n").split(",")
            row = dict(zip(header, fields))
            yield row if len(fields) == len(header) and _is_sound(row) else None


def _is_sound(row: dict) -> bool:
    try:
        boxes = [float(row[column]) for column in BOX]
    except ValueError:
        return False
    names = re.fullmatch(r"[\w.-]+\.png", row["MaskPath"]) and re.fullmatch(r"\w+", row["ImageID"])
    return bool(names) and np.isfinite(boxes).all()


def _work_file(target: Path, inputs: dict, files: dict) -> sqlite3.Connection:
    """The work file of these inputs: a stopped conversion's, or a new one."""
    work = target.with_name(f".{target.stem}.{fingerprint(inputs)}.work")
    if not work.exists():
        with written(work) as half:
            half.unlink(missing_ok=True)  # of a killed process
            _read_rows(half, files)
    return sqlite3.connect(work)


def _read_rows(work: Path, files: dict[str, Path | None]) -> None:
    """A new work file with the masks to encode, and why the other rows are none."""
    labels = _read_labels(files["classes"], read_table(files["table"]))
    left_out = Counter()
    with closing(sqlite3.connect(work)) as db, db:
        db.executescript(SCHEMA)
        if files["list"]:
            db.executemany("INSERT OR IGNORE INTO listed VALUES (?)", _read_list(files["list"]))
        for row in tqdm(_mask_rows(files["masks"]), files["masks"].stem, unit=" rows"):
            left_out[_insert(db, row, labels, files["list"] is not None)] += 1
        del left_out[None]
        db.executemany("INSERT INTO left_out VALUES (?, ?)", left_out.items())


def _insert(db: sqlite3.Connection, row: dict | None, labels: dict, listed: bool) -> str | None:
    """Put a row into the work file; returns why not, if so."""
    if row is None:
        return "broken_rows"
    if row["LabelName"] not in labels:
        return "unknown_classes"
    if labels[row["LabelName"]] is None:
        return "classes_not_in_table"
    image = (row["ImageID"],)
    if listed and not db.execute("SELECT 1 FROM listed WHERE image = ?", image).fetchone():
        return "images_not_listed"
    made = db.execute(
        "INSERT OR IGNORE INTO masks (path, image, category) VALUES (?, ?, ?)",
        (row["MaskPath"], row["ImageID"], labels[row["LabelName"]]),
    )
    return None if made.rowcount else "duplicate_masks"


# --- masks ---------------------------------------------------------------------------------


def _encode_masks(db: sqlite3.Connection, root: Path, split: str) -> None:
    """Encode what has no outcome yet; what was missing may be there by now."""
    with db:
        db.execute("UPDATE masks SET outcome = NULL WHERE outcome LIKE 'missing%'")
    total, done = db.execute("SELECT COUNT(*), COUNT(outcome) FROM masks").fetchone()
    todo = "SELECT path, image FROM masks WHERE outcome IS NULL ORDER BY path LIMIT ?"
    store = "UPDATE masks SET outcome = ?, height = ?, width = ?, counts = ? WHERE path = ?"
    with tqdm(total=total, initial=done, desc=f"{split} masks") as bar:
        while batch := db.execute(todo, (BATCH,)).fetchall():
            with db:
                for path, image in batch:
                    made = _encode(root / f"{split}-masks" / path, root / split / f"{image}.jpg")
                    db.execute(store, (*made, path))
                    bar.update()


def _encode(mask: Path, image: Path) -> tuple[str, int | None, int | None, str | None]:
    """Outcome, and the image's height and width in px and the mask's run lengths if it is good."""
    if not image.exists():
        return "missing_images", None, None, None
    if not mask.exists():
        return "missing_masks", None, None, None
    try:
        with Image.open(image) as file:  # the header alone
            width, height = file.size
    except UNREADABLE:
        return "unreadable_images", None, None, None
    try:
        with Image.open(mask) as file:
            pixels = np.array(file.convert("L").resize((width, height), Image.Resampling.NEAREST))
    except UNREADABLE:
        return "unreadable_masks", None, None, None
    if not pixels.any():
        return "empty_masks", None, None, None
    encoded = rle.encode(np.asfortranarray(pixels > 0, dtype=np.uint8))
    return "annotations", height, width, encoded["counts"].decode()


def _count(db: sqlite3.Connection) -> dict[str, int]:
    """The report's numbers: rows = annotations + all that was left out."""
    found = dict(db.execute("SELECT outcome, COUNT(*) FROM masks GROUP BY outcome"))
    found.update(db.execute("SELECT reason, number FROM left_out"))
    images = "SELECT COUNT(DISTINCT image) FROM masks WHERE outcome = 'annotations'"
    return {
        "rows": sum(found.values()),
        "annotations": found.get("annotations", 0),
        "images": db.execute(images).fetchone()[0],
        **{reason: found.get(reason, 0) for reason in ROWS + MASKS},
    }


def _examples(db: sqlite3.Connection, most: int = 3) -> dict[str, list[str]]:
    """The first masks that each reason left out."""
    query = "SELECT path FROM masks WHERE outcome = ? ORDER BY path LIMIT ?"
    examples = {reason: [path for (path,) in db.execute(query, (reason, most))] for reason in MASKS}
    return {reason: paths for reason, paths in examples.items() if paths}


# --- the JSON ------------------------------------------------------------------------------


def _write(db: sqlite3.Connection, target: Path, description: str) -> None:
    """COCO instances, one image and one annotation at a time."""
    db.execute("CREATE TEMP TABLE numbered (id INTEGER PRIMARY KEY, image UNIQUE, height, width)")
    db.execute(
        "INSERT INTO numbered (image, height, width) SELECT DISTINCT image, height, width "
        "FROM masks WHERE outcome = 'annotations' ORDER BY image"
    )
    with written(target) as half, half.open("w") as out:
        out.write(f'{{"info": {json.dumps({"description": description})},\n"categories": [')
        _write_items(out, categories())
        out.write('],\n"images": [')
        _write_items(out, _images(db))
        out.write('],\n"annotations": [')
        _write_items(out, _annotations(db))
        out.write("]}\n")


def _write_items(out, items: Iterable[dict]) -> None:
    for i, item in enumerate(items):
        out.write((",\n" if i else "\n") + json.dumps(item))


def _images(db: sqlite3.Connection) -> Iterator[dict]:
    for i, image, height, width in db.execute("SELECT * FROM numbered ORDER BY id"):
        yield {
            "id": i,
            "file_name": f"{image}.jpg",
            "height": height,
            "width": width,
            "open_images_id": image,
        }


def _annotations(db: sqlite3.Connection) -> Iterator[dict]:
    rows = db.execute(
        "SELECT id, category, masks.height, masks.width, counts FROM masks "
        "JOIN numbered USING (image) WHERE outcome = 'annotations' ORDER BY path"
    )
    for i, (image, category, height, width, counts) in enumerate(rows, 1):
        encoded = {"size": [height, width], "counts": counts.encode()}
        yield {
            "id": i,
            "image_id": image,
            "category_id": category,
            "bbox": [float(v) for v in rle.toBbox(encoded)],  # xywh, px
            "area": int(rle.area(encoded)),
            "iscrowd": 0,
            "segmentation": {"size": [height, width], "counts": counts},
        }
