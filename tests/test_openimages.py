"""Open Images to COCO: files made in the official format, whole, broken, and stopped halfway."""

import json
import re
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from icmlib import cli, datasets
from icmlib.config import DataConfig
from icmlib.datasets import CocoDataset, openimages

ROOT = Path(__file__).parent.parent
HEADER = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
CLASSES = {
    "/m/01g317": "Person", "/m/04yx4": "Man", "/m/01yrx": "Cat", "/m/012xff": "Toothbrush",
    "/m/0cyf8": "Butterfly",
}  # fmt: skip
WIDTH, HEIGHT = 24, 16
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[4:12, 6:18] = True


def image_id(number: int) -> str:
    return f"{number:016x}"


class Official:
    """The folder of the validation split, as one has it after the downloads."""

    def __init__(self, root: Path):
        self.root, self.rows = root, []
        for name in ("validation", "validation-masks"):
            (root / name).mkdir(parents=True)
        self.write_classes()
        self.write_rows()

    def write_classes(self, name="class-descriptions-boxable.csv", header=""):
        lines = [f"{label},{name}" for label, name in CLASSES.items()]
        (self.root / name).write_text(header + "\n".join(lines) + "\n")

    def image(self, number: int, size=(WIDTH, HEIGHT)) -> str:
        Image.new("RGB", size, (9, 9, 9)).save(self.root / "validation" / f"{image_id(number)}.jpg")
        return image_id(number)

    def mask(self, number: int, label="/m/01yrx", box=1, mask=MASK, mode="1") -> Path:
        """A row and its PNG; returns the path of the PNG."""
        name = f"{image_id(number)}_{label[1:].replace('/', '')}_{box:08x}.png"
        box = f"{box:08x},0.25,0.75,0.25,0.75,,0.4 0.4 1;0.9 0.9 0"
        self.write_rows(f"{name},{image_id(number)},{label},{box}")
        path = self.root / "validation-masks" / name
        Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(path)
        return path

    def write_rows(self, *rows: str):
        self.rows += rows
        path = self.root / "validation-annotations-object-segmentation.csv"
        path.write_text("\n".join([HEADER, *self.rows]) + "\n")

    def convert(self, *args) -> dict:
        return openimages.convert(self.root, "validation", *args)

    @property
    def target(self) -> Path:
        return self.root / "annotations" / "instances_validation.json"

    def read(self) -> dict:
        return json.loads(self.target.read_text())

    def dataset(self) -> CocoDataset:
        return CocoDataset(self.root / "validation", self.target)


@pytest.fixture(autouse=True)
def project(monkeypatch):
    """The table of the project, wherever the tests are started."""
    monkeypatch.setenv("ICM_ROOT", str(ROOT))


@pytest.fixture
def official(tmp_path) -> Official:
    """Two images: a cat, and a man and a toothbrush."""
    made = Official(tmp_path / "openimages")
    made.image(2)
    made.image(1)
    made.mask(2, "/m/01yrx")
    made.mask(1, "/m/04yx4", box=5)
    made.mask(1, "/m/012xff", box=7, mask=MASK.T[:HEIGHT, :WIDTH])
    return made


def left_out(report: dict) -> dict:
    """What is not zero, of the reasons."""
    assert report["rows"] == report["annotations"] + sum(
        report[reason] for reason in openimages.ROWS + openimages.MASKS
    )
    return {k: report[k] for k in openimages.ROWS + openimages.MASKS if report[k]}


# --- what comes out ----------------------------------------------------------------------


def test_result_is_read_by_the_data_set_class(official):
    """Masks, boxes and labels, those of torchvision's networks: person 1, cat 16, toothbrush 80."""
    report = official.convert()
    assert (report["images"], report["annotations"], left_out(report)) == (2, 3, {})
    dataset = official.dataset()
    assert len(dataset) == 2 and len(dataset.category_ids) == 80
    cat = dataset[1][1]
    np.testing.assert_array_equal(cat["masks"][0], MASK)
    assert cat["boxes"].tolist() == [[6, 4, 18, 12]] and cat["labels"].tolist() == [16]
    assert sorted(dataset[0][1]["labels"].tolist()) == [1, 80]


