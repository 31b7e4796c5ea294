import copy
import json
import shutil
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle
from test_detection import indexed, pycocotools_figures

from icmlib import datasets
from icmlib.config import DataConfig
from icmlib.datasets import CocoDataset
from icmlib.datasets.annotations import read_annotations
from icmlib.datasets.coco import coco_categories
from icmlib.metrics import detection

NUMBERS = st.integers(-(10**12), 10**12) | st.floats() | st.sampled_from([0, 1, -1, 1e308, 10**30])
TEXT = st.sampled_from(["", "1", "0001", "disk", "NaN", "\u00e9\x00"])
VALUES = st.recursive(
    NUMBERS | TEXT | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=8,
)


def polygon(left: float, top: float, width: float, height: float) -> list[list[float]]:
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(height: int, width: int, compressed: bool) -> dict:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[5:20, 7:30] = 1
    coded = rle.encode(mask)
    if compressed:
        return {"size": [height, width], "counts": coded["counts"].decode()}
    ends = np.flatnonzero(np.diff(np.r_[0, mask.ravel("F").astype(int), -1]))
    return {"size": [height, width], "counts": np.diff(np.r_[0, ends]).tolist()}


def sound() -> dict:
    """Three images of 64x48 px with a polygon, run lengths compressed and not, and a crowd."""
    boxes = [[10, 12, 20, 16], [7, 5, 23, 15], [30.5, 20.25, 12, 11], [7, 5, 23, 15]]
    masks = [polygon(*boxes[0]), run_lengths(48, 64, True), polygon(*boxes[2])]
    masks += [run_lengths(48, 64, False)]
    size = {"height": 48, "width": 64}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in (1, 2, 3)],
        "annotations": [
            {"id": 10 + k, "image_id": 1 + k % 3, "category_id": 1 + k % 2, "iscrowd": int(k == 3)}
            | {"bbox": box, "area": box[2] * box[3], "segmentation": masks[k]}
            for k, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "disk"}, {"id": 2, "name": "square"}],
    }


def change(path: str, value) -> dict:
    """The sound file with one value changed: `annotations.0.bbox`; None takes it away."""
    coco = sound()
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = reduce(getitem, way, coco)
    if value is None:
        del place[last]
    else:
        place[last] = value
    return coco


def write(folder, coco) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps(coco))
    return path


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("annotations.0.segmentation", [[]], r"segmentation is neither .*: 1 \(ids 10\)"),
        ("annotations.0.segmentation", [1, 2, 3, 4, 5, 6], "segmentation is neither polygons"),
        ("annotations.0.segmentation", [[1, 2, 3, 4, 5, 6, 7]], "segmentation is neither"),
        ("annotations.0.segmentation", [[1, 2, 3, 4, 5, float("nan")]], "segmentation is nei"),
        ("annotations.0.segmentation", [[1, 2, 3e8, 4, 5, 6]], "segmentation reaches far outside"),
        ("annotations.0.segmentation", [[1, 2, 10**400, 4, 5, 6]], "segmentation is neither"),
        ("annotations.0.segmentation", "cat", "segmentation is neither polygons"),
        ("annotations.1.segmentation", run_lengths(64, 48, True), r"another size .*\(ids 11\)"),
        ("annotations.1.segmentation.counts", "U5:f0", "nor whole run lengths"),
        ("annotations.1.segmentation.counts", [48 * 64 + 5, -5], "nor whole run lengths"),
        ("annotations.0.image_id", 99, r"image_id is of no image listed: 1 \(ids 10\)"),
        ("annotations.0.image_id", "1", "image_id is of no image listed"),
        ("annotations.0.category_id", [1], "category_id is of no category listed"),
        ("annotations.0.bbox", [float("nan")] * 4, "bbox is not .* four finite numbers"),
        ("annotations.0.bbox", [1], "bbox is not .* four finite numbers"),
        ("annotations.0.bbox", None, "bbox is not .* four finite numbers"),
        ("annotations.0.bbox", [1, 2, -3, 4], "bbox has a negative side"),
        ("annotations.0.bbox", [1, 2, 3e5, 4], "bbox is far outside its image"),
        ("annotations.0.bbox", [0.1, 0.1, 0.3, 0.3], "bbox lies in the first pixel; fractions"),
        ("annotations.0.iscrowd", "0", "iscrowd is neither 0 nor 1"),
        ("annotations.0.area", "large", "area is no finite number"),
        ("annotations.0.id", 11, r"annotation id is there twice: 1 \(ids 11\)"),
        ("annotations.0.id", None, "annotation id is no whole number"),
        ("images.1.id", 1, r"image id is there twice: 1 \(ids 1\)"),
        ("images.1.id", "000002", r"image id is no whole number: 1 \(ids 000002\)"),
        ("images.1.file_name", None, r"image file_name is no text: 1 \(ids 2\)"),
        ("categories.1.id", 1, "category id is there twice"),
        ("categories.1.name", "disk", r"category name is there twice: 2 \(ids 1, 2\)"),
        ("categories.1.name", None, r"category has no name: 1 \(ids 2\)"),
        ("images", [], "lists no images"),
        ("annotations", {}, "has no list of annotations: not COCO instances"),
        ("annotations.0", 5, "has no list of annotations: not COCO instances"),
    ],
)
def test_what_is_not_sound_is_refused_by_name(tmp_path, place, value, message):
    with pytest.raises(ValueError, match=rf"annotation file .*instances.json[\s\S]*{message}"):
        read_annotations(write(tmp_path, change(place, value)))


