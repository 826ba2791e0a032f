"""The data set of the chapter on residual networks: coloured shapes, and CIFAR-10."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from course import data
from course.data import cifar_10


@pytest.fixture(scope="module")
def shapes():
    return data.load("cifar-10")


def test_splits_hold_all_classes_alike(shapes):
    test = data.load("cifar-10", "test")
    assert (len(shapes), len(test)) == (1000, 300)
    for split in (shapes, test):
        assert split.targets.bincount().tolist() == [len(split) // 10] * 10
        assert split.data.dtype == torch.uint8
        assert split.data.shape == (len(split), 32, 32, 3)


def test_an_item_is_a_colour_picture_with_a_label(shapes):
    picture, label = shapes[3]
    assert picture.mode == "RGB" and picture.size == (32, 32)
    assert shapes.classes[label] in cifar_10.CLASSES
    assert data.load("cifar-10", transform=lambda p: p.size)[0][0] == (32, 32)


def test_tensors_are_channels_first(shapes):
    images, labels = data.tensors(shapes, 7)
    assert images.shape == (7, 3, 32, 32) and images.dtype == torch.float32
    assert torch.equal(labels, shapes.targets[:7])
    assert torch.equal(images[2, 1], shapes.data[2, :, :, 1].float() / 255)


def test_everybody_gets_the_same_shapes(shapes):
    again = data.load("cifar-10")
    assert torch.equal(again.data, shapes.data)
    again.data.zero_()
    assert data.load("cifar-10").data.any()


def test_shapes_can_be_told_apart():
    drawn = {label: str(cifar_10._shape(label, (1, 1, 1), (2, 2, 2))) for label in range(10)}
    assert len(set(drawn.values())) == 10


@pytest.fixture
def folder(tmp_path):
    for split, number in (("train", 2), ("test", 1)):
        for label, name in enumerate(cifar_10.CLASSES):
            where = tmp_path / cifar_10.FOLDER / split / name
            where.mkdir(parents=True)
            for i in range(number):
                pixels = np.full((32, 32, 3), 20 * label + i, np.uint8)
                Image.fromarray(pixels).save(where / f"{i:04}.jpg", quality=95)
    return tmp_path


def test_real_folders_are_read_and_mixed(folder):
    assert data.available("cifar-10", folder)
    train = data.load("cifar-10", source="real", root=folder)
    assert len(train) == 20 and train.data.shape == (20, 32, 32, 3)
    assert train.targets.tolist() != sorted(train.targets.tolist())
    for pixels, label in zip(train.data, train.targets, strict=True):
        assert abs(pixels.float().mean() - 20 * label) < 4
    assert len(data.load("cifar-10", "test", source="real", root=folder)) == 10


def test_a_missing_class_is_told(folder):
    (folder / cifar_10.FOLDER / "test" / "frog" / "0000.jpg").unlink()
    assert not data.available("cifar-10", folder)
    with pytest.raises(data.DataNotFound, match="download=True"):
        data.load("cifar-10", source="real", root=folder)


def test_download_writes_the_folders(tmp_path, monkeypatch):
    class Fake:
        def __init__(self, root, train, download):
            assert download
            self.targets = list(range(10)) * 3
            self.data = np.stack([np.full((32, 32, 3), 10 * t, np.uint8) for t in self.targets])

    fake = types.ModuleType("torchvision.datasets")
    fake.CIFAR10 = Fake
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    monkeypatch.setattr(cifar_10, "REAL_PER_CLASS", {"train": 2, "test": 1})
    train = data.load("cifar-10", source="real", root=tmp_path, download=True)
    assert len(train) == 20
    assert data.available("cifar-10", tmp_path)