def test_result_is_coco_instances(official):
    """As pycocotools reads it; ids ascend; nothing is a crowd."""
    official.convert()
    reference = COCO(str(official.target))
    found = official.read()
    assert [image["id"] for image in found["images"]] == [1, 2]
    assert [image["open_images_id"] for image in found["images"]] == [image_id(1), image_id(2)]
    image = {"file_name": f"{image_id(1)}.jpg", "height": HEIGHT, "width": WIDTH}
    assert image.items() <= found["images"][0].items()
    assert [annotation["id"] for annotation in found["annotations"]] == [1, 2, 3]
    for annotation in found["annotations"]:
        mask = reference.annToMask(annotation)
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box
        assert isinstance(annotation["segmentation"]["counts"], str)


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("scale", [2, 1 / 2])
def test_mask_of_another_size_is_resized(official, mode, scale):
    """By nearest neighbour, to the image's size; MASK has even corners."""
    size = int(WIDTH * scale), int(HEIGHT * scale)
    other = np.array(Image.fromarray(MASK).resize(size, Image.Resampling.NEAREST))
    official.image(3)
    official.mask(3, mask=other, mode=mode)
    official.convert()
    segmentation = official.read()["annotations"][-1]["segmentation"]
    assert segmentation["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(coco_mask.decode(segmentation), MASK)


def test_any_value_but_zero_is_the_object(official):
    path = official.mask(2, box=9)
    Image.fromarray(MASK.astype(np.uint8)).save(path)  # 0 and 1, not 255
    official.convert()
    np.testing.assert_array_equal(official.dataset()[1][1]["masks"][1], MASK)


def test_classes_of_version_7_with_a_header(official):
    (official.root / "class-descriptions-boxable.csv").unlink()
    official.write_classes("oidv7-class-descriptions-boxable.csv", "LabelName,DisplayName\n")
    assert official.convert()["annotations"] == 3


@pytest.mark.parametrize(
    "text",
    [
        f"{image_id(2)}\n{image_id(7)}\n",
        f"validation/{image_id(2)}.jpg\n\n",
        f'ImageID,Subset,Title\n{image_id(2)},validation,"a, ""b"""\n',
        f"Subset,ImageID\nvalidation,{image_id(2)}\n",
    ],
    ids=["text", "paths", "official", "other column"],
)
def test_only_the_listed_images(official, tmp_path, text):
    (tmp_path / "list").write_text(text)
    report = official.convert(tmp_path / "list")
    assert left_out(report) == {"images_not_listed": 2}
    assert [image["open_images_id"] for image in official.read()["images"]] == [image_id(2)]


def test_command_line(official):
    done = CliRunner().invoke(cli.main, ["openimages", str(official.root), "validation"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["annotations"] == 3
    done = CliRunner().invoke(cli.main, ["openimages", str(official.root), "test"])
    assert done.exit_code == 2
    assert "no " in done.stderr


# --- the table ---------------------------------------------------------------------------


def test_table_has_classes_for_every_category():
    """And none twice; its names are spelt as Open Images does, one capital."""
    lines = (ROOT / "data" / "openimages_classes.csv").read_text().splitlines()
    table = openimages.read_table(ROOT / "data" / "openimages_classes.csv")
    assert len(table) == len(lines) - 1
    assert set(table.values()) == {each["id"] for each in openimages.categories()}
    assert all(re.fullmatch(r"[A-Z][a-z &]+", name) for name in table)
    assert table["Boy"] == 1 and table["Bull"] == 21 and table["Toothbrush"] == 90


def test_categories_are_those_of_coco(shared):
    path = shared / "coco" / "annotations" / "instances_val2017.json"
    own = json.loads(path.read_text())["categories"]
    assert openimages.categories() == [{"id": each["id"], "name": each["name"]} for each in own]


def test_table_with_a_wrong_id_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("open_images_name,coco_name,coco_id\nCat,cat,18\n")
    with pytest.raises(ValueError, match=r"t\.csv, line 2: .*'18'.* is no class and category"):
        openimages.read_table(tmp_path / "t.csv")


# --- what is broken ----------------------------------------------------------------------


def test_broken_rows_are_counted(official):
    """Too few and too many fields, no numbers, names that lead out of the folder."""
    good, image = official.rows[0], image_id(2)
    official.write_rows(
        "gone",
        good[:40],
        good + ",more",
        good.replace("0.75", "wide"),
        good.replace("0.75", "nan"),
        good.replace(".png", ""),
        "../" + good,
        good.replace(f",{image}", ",../1"),
        '"' + good,
    )
    report = official.convert()
    assert left_out(report) == {"broken_rows": 9} and report["annotations"] == 3


def test_stray_bytes_are_a_broken_row(official):
    path = official.root / "validation-annotations-object-segmentation.csv"
    path.write_bytes(path.read_bytes() + b"\xff\xfe\0\n\r\n")
    assert left_out(official.convert()) == {"broken_rows": 1}


def test_classes_that_do_not_count(official):
    """One that COCO has not, and one that nobody knows."""
    official.mask(1, "/m/0cyf8")
    official.mask(1, "/m/zzz")
    assert left_out(official.convert()) == {"classes_not_in_table": 1, "unknown_classes": 1}


def test_first_of_two_rows_counts(official):
    official.write_rows(official.rows[0].replace("/m/01yrx", "/m/01g317"))
    report = official.convert()
    assert left_out(report) == {"duplicate_masks": 1}
    assert official.dataset()[1][1]["labels"].tolist() == [16]


def test_files_that_are_missing_or_broken(official):
    """Each is counted by itself, and the rest is converted."""
    official.mask(1, box=11).unlink()
    official.mask(9, box=12)  # no such image
    official.mask(1, box=13, mask=np.zeros_like(MASK))
    official.mask(1, box=14).write_text("<html>404</html>")
    official.mask(8, box=15)
    (official.root / "validation" / f"{image_id(8)}.jpg").write_bytes(b"\xff\xd8")
    report = official.convert()
    assert left_out(report) == dict.fromkeys(openimages.MASKS, 1)
    assert report["annotations"] == 3 and len(official.dataset()) == 2
    assert report["examples"].keys() == set(openimages.MASKS)
    assert all(len(paths) == 1 for paths in report["examples"].values())
    with pytest.warns(UserWarning, match="is there already and left as it is; .* remove it"):
        assert official.convert() == report


def test_cut_or_flipped_mask_never_crashes(official):
    """Cut before its last pixel it is unreadable; with a byte changed it is that, or some mask."""
    path = official.mask(1, box=11)
    data = path.read_bytes()
    image = official.root / "validation" / f"{image_id(1)}.jpg"
    outcomes = Counter()
    for kept in range(len(data) - 24):
        path.write_bytes(data[:kept])
        assert openimages._encode(path, image)[0] == "unreadable_masks"
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 + place % 255]) + data[place + 1 :])
        outcomes[openimages._encode(path, image)[0]] += 1
    assert set(outcomes) <= {"unreadable_masks", "empty_masks", "annotations"}
    assert outcomes["unreadable_masks"] > len(data) / 2


