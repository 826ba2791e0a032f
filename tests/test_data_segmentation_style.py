"""The data sets of the chapter on segmentation and style transfer: camvid and pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from course import data

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))


@pytest.fixture
def small_camvid(tmp_path):
    """Two pictures a split in CamVid's files, with the paths of the original lists."""
    folder = tmp_path / "CamVid"
    for split in ("train", "val", "test"):
        lines = []
        for number in range(2):
            for part, picture in (
                (split, Image.new("RGB", (6, 4), (10, 20, 30 + number))),
                (f"{split}annot", Image.new("L", (6, 4), 11 - number)),
            ):
                (folder / part).mkdir(parents=True, exist_ok=True)
                picture.save(folder / part / f"{number}.png")
            name = f"{number}.png"
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_streets_have_pictures_and_masks():
    sizes = {split: len(data.load("camvid", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 32, "val": 8, "test": 8}
    dataset = data.load("camvid")
    image, mask = dataset[0]
    assert (image.mode, mask.mode) == ("RGB", "L")
    assert image.size == mask.size == (480, 360)
    assert len(dataset.classes) == dataset.ignore == 11


def test_streets_show_every_class_and_some_unlabelled_pixels():
    masks = [np.asarray(mask) for _, mask in data.load("camvid")]
    assert set(np.unique(masks)) == set(range(12))


def test_streets_are_the_same_every_time_and_differ_from_each_other():
    first, again = data.load("camvid")[2], data.load("camvid")[2]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    splits = [data.load("camvid", split) for split in ("train", "val", "test")]
    seen = {image.tobytes() for dataset in splits for image, _ in dataset}
    assert len(seen) == 48


def test_streets_end():
    dataset = data.load("camvid", "val")
    assert dataset[-1][0].tobytes() == dataset[7][0].tobytes()
    with pytest.raises(IndexError):
        dataset[8]


def test_real_streets_are_read_by_the_last_parts_of_their_paths(small_camvid):
    assert data.available("camvid", small_camvid)
    dataset = data.load("camvid", "val", source="real", root=small_camvid)
    assert len(dataset) == 2
    image, mask = dataset[1]
    assert image.mode == "RGB" and image.getpixel((0, 0)) == (10, 20, 31)
    assert mask.mode == "L" and mask.getpixel((5, 3)) == 10


def test_a_missing_street_is_named_at_once(small_camvid):
    (small_camvid / "CamVid" / "testannot" / "1.png").unlink()
    with pytest.raises(data.DataNotFound, match=r"1\.png is missing"):
        data.load("camvid", "test", source="real", root=small_camvid)


@pytest.mark.skipif(not SHARED.exists(), reason="the public data is not here")
def test_the_public_streets():
    dataset = data.load("camvid", "test", source="real", root=SHARED)
    assert len(dataset) == 8
    image, mask = dataset[0]
    assert image.size == mask.size == (480, 360)
    assert np.asarray(mask).max() <= 11


def test_pictures_are_drawn():
    for split in ("content", "style"):
        dataset = data.load("pictures", split)
        picture, title = dataset[0]
        assert len(dataset) == 1 and isinstance(title, str)
        assert picture.mode == "RGB" and picture.size == (384, 256)
        assert np.asarray(picture).std() > 30
        assert picture.tobytes() == data.load("pictures", split)[0][0].tobytes()


def test_changing_a_picture_changes_no_other():
    data.load("pictures", "style")[0][0].paste((0, 0, 0), (0, 0, 384, 256))
    assert np.asarray(data.load("pictures", "style")[0][0]).any()


def test_real_pictures(tmp_path):
    (tmp_path / "img").mkdir()
    Image.new("L", (30, 20), 7).save(tmp_path / "img" / "rainier.jpg")
    assert not data.available("pictures", tmp_path)
    Image.new("RGB", (10, 20)).save(tmp_path / "img" / "autumn-oak.jpg")
    picture, title = data.load("pictures", "content", source="real", root=tmp_path)[0]
    assert (picture.mode, picture.size, title) == ("RGB", (30, 20), "Mount Rainier")


@pytest.mark.skipif(not SHARED.exists(), reason="the public data is not here")
def test_the_public_pictures():
    sizes = [data.load("pictures", s, source="real", root=SHARED)[0][0].size
             for s in ("content", "style")]  # fmt: skip
    assert sizes == [(2048, 1365), (1717, 1200)]


@pytest.mark.parametrize("name, split", [("camvid", "test"), ("pictures", "style")])
def test_transforms_are_applied(name, split):
    dataset = data.load(name, split, transform=lambda x: x.size, target_transform=lambda y: 5)
    size = (480, 360) if name == "camvid" else (384, 256)
    assert dataset[0] == (size, 5)
