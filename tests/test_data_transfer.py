"""The data set of the chapter on transfer learning: leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course import data
from course.data import leaves

KINDS = ("oak", "elm", "oak", "fir")


@pytest.fixture(scope="module")
def train():
    return data.load("leaves")


def test_splits_have_their_size_and_every_kind(train):
    test = data.load("leaves", "test")
    assert (len(train), len(test)) == (240, 96)
    counts = train.targets.bincount().tolist()
    assert counts == [leaves.COUNT[name] for name in train.classes]
    assert test.targets.bincount().tolist() == [round(0.4 * n) for n in counts]
    assert train.classes == test.classes == sorted(leaves.COUNT)


def test_an_item_is_a_colour_picture_and_a_number(train):
    picture, label = train[3]
    assert isinstance(picture, Image.Image) and picture.mode == "RGB"
    assert picture.size == (48, 48)
    assert type(label) is int and label == train.targets[3]
    transformed = data.load("leaves", transform=np.asarray, target_transform=str)
    assert transformed[3][0].shape == (48, 48, 3)
    assert transformed[3][1] == str(label)
    images, labels = data.tensors(train, 5)
    assert images.shape == (5, 3, 48, 48) and labels.tolist() == train.targets[:5].tolist()


def test_every_leaf_is_green_in_the_middle_and_the_ground_is_light(train):
    middle = train.data[:, 20:28, 20:28].float().mean((1, 2))
    corner = train.data[:, :3, :3].float().mean((1, 2))
    assert (middle[:, 1] > middle[:, 2]).all()
    assert (corner.mean(1) > 190).float().mean() > 0.97
    assert (middle.mean(1) < corner.mean(1)).all()


def test_everybody_gets_the_same_leaves(train):
    again = data.load("leaves")
    assert torch.equal(again.data, train.data) and torch.equal(again.targets, train.targets)
    again.data.zero_()
    assert data.load("leaves").data.float().mean() > 100


def make_competition(root: Path, labels=KINDS) -> Path:
    """The files of the competition, in small."""
    folder = root / leaves.FOLDER
    (folder / "images").mkdir(parents=True)
    for number in range(len(labels) + 2):
        Image.new("RGB", (8, 6), (10 * number, 0, 0)).save(folder / f"images/{number}.jpg")
    rows = [f"images/{number}.jpg,{name}" for number, name in enumerate(labels)]
    (folder / "train.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    rest = [f"images/{number}.jpg" for number in range(len(labels), len(labels) + 2)]
    (folder / "test.csv").write_text("\n".join(["image", *rest]) + "\n")
    return root


def test_real_files_are_read(tmp_path):
    assert not data.available("leaves", tmp_path)
    make_competition(tmp_path)
    assert data.available("leaves", tmp_path)
    train = data.load("leaves", source="real", root=tmp_path)
    assert train.classes == ["elm", "fir", "oak"]
    assert train.targets.tolist() == [2, 0, 2, 1]
    picture, label = train[1]
    assert (picture.mode, picture.size, label) == ("RGB", (8, 6), 0)


def test_real_test_has_no_labels(tmp_path):
    make_competition(tmp_path)
    test = data.load("leaves", "test", source="real", root=tmp_path, transform=np.asarray)
    assert test.classes == ["elm", "fir", "oak"]
    assert test.targets.tolist() == [leaves.UNKNOWN] * 2
    picture, label = test[0]
    assert picture.shape == (6, 8, 3) and label == -1


def test_missing_files_are_explained(tmp_path):
    with pytest.raises(data.DataNotFound, match="Kaggle"):
        data.load("leaves", source="real", root=tmp_path)
    with pytest.raises(data.DataNotFound, match="Kaggle"):
        data.load("leaves", source="real", root=tmp_path, download=True)