def test_files_that_are_not_there_are_all_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        openimages.convert(tmp_path, "train", tmp_path / "list.csv")
    for name in ("class-descriptions-boxable.csv", "train-annotations-object-segmentation.csv",
                 "list.csv", "train-masks", "data/README.md"):  # fmt: skip
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("validation-annotations-object-segmentation.csv", "", "has no column MaskPath, Im"),
        (
            "validation-annotations-object-segmentation.csv",
            "a,b\n",
            "has no column .* but a, b: not the obj",
        ),
        (
            "validation-annotations-object-segmentation.csv",
            HEADER.replace("BoxID", "Box"),
            "has no column BoxID but",
        ),
        ("class-descriptions-boxable.csv", "<html>\n", r"holds \['<html>'\], not a label and a na"),
        ("class-descriptions-boxable.csv", "", "holds nothing"),
        ("class-descriptions-boxable.csv", '"' + "a" * 200_000, "is not a CSV file"),
    ],
    ids=["empty", "other columns", "one column", "html", "no classes", "no csv"],
)
def test_wrong_file_is_named(official, name, content, message):
    (official.root / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        official.convert()
    assert not list((official.root / "annotations").glob("*"))


def test_wrong_list_is_named(official, tmp_path):
    (tmp_path / "list").write_text(f"{image_id(1)}\n<html>\n")
    with pytest.raises(ValueError, match=r"list, line 2: \['<html>'\] holds no image id"):
        official.convert(tmp_path / "list")


def test_no_usable_mask_says_why(official):
    """And once the masks are there, the next call takes them."""
    masks = official.root / "validation-masks"
    masks.rename(official.root / "elsewhere")
    masks.mkdir()
    with pytest.raises(ValueError, match=r"no mask of .* can be used: .*'missing_masks': 3"):
        official.convert()
    assert not official.target.exists()
    masks.rmdir()
    (official.root / "elsewhere").rename(masks)
    assert official.convert()["annotations"] == 3


# --- stopped, and large ------------------------------------------------------------------


def many(root: Path, images: int, each: int = 10) -> Official:
    """Many masks: links to the same few pixels."""
    made = Official(root)
    first = made.root / "validation" / f"{made.image(0, (8, 8))}.jpg"
    mask = made.mask(0, mask=np.eye(8, dtype=bool))
    pattern = made.rows.pop().replace(image_id(0), "IMAGE").replace(f"{1:08x}", "BOX")
    for number in range(images):
        if number:
            first.with_name(f"{image_id(number)}.jpg").hardlink_to(first)
        for box in range(1, each + 1):
            row = pattern.replace("IMAGE", image_id(number)).replace("BOX", f"{box:08x}")
            made.rows.append(row)
            if number or box > 1:
                mask.with_name(row.split(",")[0]).hardlink_to(mask)
    made.write_rows("broken")
    return made


@pytest.mark.parametrize("place", ["_insert", "_encode", "_annotations"])
def test_stopped_conversion_goes_on_where_it_was(tmp_path, monkeypatch, place):
    """While rows are read, masks encoded, the JSON written: nothing looks whole, then the same
    bytes as undisturbed, and no mask is encoded twice but those of the batch."""
    monkeypatch.setattr(openimages, "BATCH", 8)
    whole, stopped = many(tmp_path / "whole", 3), many(tmp_path / "stopped", 3)
    whole.convert()
    original, calls = getattr(openimages, place), []

    def stops(*args):
        calls.append(args)
        if len(calls) == 21 or place == "_annotations":
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(openimages, place, stops)
        stopped.convert()
    assert not stopped.target.exists()
    encoded, encode = [], openimages._encode
    monkeypatch.setattr(openimages, "_encode", lambda *a: encoded.append(a) or encode(*a))
    report = stopped.convert()
    assert len(encoded) == {"_insert": 30, "_encode": 14, "_annotations": 0}[place]
    assert stopped.target.read_bytes() == whole.target.read_bytes()
    assert report == whole.convert()
    files = [path.name for path in stopped.target.parent.iterdir()]
    assert sorted(files) == ["instances_validation.json", "instances_validation.report.json"]


def test_whole_result_is_left_alone_and_other_inputs_are_refused(official, monkeypatch):
    first = official.convert()
    with monkeypatch.context() as patch:
        patch.setattr(openimages, "_encode", lambda *_: pytest.fail("converted again"))
        assert official.convert() == first
    official.mask(1, box=11)
    with pytest.raises(ValueError, match=r"validation\.json was made from other inputs; remove it"):
        official.convert()
    official.target.unlink()
    assert official.convert()["annotations"] == 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_masks(tmp_path, monkeypatch):
    """Five times as many masks, not even twice the peak (a list of them: three to five times)."""
    monkeypatch.setattr(openimages, "_sha256", lambda path: path.name)  # its buffer is larger

    def peak(made: Official) -> int:
        tracemalloc.start()
        made.convert()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = many(tmp_path / "small", 30), many(tmp_path / "large", 150)
    peak(many(tmp_path / "first", 1))  # what is only imported or cached once
    assert peak(large) < 2 * peak(small)


# --- what is missing of a data set -------------------------------------------------------


def splits(**changes) -> dict:
    files = {"images": "validation", "annotations": "annotations/instances_validation.json"}
    return {name: {**files, **changes.get(name, {})} for name in ("train", "val", "test")}


def test_check_is_content_with_what_is_whole(official):
    official.convert()
    datasets.check(DataConfig("coco", str(official.root), splits=splits()))
    datasets.check(DataConfig("deadleaves", "nowhere"))


def test_check_names_everything_that_is_missing(official):
    """Files, folders, images and splits, in one message."""
    official.convert()
    (official.root / "validation" / f"{image_id(1)}.jpg").unlink()
    absent = {"images": "test2017", "annotations": "annotations/none.json"}
    config = DataConfig("coco", str(official.root), splits=splits(test=absent))
    del config.splits["train"]["annotations"]
    with pytest.raises(ValueError) as error:
        datasets.check(config)
    lines = str(error.value).splitlines()
    assert "data/README.md" in lines[0] and len(lines) == 5
    assert lines[1] == "- train: the profile's data.splits names no annotations"
    assert re.fullmatch(rf"- val: 1 of 2 images are not in .*: {image_id(1)}\.jpg", lines[2])
    assert re.fullmatch(r"- test: image folder .*test2017 does not exist", lines[3])
    assert re.fullmatch(r"- test: annotation file .*none\.json does not exist.*", lines[4])


def test_check_says_once_what_several_splits_miss(official):
    """And tells an empty file from one that is not there."""
    official.convert()
    for number, content in ((1, None), (2, b"")):
        path = official.root / "validation" / f"{image_id(number)}.jpg"
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        datasets.check(DataConfig("coco", str(official.root), splits=splits()))
    missing, empty = str(error.value).splitlines()[1:]
    name = rf"{official.root}/validation: {image_id(1)[:-1]}"
    assert re.fullmatch(rf"- train, val, test: 1 of 2 images are not in {name}1\.jpg", missing)
    assert re.fullmatch(rf"- train, val, test: 1 of 2 images are empty files in {name}2.*", empty)


def test_check_finds_archives_that_are_not_unpacked_or_cut_short(tmp_path):
    with zipfile.ZipFile(tmp_path / "train2017.zip", "w") as archive:
        archive.writestr("train2017/1.jpg", b"picture")
    data = (tmp_path / "train2017.zip").read_bytes()
    (tmp_path / "val2017.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError) as error:
        datasets.check(DataConfig("coco", str(tmp_path), splits=splits()))
    whole, cut = str(error.value).splitlines()[-2:]
    assert whole == f"- {tmp_path / 'train2017.zip'} is there; is all of it unpacked?"
    stated = f"val2017.zip ({len(data) // 2:,} bytes) is cut short or no archive; get it again"
    assert cut.endswith(stated)


def test_check_looks_only_at_the_images_of_the_split(official):
    official.convert()
    (official.root / "validation" / f"{image_id(2)}.jpg").unlink()
    first = {"limit": 1}
    config = splits(train=first, val=first, test={"skip": 1})
    with pytest.raises(ValueError) as error:
        datasets.check(DataConfig("coco", str(official.root), splits=config))
    assert re.search(r"whole.*\n- test: 1 of 1 images are not in", str(error.value))


def test_check_is_content_with_a_part_of_coco(shared):
    files = {"images": "val2017", "annotations": "annotations/instances_val2017.json"}
    parts = dict.fromkeys(("train", "val", "test"), files)
    datasets.check(DataConfig("coco", str(shared / "coco"), splits=parts))