def test_all_problems_come_in_one_message(tmp_path):
    coco = sound()
    for annotation in coco["annotations"]:
        annotation |= {"iscrowd": "0", "bbox": [0, 0, -1, 1]}
    coco["images"][0]["id"] = 3
    with pytest.raises(ValueError) as caught:
        read_annotations(write(tmp_path, coco))
    assert str(caught.value).splitlines()[1:] == [
        "- image id is there twice: 1 (ids 3)",
        "- annotation image_id is of no image listed: 2 (ids 10, 13)",
        "- annotation bbox has a negative side: 4 (ids 10, 11, 12, ...)",
        "- annotation iscrowd is neither 0 nor 1: 4 (ids 10, 11, 12, ...)",
    ]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"images": 1', "\udcff"])
def test_what_is_no_json_is_said_to_be_none(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"instances.json \([\d,]+ bytes\) is not valid JSON"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        ("annotations.0.area", None, {"area": 320}),
        ("annotations.0.iscrowd", None, {"iscrowd": 0}),
        ("annotations.0.iscrowd", 1, {"left_out": "crowd"}),
        ("annotations.0.bbox", [50.3, 40.3, 1e-6, 1e-6], {"left_out": "no area"}),
        ("annotations.0.bbox", [70, 10, 5, 5], {"left_out": "outside its image"}),
        ("annotations.0.segmentation", None, {"left_out": ""}),
    ],
)
def test_what_is_merely_odd_is_read_and_marked(tmp_path, place, value, found):
    row = read_annotations(write(tmp_path, change(place, value)))["annotations"][0]
    assert row.items() >= found.items()


@pytest.mark.parametrize("size", ["64", 64.0, 0, -3, 10**6])
def test_a_size_that_is_none_is_left_to_the_image(tmp_path, size):
    """And a byte order mark is no part of the file."""
    path = write(tmp_path, change("images.0.width", size))
    path.write_text("\ufeff" + path.read_text())
    image = read_annotations(path)["images"][0]
    assert image == {"id": 1, "file_name": "1.png"}


