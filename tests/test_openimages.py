import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import done, icm
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from icmlib import datasets
from icmlib.config import DataConfig
from icmlib.datasets import CocoDataset
from icmlib.datasets.coco import coco_categories
from icmlib.tool import openimages

ROOT = Path(__file__).parent.parent
TABLE = "validation-annotations-object-segmentation.csv"
CLASSES = "class-descriptions-boxable.csv"
HEADER = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
LABELS = "/m/01g317,Person\n/m/04yx4,Man\n/m/01yrx,Cat\n/m/012xff,Toothbrush\n/m/0cyf8,Butterfly\n"
WIDTH, HEIGHT = 24, 16
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[4:12, 6:18] = True


def image_id(number: int) -> str:
    return f"{number:016x}"


class Official:
    """The folder of the validation split: an image of a cat, one of a man and a toothbrush."""

    def __init__(self, root: Path):
        self.root, self.rows = root, []
        self.target = root / "annotations" / "instances_validation.json"
        for name in ("validation", "validation-masks"):
            (root / name).mkdir(parents=True)
        (root / CLASSES).write_text(LABELS)
        for number in (2, 1):
            Image.new("RGB", (WIDTH, HEIGHT)).save(self.image(number))
        self.mask(2, "/m/01yrx")
        self.mask(1, "/m/04yx4")
        self.mask(1, "/m/012xff", mask=MASK.T[:HEIGHT, :WIDTH])

    def image(self, number: int) -> Path:
        return self.root / "validation" / f"{image_id(number)}.jpg"

    def mask(self, number: int, label="/m/01yrx", mask=MASK) -> Path:
        """A row and its PNG; returns the path of the PNG."""
        box = f"{len(self.rows):08x}"
        name = f"{image_id(number)}_{label[1:].replace('/', '')}_{box}.png"
        self.write_rows(f"{name},{image_id(number)},{label},{box},0.25,0.75,0.25,0.75,,0.4 0.4 1")
        path = self.root / "validation-masks" / name
        Image.fromarray(mask).save(path)
        return path

    def write_rows(self, *rows: str):
        self.rows += rows
        (self.root / TABLE).write_text("\n".join([HEADER, *self.rows]) + "\n")

    def convert(self, *args) -> dict:
        return openimages.convert(self.root, "validation", *args)

    def read(self) -> dict:
        return json.loads(self.target.read_text())

    def dataset(self) -> CocoDataset:
        return CocoDataset(self.root / "validation", self.target)


@pytest.fixture
def official(tmp_path) -> Official:
    return Official(tmp_path / "openimages")


def left_out(report: dict) -> dict:
    found = {reason: report[reason] for reason in report["examples"]}
    assert report["rows"] == report["annotations"] + sum(found.values())
    return found


def test_result_is_coco_instances(official):
    report = official.convert()
    assert (report["images"], report["annotations"], left_out(report)) == (2, 3, {})
    assert json.loads(official.target.with_suffix(".report.json").read_text()) == report
    reference, dataset = COCO(str(official.target)), official.dataset()
    size = {"height": HEIGHT, "width": WIDTH}
    for number, image in enumerate(official.read()["images"], 1):
        name = image_id(number)
        assert image == {"id": number, "file_name": f"{name}.jpg", "open_images_id": name, **size}
    for number, annotation in enumerate(official.read()["annotations"], 1):
        assert annotation["area"] == reference.annToMask(annotation).sum()
        assert (annotation["id"], annotation["iscrowd"]) == (number, 0)
    cat = dataset[1][1]
    np.testing.assert_array_equal(cat["masks"][0], MASK)
    assert cat["boxes"].tolist() == [[6, 4, 18, 12]] and cat["labels"].tolist() == [16]
    assert sorted(dataset[0][1]["labels"].tolist()) == [1, 80] and len(dataset.category_ids) == 80


