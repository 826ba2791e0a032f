"""The data sets of the chapter on detection: drawn scenes, and blood cells in VOC's layout."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from course import data
from course.data import bccd, scenes

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def train():
    return data.load("scenes")


# Scenes


def test_splits_have_their_size_and_no_scene_in_common(train):
    test = data.load("scenes", "test")
    assert (len(train), len(test)) == (1000, 200)
    seen = {image.numpy().tobytes() for image in train.data}
    assert len(seen) == 1000
    assert not seen & {image.numpy().tobytes() for image in test.data}


def test_an_item_is_a_picture_and_a_target(train):
    image, target = train[0]
    assert image.mode == "RGB" and image.size == (64, 64)
    assert set(target) == {"boxes", "labels", "mask"}
    assert target["boxes"].dtype == torch.float32 and target["boxes"].shape[1:] == (4,)
    assert target["labels"].dtype == torch.int64
    assert len(target["labels"]) == len(target["boxes"])
    assert target["mask"].dtype == torch.uint8 and target["mask"].shape == (64, 64)
    assert train.class_to_idx[train.classes[2]] == 2


def test_boxes_hold_the_pixels_of_their_class(train):
    for image_boxes, labels, mask in zip(train.boxes, train.labels, train.masks, strict=True):
        covered = torch.zeros(64, 64, dtype=torch.bool)
        for (x1, y1, x2, y2), label in zip(image_boxes.int().tolist(), labels, strict=True):
            part = mask[y1:y2, x1:x2] == label + 1
            # Tight: each side of the box touches a pixel of the class.
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
            covered[y1:y2, x1:x2] = True
        assert not (mask[~covered] > 0).any()
        assert set(mask.unique().tolist()) == {0, *(labels + 1).tolist()}


def test_scenes_have_one_to_three_objects_of_each_class(train):
    counts = torch.bincount(torch.tensor([len(boxes) for boxes in train.boxes]))
    assert counts[0] == 0 and len(counts) == 4 and counts[1:].min() > 200
    assert torch.bincount(torch.cat(train.labels)).min() > 500
    boxes = torch.cat(train.boxes)
    assert boxes.min() >= 0 and boxes.max() <= 64
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 5


def test_scenes_are_the_same_every_time():
    scenes._drawings.cache_clear()
    first = data.load("scenes", "test").data.clone()
    scenes._drawings.cache_clear()
    assert torch.equal(data.load("scenes", "test").data, first)


def test_scenes_are_drawn_once():
    scenes._drawings.cache_clear()
    data.load("scenes"), data.load("scenes")
    assert scenes._drawings.cache_info().misses == 1


def test_changing_a_scene_changes_nobody_elses(train):
    mine = data.load("scenes")
    mine.data.zero_()
    mine.boxes[0].zero_()
    mine[1][1]["mask"].zero_()
    mine[1][1]["labels"].fill_(9)
    fresh = data.load("scenes")
    assert fresh.data.any() and fresh.boxes[0].any()
    assert mine[1][1]["mask"].any() and mine[1][1]["labels"].max() < 3


@pytest.mark.parametrize("name", ["scenes", "bccd"])
def test_transforms_are_applied(name):
    dataset = data.load(name, "test", transform=lambda x: x.size, target_transform=len)
    plain = data.load(name, "test")
    assert dataset[1] == (plain[1][0].size, len(plain[1][1]))


def test_real_scenes_are_the_drawn_ones():
    assert torch.equal(
        data.load("scenes", "test", source="real").data, data.load("scenes", "test").data
    )


# BCCD


@pytest.mark.parametrize("split", bccd.SPLITS)
def test_drawn_cells_look_like_voc(split):
    dataset = data.load("bccd", split)
    assert len(dataset) == bccd.COUNT[split]
    names = set()
    for image, tree in dataset:
        assert image.mode == "RGB" and image.size == (640, 480)
        assert tree["annotation"]["size"] == {"width": "640", "height": "480", "depth": "3"}
        for thing in tree["annotation"]["object"]:
            names.add(thing["name"])
            box = [int(thing["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")]
            assert 1 <= box[0] < box[2] <= 640 and 1 <= box[1] < box[3] <= 480
    assert names == set(dataset.classes)


def test_drawn_cells_are_the_same_every_time():
    first = data.load("bccd", "val").data.clone()
    bccd._drawings.cache_clear()
    assert torch.equal(data.load("bccd", "val").data, first)


XML = """<annotation><filename>a.jpg</filename>
<size><width>640</width><height>480</height><depth>3</depth></size>
<object><name>WBC</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
</object></annotation>"""


def test_real_cells_are_read_from_the_voc_layout(tmp_path):
    root = tmp_path / bccd.FOLDER
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for split in bccd.SPLITS:
        assert not data.available("bccd", tmp_path)
        (root / f"ImageSets/Main/{split}.txt").write_text("a\n")
    (root / "Annotations/a.xml").write_text(XML)
    Image.new("RGB", (640, 480), "pink").save(root / "JPEGImages/a.jpg")
    for split in bccd.SPLITS:
        dataset = data.load("bccd", split, source="real", root=tmp_path)
        image, tree = dataset[0]
        assert image.size == (640, 480)
        assert tree["annotation"]["object"][0]["bndbox"]["xmax"] == "30"
        assert dataset.classes == ["RBC", "WBC", "Platelets"]


def test_missing_cells_are_explained(tmp_path):
    with pytest.raises(data.DataNotFound, match="BCCD_Dataset"):
        data.load("bccd", source="real", root=tmp_path)
    with pytest.raises(data.DataNotFound, match="no automatic download"):
        data.load("bccd", source="real", root=tmp_path, download=True)


@pytest.mark.skipif(not data.available("bccd", SHARED), reason="no real data here")
def test_the_real_cells():
    for split, count in zip(bccd.SPLITS, (100, 30, 30), strict=True):
        assert len(data.load("bccd", split, source="real", root=SHARED)) == count
    _, tree = data.load("bccd", "test", source="real", root=SHARED)[0]
    assert {thing["name"] for thing in tree["annotation"]["object"]} <= set(bccd.CLASSES)