def test_run_lengths_of_any_mask_are_whole(tmp_path, rng):
    """Compressed as pycocotools does it: of one pixel, of noise, of none, of all."""
    coco = change("annotations", [])
    for k, share in enumerate((0.0, 1.0, 0.5, 0.01, 0.99) * 8):
        mask = np.asfortranarray(rng.random((48, 64)) < share, np.uint8)
        coded = {"size": [48, 64], "counts": rle.encode(mask)["counts"].decode()}
        row = {"id": k, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
        coco["annotations"].append(row | {"segmentation": coded})
    assert len(read_annotations(write(tmp_path, coco))["annotations"]) == 40


def test_categories_become_classes_by_name(folder, tmp_path):
    """Two of them one class; labels are places among the network's classes."""
    path = write(tmp_path, sound())
    data = CocoDataset(folder, path, classes={"disk": "ball", "square": "ball"})
    assert data.categories == {1: "ball"}
    assert [len(data[k][1]["labels"]) for k in range(3)] == [1] * 3
    names = ["person", "square", "car"]
    data = CocoDataset(folder, path, classes={"square": "square"}, class_names=names)
    assert data.category_ids == [1, 2, 3] and data[1][1]["labels"].tolist() == [2]
    assert len(data) == 3 and len(data[0][1]["labels"]) == 0


def test_class_names_that_do_not_match_are_said(folder, tmp_path):
    classes, path = {"disc": "ball", "square": "cube"}, write(tmp_path, sound())
    with pytest.raises(ValueError) as caught:
        CocoDataset(folder, path, classes=classes, class_names=["balls", "cube"])
    assert str(caught.value).splitlines()[1:] == [
        "- 'disc' is no category of the annotation file (did you mean 'disk'?)",
        "- 'ball' is no class of the network (did you mean 'balls'?)",
    ]


def profile_data(folder, **changes) -> DataConfig:
    files = {"images": ".", "annotations": "instances.json"}
    splits = dict.fromkeys(("train", "val", "test"), files)
    return DataConfig("coco", str(folder), splits=splits, **changes)


def test_a_profile_names_classes(folder):
    write(folder, sound())
    data = datasets.create(profile_data(folder, classes={"disk": "car"}, class_names="COCO"), "val")
    assert len(data.category_ids) == 80 and {"id": 3, "name": "car"} in coco_categories()
    assert data[0][1]["labels"].tolist() == [3]
    with pytest.raises(ValueError, match=r"val: data.classes does not match:\n- 'disc'"):
        datasets.check(profile_data(folder, classes={"disc": "car"}))
    with pytest.raises(ValueError, match=r"there are 1 categories; .*num_classes is 80"):
        datasets.check(profile_data(folder, classes={"disk": "car"}), num_classes=80)


def test_backslashes_are_hinted_at(folder):
    write(folder, change("images.0.file_name", "sub\\1.png"))
    with pytest.raises(ValueError, match=r"1 of 3 images are missing, .*names hold backslashes"):
        datasets.check(profile_data(folder))
    with pytest.raises(FileNotFoundError, match=r"holds a backslash, write /"):
        CocoDataset(folder, folder / "instances.json").image(0)


def test_images_that_do_not_fit_are_named_at_the_door(folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "mine")
    write(folder, change("images.2.height", 63))
    with pytest.raises(ValueError, match=r"1 of 3 images .* are not of the size"):
        datasets.check(profile_data(folder))
    write(folder, change("images.2.height", None))
    datasets.check(profile_data(folder))
    next(folder.rglob("*.png")).write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"1 of 3 images are missing, cannot be read"):
        datasets.check(profile_data(folder))


def places(node, way=()):
    """Where there is a value in the file: all of them."""
    for key, each in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*way, key)
        if isinstance(each, dict | list):
            yield from places(each, (*way, key))


@st.composite
def mutants(draw):
    """The sound file with one to three values replaced, taken away, or doubled."""
    coco = sound()
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(places(coco))))
        place = reduce(getitem, way, coco)
        what = draw(st.sampled_from(["replace", "replace", "delete", "double"]))
        if what == "delete":
            del place[last]
        elif what == "double" and isinstance(place, list):
            place.insert(last, copy.deepcopy(place[last]))
        else:
            place[last] = draw(VALUES)
    return coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in (1, 2, 3):
        Image.new("RGB", (64, 48), (80 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(coco=mutants())
def test_any_file_is_read_or_refused(folder, tmp_path, coco):
    """Nothing else: what is read serves training, and gives the AP that pycocotools gives."""
    try:
        data = CocoDataset(folder, write(tmp_path, coco))
    except ValueError as error:
        assert "instances.json" in str(error)
        return
    for k in range(len(data)):
        try:
            image, target = data[k]
        except FileNotFoundError:
            return
        except ValueError as error:  # a size that is not the image's
            assert "image" in str(error)
            continue
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        assert len(sides) == len(target["labels"]) and (sides > 0).all()
        if data.with_masks:
            assert target["masks"].shape == (len(sides), *image.shape[1:])
    truth, found = data.ground_truth, []
    for k, row in enumerate(truth["annotations"]):
        box = {key: row[key] for key in ("image_id", "category_id", "bbox")}
        mask = {"segmentation": indexed(truth).annToRLE(row)} if data.with_masks else {}
        found += [box | mask | {"score": 0.9 - 0.1 * k}] * (not row["iscrowd"])
    for kind in ("bbox", "segm")[: 1 + data.with_masks] if found else ():
        ours = detection.average_precision(detection.match(truth, found, kind))["AP"]
        theirs, _ = pycocotools_figures(truth, found, kind)
        assert ours == pytest.approx(theirs, abs=1e-9) or (np.isnan(ours) and theirs == -1)