@pytest.mark.parametrize("object_is", [255, 1])
@pytest.mark.parametrize("scale", [2, 1 / 2])
def test_mask_of_another_size_is_resized(official, object_is, scale):
    """By nearest neighbour, to the image's size; MASK has even corners. Any value but 0 counts."""
    size = int(WIDTH * scale), int(HEIGHT * scale)
    other = np.array(Image.fromarray(MASK).resize(size, Image.Resampling.NEAREST))
    Image.fromarray(other * np.uint8(object_is)).save(official.mask(2))
    assert official.convert()["annotations"] == 4
    segmentation = official.read()["annotations"][-1]["segmentation"]
    assert segmentation["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(coco_mask.decode(segmentation), MASK)


def test_classes_of_version_7_with_a_header(official):
    (official.root / CLASSES).unlink()
    (official.root / f"oidv7-{CLASSES}").write_text("LabelName,DisplayName\n" + LABELS)
    assert official.convert()["annotations"] == 3


@pytest.mark.parametrize(
    "text",
    [
        f"validation/{image_id(2)}.jpg\n\n{image_id(7)}\n",
        f'ImageID,Subset,Title\n{image_id(2)},validation,"a, ""b"""\n',
    ],
    ids=["text", "official"],
)
def test_only_the_listed_images(official, tmp_path, text):
    (tmp_path / "list").write_text(text)
    report = official.convert(tmp_path / "list")
    assert left_out(report) == {"images_not_listed": 2}
    assert [image["open_images_id"] for image in official.read()["images"]] == [image_id(2)]


def test_command_line(official):
    printed = done(icm("openimages", official.root, "validation"))
    assert json.loads(printed)["annotations"] == 3
    refused = icm("openimages", official.root, "test")
    assert refused.exit_code == 2 and "no " in refused.stderr


def test_table_has_classes_for_every_category(shared):
    """With COCO's names and ids; no class is there twice; one capital, as Open Images has it."""
    own = json.loads((shared / "coco" / "annotations" / "instances_val2017.json").read_text())
    known = {(each["id"], each["name"]) for each in own["categories"]}
    assert {(each["id"], each["name"]) for each in coco_categories()} == known
    table = pd.read_csv(ROOT / "data" / "openimages_classes.csv")
    assert set(zip(table.coco_id, table.coco_name)) == known
    assert table.open_images_name.is_unique
    assert table.open_images_name.str.fullmatch(r"[A-Z][a-z &]+").all()


def test_broken_rows_are_counted(official):
    """Cut short, out of the folder, a quotation mark, stray bytes: the rest is converted."""
    good = official.rows[0]
    official.write_rows("gone", good[:40], good.replace(".png", ""), "../" + good, '"' + good)
    path = official.root / TABLE
    path.write_bytes(path.read_bytes() + b"\xff\xfe\0\n\r\n")
    report = official.convert()
    assert left_out(report) == {"broken_rows": 6} and report["annotations"] == 3
    assert report["examples"]["broken_rows"][0] == "gone"


def test_rows_that_do_not_count(official):
    """Classes without a category, unknown ones, a second row of a mask; an extra field is none."""
    official.rows[0] += ",more"
    official.mask(1, "/m/0cyf8")
    official.mask(1, "/m/zzz")
    official.write_rows(official.rows[0].replace("/m/01yrx", "/m/01g317"))
    reasons = ("classes_not_in_table", "unknown_classes", "duplicate_masks")
    assert left_out(official.convert()) == dict.fromkeys(reasons, 1)
    assert official.dataset()[1][1]["labels"].tolist() == [16]


def test_files_that_are_missing_or_broken(official):
    official.mask(1).unlink()
    official.mask(9)  # no such image
    official.mask(1, mask=np.zeros_like(MASK))
    official.mask(1).write_text("<html>404</html>")
    cut = official.mask(1)
    cut.write_bytes(cut.read_bytes()[:-30])
    official.mask(8)
    official.image(8).write_bytes(b"\xff\xd8")
    reasons = ["missing_images", "missing_masks", "unreadable_images", "empty_masks"]
    assert left_out(official.convert()) == dict.fromkeys(reasons, 1) | {"unreadable_masks": 2}
    assert len(official.dataset()) == 2


def test_files_that_are_not_there_are_all_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        openimages.convert(tmp_path, "train", tmp_path / "list.csv")
    for name in (CLASSES, TABLE.replace("validation", "train"), "list.csv", "train-masks"):
        assert name in str(error.value)
    assert "data/README.md" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TABLE, "a,b\n", r"is not what its name says .*expected but not found: .*MaskPath"),
        (CLASSES, "<html>\n", "holds no label like /m/01g317; get it again"),
        ("list", "<html>\n", "holds no image id; one is like 000a1249af2bc5f0"),
    ],
    ids=["other columns", "html", "list"],
)
def test_wrong_file_is_named(official, name, content, message):
    (official.root / "list").write_text(image_id(1))
    (official.root / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        official.convert(official.root / "list")
    assert not official.target.parent.exists()


def test_no_usable_mask_says_why(official):
    official.convert()
    first = official.target.read_bytes()
    for mask in (official.root / "validation-masks").iterdir():
        mask.unlink()
    with pytest.raises(ValueError, match=r"no mask of .* can be used: .*'missing_masks': 3"):
        official.convert()
    assert official.target.read_bytes() == first


def test_check_names_everything_that_is_missing(official):
    official.convert()
    official.image(1).unlink()
    official.image(2).write_bytes(b"")
    files = {"images": "validation", "annotations": "annotations/instances_validation.json"}
    absent = {"images": "test2017", "annotations": "annotations/none.json"}
    splits = {"train": files, "val": files | {"limit": 1}, "test": absent}
    with pytest.raises(ValueError, match=r"not whole; data/README\.md") as error:
        datasets.check(DataConfig("coco", str(official.root), splits=splits))
    folder = re.escape(str(official.root / "validation"))
    expected = [
        rf"- train: 2 of 2 images are missing, .* state: {folder}/{image_id(1)}\.jpg, .*",
        rf"- val: 1 of 1 images are missing, .* state: {folder}/{image_id(1)}\.jpg",
        r"- test: image folder .*test2017 does not exist",
        r"- test: annotation file .*none\.json does not exist.*",
    ]
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == len(expected) and all(map(re.fullmatch, expected, lines))
    with pytest.raises(ValueError, match=r"- val: data\.splits\.val\.images is .*Field required"):
        datasets.check(DataConfig("coco", str(official.root)))
