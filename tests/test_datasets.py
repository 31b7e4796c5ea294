import hashlib
import json
import random
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import contents, scenes_of
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from icmlib import datasets, tasks
from icmlib.config import DataConfig, TaskConfig
from icmlib.datasets import CocoDataset, deadleaves
from icmlib.evaluate import matched
from icmlib.io import read_image
from icmlib.training import task_network

COUNTS = {"train": 3, "val": 2, "test": 2}
GOLDEN = "68b3334d75fd2c95ec53449a225ec8972fb4d8764dca51fa9e11a3b1adf53c88"
FILES = {"images": "val2017", "annotations": "annotations/instances_val2017.json"}
POLYGON = [[1, 0, 3, 0, 3, 3, 1, 3]]
MASK = np.zeros((4, 6), np.uint8)
MASK[0:3, 1:3] = 1


def make(root, counts=COUNTS, seed=0, workers=0):
    return deadleaves.generate(root, 64, counts, seed, workers)


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    return make(tmp_path_factory.mktemp("leaves"))


def test_scene_is_the_published_one():
    """The reference results are of these very pixels."""
    pixels, instances = deadleaves.scene(0, "train", 0, 128)
    assert pixels.shape == (128, 128, 3) and pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == GOLDEN
    assert [i["category"] for i in instances] == ["triangle", "triangle", "star"]


def test_generation_is_byte_reproducible(leaves, tmp_path):
    again = make(tmp_path, workers=2)
    assert again.name == leaves.name
    assert contents(again) == contents(leaves)
    assert len(contents(leaves)) == sum(COUNTS.values()) + 3
    before = [f.stat().st_mtime_ns for f in leaves.rglob("*.png")]
    assert make(leaves.parent) == leaves  # what is complete is left alone
    assert [f.stat().st_mtime_ns for f in leaves.rglob("*.png")] == before


def test_splits_and_seeds_are_different_scenes():
    keys = [(s, split, i) for s in (0, 1) for split in deadleaves.SPLITS for i in (0, 1)]
    pictures = {deadleaves.scene(*key, 32)[0].tobytes() for key in keys}
    assert len(pictures) == len(keys)


def test_larger_set_extends_a_smaller_one(leaves, tmp_path):
    larger = make(tmp_path, {**COUNTS, "train": 5})
    sets = (scenes_of(each, "train") for each in (leaves, larger))
    old, new = (each.ground_truth["annotations"] for each in sets)
    assert new[: len(old)] == old and len(new) > len(old)
    assert contents(leaves / "train").items() < contents(larger / "train").items()


def test_masks_are_exact_and_disjoint(leaves):
    split = scenes_of(leaves, "train")
    annotations = split.ground_truth["annotations"]
    for index, image in enumerate(split.ground_truth["images"]):
        own = [a for a in annotations if a["image_id"] == image["id"]]
        masks = [coco_mask.decode(a["segmentation"]) for a in own]
        assert own and np.sum(masks, axis=0).max() == 1
        drawn = [i["mask"] for i in deadleaves.scene(0, "train", index, 64)[1]]
        np.testing.assert_array_equal(masks, drawn)
        for annotation, mask in zip(own, masks):
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert annotation["area"] == mask.sum() >= deadleaves.MIN_AREA
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


def test_interrupted_generation_is_completed(leaves, tmp_path, monkeypatch):
    """Killed before the annotations stand: the next call makes the very same set."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(deadleaves.json, "dumps", Mock(side_effect=KeyboardInterrupt))
        make(tmp_path)
    folder = tmp_path / leaves.name
    assert not deadleaves.annotation_file(folder, "train").exists()
    (folder / "train" / "000001.png").write_bytes(b"half")
    assert contents(make(tmp_path)) == contents(leaves)


def test_data_set_by_name(leaves, monkeypatch):
    monkeypatch.setenv("ICM_ROOT", str(leaves.parent.parent))
    config = DataConfig(root=leaves.parent.name, size=64, **COUNTS)
    assert len(datasets.create(config, "val")) == 2
    with pytest.raises(ValueError, match="'koko' has no splits; give them, or take deadleaves"):
        datasets.create(DataConfig("koko"), "test")


@pytest.fixture(scope="module")
def coco(shared):
    return CocoDataset(*(shared / "coco" / name for name in FILES.values()))


@pytest.fixture(scope="module")
def reference(shared):
    return COCO(str(shared / "coco" / FILES["annotations"]))


def test_coco_targets_are_those_of_pycocotools(coco, reference):
    assert len(coco) == len(reference.getImgIds()) == 47
    assert len(coco.category_ids) == 80 and max(coco.category_ids) == 90
    assert coco.categories[1] == "person" and coco.category_ids[0] == 1
    for index in range(len(coco)):
        image, target = coco[index]
        own = reference.loadAnns(reference.getAnnIds([target["image_id"]], iscrowd=False))
        boxes = np.array([a["bbox"] for a in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(target["boxes"], boxes)
        labels = [coco.category_ids[k - 1] for k in target["labels"]]
        assert labels == [a["category_id"] for a in own]
        assert target["masks"].shape == (len(own), *image.shape[1:])
        assert image.shape[1:] == coco.sizes()[index]
        for mask, annotation in zip(target["masks"], own):
            np.testing.assert_array_equal(mask, reference.annToMask(annotation))


def coco_split(shared, monkeypatch, **changes) -> CocoDataset:
    """val2017's part, as a profile's split with these changes."""
    monkeypatch.setenv("ICM_ROOT", str(shared))
    splits = {"val": FILES | changes}
    return datasets.create(DataConfig("coco", root="coco", splits=splits), "val")


def test_skip_and_limit_make_disjoint_splits_of_one_file(shared, coco, monkeypatch):
    train = coco_split(shared, monkeypatch, limit=40)
    val = coco_split(shared, monkeypatch, skip=40, limit=5)
    taken = train.ground_truth["images"] + val.ground_truth["images"]
    assert taken == coco.ground_truth["images"][:45] and len(val) == 5
    assert torch.equal(val[0][1]["boxes"], coco[40][1]["boxes"])
    ids = {image["id"] for image in val.ground_truth["images"]}
    assert {a["image_id"] for a in val.ground_truth["annotations"]} <= ids


def test_images_by_id(shared, coco, reference, monkeypatch, tmp_path):
    """From a list or a file, in whatever order: as the annotations have them."""
    every = [image["id"] for image in coco.ground_truth["images"]]
    wanted = [every[k] for k in (30, 4, 17)]
    listed = coco_split(shared, monkeypatch, ids=wanted)
    assert [listed[i][1]["image_id"] for i in range(3)] == [every[k] for k in (4, 17, 30)]
    own = reference.getAnnIds(wanted)
    assert own and sorted(a["id"] for a in listed.ground_truth["annotations"]) == sorted(own)
    assert torch.equal(listed[0][0], coco[4][0])
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeff{:012d}\r\n\r\n {} \n{}".format(*wanted).encode())
    assert coco_split(shared, monkeypatch, ids=str(path)).ground_truth == listed.ground_truth
    part = coco_split(shared, monkeypatch, ids=wanted, skip=1, limit=1)
    assert part.ground_truth["images"] == [coco.ground_truth["images"][17]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": 47, "limit": 5}, "47 images asked for, skip: 47 and limit: 5 leave none"),
        ({"skpi": 40}, r"data\.splits\.val\.skpi: unknown key \(did you mean 'skip'\?\)"),
        ({"skip": "40"}, r"data\.splits\.val\.skip is '40'"),
        ({"ids": [139, 1, 2, 3, 4]}, "47 images; . of the ids .* are not among them: 1, 2, 3,"),
        ({"ids": []}, "of the 0 images asked for, .* leave none"),
        ({"ids": [285, True]}, r"data\.splits\.val\.ids.* is True"),
        ({"ids": 139}, r"data\.splits\.val\.ids.* is 139"),
        ({"ids": "none.txt"}, r"No such file .*none\.txt"),
        (b"139\n\n139, 285\n", r"ids\.txt: '139,' is no image id; one is like 139"),
        (b"\x89PNG\xff", "is no image id"),
    ],
)
def test_bad_split_is_named(shared, monkeypatch, tmp_path, changes, message):
    """A mistyped skip would let train and val overlap. The check of the data set says the same."""
    if isinstance(changes, bytes):
        (tmp_path / "ids.txt").write_bytes(changes)
        changes = {"ids": str(tmp_path / "ids.txt")}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        coco_split(shared, monkeypatch, **changes)
    with pytest.raises(ValueError, match=message):
        datasets.check(DataConfig("coco", root="coco", splits={"val": FILES | changes}))


def write_set(folder, annotations: list[dict], **extra) -> CocoDataset:
    """Two grey 6x4 images, categories 7 and 3, and these annotations."""
    images = [{"id": i, "file_name": f"{i}.png"} for i in (5, 9)]
    for image in images:
        Image.new("L", (6, 4), 51).save(folder / image["file_name"])
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    coco = {"images": images, "annotations": annotations, "categories": categories, **extra}
    (folder / "a.json").write_text(json.dumps(coco))
    return CocoDataset(folder, folder / "a.json")


def annotation(segmentation, **extra) -> dict:
    facts = {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 0, 2, 3]}
    return {**facts, "segmentation": segmentation, **extra}


@pytest.mark.parametrize("crowd", [0, 1])
def test_one_box_without_a_mask_makes_it_a_set_of_boxes(tmp_path, crowd):
    """Read, flipped and measured by boxes; a network that trains on masks says what it lacks."""
    boxes = [annotation(POLYGON), annotation([], id=2, iscrowd=crowd)]
    data = write_set(tmp_path, boxes)
    image, target = task_network.flip(*data[0], random.Random(0))
    assert not data.with_masks and target["boxes"].shape == (2 - crowd, 4) and "masks" not in target
    assert [a["area"] for a in data.ground_truth["annotations"]] == [6, 6]
    score = {"score": 1.0, "image_id": 5, "category_id": 7, "bbox": [1, 0, 2, 3]}
    mask = {"segmentation": {"size": [4, 6], "counts": "43103d0"}}
    for found in ([], [score], [score | mask]):
        assert list(matched(data.ground_truth, found)) == ["box"]
    network = tasks.create(TaskConfig())
    with pytest.raises(ValueError, match="trains on masks, and not every box of the data set has"):
        network.loss(image[None], [target])


@pytest.mark.parametrize(
    "segmentation",
    [
        POLYGON,
        [[1, 0, 2, 0, 2, 3, 1, 3], [2, 0, 3, 0, 3, 3, 2, 3]],
        {"size": [4, 6], "counts": [4, 3, 1, 3, 13]},
        {"size": [4, 6], "counts": coco_mask.encode(np.asfortranarray(MASK))["counts"].decode()},
    ],
    ids=["polygon", "two polygons", "run lengths", "compressed"],
)
def test_every_kind_of_mask(tmp_path, segmentation):
    """By hand: rows 0..2, columns 1..2."""
    image, target = write_set(tmp_path, [annotation(segmentation)])[0]
    np.testing.assert_array_equal(target["masks"][0], MASK)
    assert target["boxes"].tolist() == [[1, 0, 3, 3]] and target["labels"].tolist() == [2]
    assert image.shape == (3, 4, 6)


def test_image_without_annotations(tmp_path):
    _, target = write_set(tmp_path, [])[1]
    assert target["image_id"] == 9 and target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64
    assert target["masks"].shape == (0, 4, 6)


@pytest.mark.parametrize("changes", [{"bbox": [1, 0, 0, 3]}, {"iscrowd": 1}, {}])
def test_crowds_and_boxes_without_area_are_judged_but_not_learned(tmp_path, changes):
    made = write_set(tmp_path, [annotation(POLYGON, **changes), annotation(POLYGON, id=2)])
    assert len(made[0][1]["masks"]) == (1 if changes else 2)
    assert len(made.ground_truth["annotations"]) == 2 and made.left_out.total() == len(changes)


def test_plain_folder(tmp_path, monkeypatch):
    """Every image below, in order of name, unlabelled: a split of any name for the data. What is
    missing or broken is said at once."""
    monkeypatch.setenv("ICM_ROOT", str(tmp_path))
    (tmp_path / "all" / "sub").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "sub/c.webp"):
        Image.new("RGB", (8, 5)).save(tmp_path / "all" / name)
    (tmp_path / "all" / "notes.txt").write_text("no image")
    part = {"images": "all", "skip": 1, "limit": 1}
    splits = {"train": {"images": "all"}, "val": part, "test": {"images": "all", "skip": 2}}
    config = DataConfig("mine", root=".", splits=splits)
    datasets.check(config)
    folder, val = datasets.create(config, "train"), datasets.create(config, "val", limit=50)
    names = [image["file_name"] for image in folder.ground_truth["images"]]
    assert names == ["a.jpg", "b.PNG", "sub/c.webp"]
    image, target = folder[2]
    assert image.shape == (3, 5, 8) and target["masks"].shape == (0, 5, 8)
    assert folder.sizes() == [(5, 8)] * 3
    assert len(val) == 1 and val.path(0).name == "b.PNG"  # never more than the split has
    splits["train"]["images"] = "nowhere"
    (tmp_path / "all" / "b.PNG").write_bytes(b"none")
    (tmp_path / "all" / "sub" / "c.webp").unlink()
    message = "train: .*nowhere does not exist\n.*1 of 1 images are missing, .*test: .*leave none"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        datasets.check(config)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_every_colour_mode_is_rgb(tmp_path, mode):
    Image.new("RGB", (8, 5), "white").convert(mode).save(tmp_path / "x.tif")
    assert torch.equal(read_image(tmp_path / "x.tif"), torch.ones(3, 5, 8))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist; data/README\.md"):
        CocoDataset(tmp_path, tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"image .*none\.png does not exist"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_cut_short_image_is_an_error(tmp_path, rng, suffix):
    """Wherever it is cut, never a half-grey picture."""
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for content in (b"<html>404</html>", *(data[:kept] for kept in range(0, len(data) - 24, 13))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.{suffix} cannot be read .*replace it"):
            read_image(path)


def test_image_of_another_size_than_its_annotations_say(tmp_path):
    """Its masks would lie elsewhere."""
    image = {"id": 1, "file_name": "5.png", "width": 9, "height": 4}
    dataset = write_set(tmp_path, [], images=[image])
    with pytest.raises(ValueError, match=r"is \d+x\d+ px; its annotations say 9x4"):
        dataset[0]
