import gzip
import hashlib
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from course import data

SHARED = Path(__file__).parents[2] / "shared" / "data"
RAW = "FashionMNIST/raw"
ALL = [(name, split) for name in data.names() for split in data._module(name).SPLITS]
IMAGES = [("digits", 8), ("fashion-mnist", 28)]


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch, tmp_path):
    """No test sees the data, the cache or the proxy of whoever runs it."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("no_proxy", "*")


# What every data set promises


def test_data_sets_are_found_by_name():
    assert {"digits", "fashion-mnist"} <= set(data.names())
    assert data.names() == sorted(data.names())


def test_no_data_set_hides_a_function():
    assert not {name.replace("-", "_") for name in data.names()} & set(data.__all__)


def test_a_new_data_set_is_one_new_file(monkeypatch, tmp_path):
    (tmp_path / "two_points.py").write_text(
        "SPLITS, FILES, HOW_TO_GET = ('all',), ('points.csv',), 'Ask Euclid.'\n"
        "def offline(split, transform, target_transform): return [(0, 1), (2, 3)]\n"
    )
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(tmp_path)])
    assert "two-points" in data.names()
    assert data.load("two-points", "all") == [(0, 1), (2, 3)]
    assert not data.available("two-points")
    with pytest.raises(data.DataNotFound, match="Ask Euclid"):
        data.load("two-points", "all", source="real")


@pytest.mark.parametrize("name", data.names())
def test_every_data_set_says_how_to_get_it(name):
    sentences = data.how_to_get(name)
    assert sentences.endswith(".") and sentences.count("\n") == 0


@pytest.mark.parametrize("name, split", ALL)
def test_offline_data_needs_neither_network_nor_files(name, split, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("Offline data opened a connection.")

    monkeypatch.setattr(socket, "socket", refuse)
    assert len(data.load(name, split)) > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("cats",), "no data set 'cats'; there are "),
        (("_images",), "no data set '_images'"),
        (("digits", "validation"), "no split 'validation'; it has train, test"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(*arguments)


def test_a_wrong_source_is_refused():
    with pytest.raises(ValueError, match="not 'web'"):
        data.load("digits", source="web")


# Images


@pytest.mark.parametrize("name, size", IMAGES)
def test_items_are_grey_pictures_with_a_label(name, size):
    dataset = data.load(name)
    picture, label = dataset[0]
    assert picture.mode == "L" and picture.size == (size, size)
    assert type(label) is int and 0 <= label < 10
    assert len(dataset.classes) == 10
    assert dataset.class_to_idx[dataset.classes[7]] == 7


@pytest.mark.parametrize("name, size", IMAGES)
def test_transforms_are_applied(name, size):
    dataset = data.load(name, transform=lambda x: x.size, target_transform=lambda y: -y)
    plain = data.load(name)
    assert dataset[3] == ((size, size), -plain[3][1])


@pytest.mark.parametrize("name, train, test", [("digits", 1437, 360), ("fashion-mnist", 2000, 500)])
def test_splits_have_their_size_balance_and_no_image_in_common(name, train, test):
    splits = {split: data.load(name, split) for split in ("train", "test")}
    assert (len(splits["train"]), len(splits["test"])) == (train, test)
    for dataset in splits.values():
        counts = torch.bincount(dataset.targets, minlength=10)
        assert counts.max() - counts.min() <= 0.04 * len(dataset) / 10 + 2
        assert torch.bincount(dataset.targets[:200], minlength=10).min() >= 8  # in mixed order
    seen = {image.numpy().tobytes() for image in splits["train"].data}
    assert not seen & {image.numpy().tobytes() for image in splits["test"].data}


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = [data.load("digits", split) for split in ("train", "test")]
    images = torch.cat([dataset.data for dataset in ours]).double() / 255 * 16
    labels = torch.cat([dataset.targets for dataset in ours])
    assert (images - images.round()).abs().max() < 0.04  # 0..16 became 0..255

    def rows(images, labels):
        return sorted((*image.ravel(), label) for image, label in zip(images, labels, strict=True))

    assert rows(images.round().numpy(), labels.tolist()) == rows(theirs.images, theirs.target)


def test_digits_need_no_data_folder():
    assert data.available("digits")
    real, offline = data.load("digits", source="real"), data.load("digits")
    assert torch.equal(real.data, offline.data)


def test_drawings_are_the_same_every_time():
    from course.data import fashion_mnist

    before = data.load("fashion-mnist")
    fashion_mnist._drawings.cache_clear()
    after = data.load("fashion-mnist")
    assert torch.equal(before.data, after.data) and torch.equal(before.targets, after.targets)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_changing_a_data_set_changes_no_other(name):
    data.load(name).data.zero_()
    assert data.load(name).data.any()


def test_drawings_show_their_class_but_not_at_a_glance():
    """The nearest class mean, a linear classifier, should do well and yet leave something to do."""
    images, labels = data.tensors(data.load("fashion-mnist"))
    means = torch.stack([images[labels == label].mean(0) for label in range(10)]).flatten(1)
    images, labels = data.tensors(data.load("fashion-mnist", "test"))
    guesses = torch.cdist(images.flatten(1), means).argmin(1)
    assert 0.5 < (guesses == labels).double().mean() < 0.85


# To tensors


@pytest.mark.parametrize("name, size", IMAGES)
def test_tensors_have_the_documented_shape_and_range(name, size):
    images, labels = data.tensors(data.load(name), limit=50)
    assert images.shape == (50, 1, size, size) and images.dtype == torch.float32
    assert labels.shape == (50,) and labels.dtype == torch.int64
    assert images.min() == 0 and 0.9 < images.max() <= 1


def test_the_fast_way_to_tensors_gives_what_the_slow_one_gives():
    dataset = data.load("fashion-mnist")
    fast = data.tensors(dataset, limit=20)
    slow = data.tensors(Subset(dataset, range(20)))
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


def test_tensors_applies_transforms():
    def halve(picture):
        return torch.from_numpy(np.array(picture))[None] / 510

    plain, labels = data.tensors(data.load("digits"), limit=9)
    halved, flipped = data.tensors(
        data.load("digits", transform=halve, target_transform=lambda label: 9 - label), limit=9
    )
    torch.testing.assert_close(halved, plain / 2)
    assert torch.equal(flipped, 9 - labels)


def test_tensors_reads_colour_images_as_torchvision_stores_them():
    class Colour:
        data = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
        targets = (1, 0)

        def __len__(self):
            return 2

    images, labels = data.tensors(Colour())
    assert images.shape == (2, 3, 4, 5) and labels.tolist() == [1, 0]
    assert images[1, 2, 3, 4].item() == pytest.approx(Colour.data[1, 3, 4, 2] / 255)


def test_tensors_takes_at_most_what_is_there():
    assert len(data.tensors(data.load("digits", "test"), limit=10_000)[1]) == 360


def test_a_data_loader_batches_the_data():
    dataset = data.load("digits", transform=lambda picture: torch.tensor(np.array(picture)))
    images, labels = next(iter(DataLoader(dataset, batch_size=16)))
    assert images.shape == (16, 8, 8) and torch.equal(labels, dataset.targets[:16])


# On a canvas


def test_on_canvas_centres_without_shift():
    images = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    canvas = data.on_canvas(images, size=12)
    expected = torch.nn.functional.pad(images, (2, 2, 2, 2))
    assert torch.equal(canvas, expected)


def test_on_canvas_moves_each_image_whole_and_everywhere():
    images = torch.zeros(2000, 1, 8, 8)
    images[:, 0, 0, 0] = torch.arange(1.0, 2001)  # marks the corner
    canvas = data.on_canvas(images, 16, shift=4, generator=torch.Generator().manual_seed(0))
    where = canvas[:, 0].nonzero()
    assert torch.equal(where[:, 0], torch.arange(2000))
    assert torch.equal(canvas.amax((1, 2, 3)), torch.arange(1.0, 2001))
    counts = torch.zeros(9, 9)
    counts.index_put_((where[:, 1], where[:, 2]), torch.ones(2000), accumulate=True)
    assert counts.min() >= 8 and counts.max() <= 50  # 2000 / 81 = 25 on average


def test_on_canvas_repeats_with_the_generator_and_leaves_its_input():
    images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    before = images.clone()
    first, second = (
        data.on_canvas(images, 16, 4, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(first, second) and first.dtype == torch.float64
    assert torch.equal(images, before)
    assert not torch.equal(first, data.on_canvas(images, 16))


@pytest.mark.parametrize("size, shift", [(15, 4), (7, 0), (16, -1)])
def test_on_canvas_refuses_to_lose_pixels(size, shift):
    with pytest.raises(ValueError, match=f"not {size}"):
        data.on_canvas(torch.zeros(1, 1, 8, 8), size, shift)


# Where the real data is


def test_the_folder_is_root_then_environment_then_cache(monkeypatch, tmp_path):
    assert data.folder() == tmp_path / "nowhere"
    assert data.folder(tmp_path / "root") == tmp_path / "root"
    monkeypatch.delenv("COURSE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert data.folder() == tmp_path / "torch-by-writing"


def write_fashion_mnist(root: Path, packed: bool = False) -> dict[str, str]:
    """Write a tiny Fashion-MNIST in its real format; return the md5 of each file."""
    raw = root / RAW
    raw.mkdir(parents=True)
    sums = {}
    for part, count in (("train", 3), ("t10k", 2)):
        images = np.arange(count * 28 * 28, dtype=np.uint32).astype(np.uint8)
        labels = np.arange(9, 9 - count, -1, dtype=np.uint8)
        for kind, header, content in (
            ("images-idx3", (0x803, count, 28, 28), images),
            ("labels-idx1", (0x801, count), labels),
        ):
            content = struct.pack(f">{len(header)}i", *header) + content.tobytes()
            file = raw / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(content, mtime=0) if packed else content)
            sums[file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    return sums


@pytest.fixture
def fashion_mnist(monkeypatch):
    """torchvision's class, which knows only a mirror that does not answer."""
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    return FashionMNIST


def test_missing_data_is_one_sentence_that_says_where_and_how(tmp_path):
    assert not data.available("fashion-mnist")
    with pytest.raises(FileNotFoundError) as caught:
        data.load("fashion-mnist", source="real")
    assert isinstance(caught.value, data.DataNotFound)
    message = str(caught.value)
    assert "fashion-mnist" in message and str(tmp_path / "nowhere") in message
    assert "download=True" in message and "\n" not in message
    assert not (tmp_path / "nowhere").exists()


def test_the_real_format_is_read_by_root_and_by_environment(monkeypatch, tmp_path):
    write_fashion_mnist(tmp_path)
    assert data.available("fashion-mnist", tmp_path) and not data.available("fashion-mnist")
    train = data.load("fashion-mnist", source="real", root=tmp_path)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    test = data.load("fashion-mnist", "test", source="real")
    assert data.available("fashion-mnist")
    assert train.targets.tolist() == [9, 8, 7] and test.targets.tolist() == [9, 8]
    picture, label = train[1]
    assert picture.mode == "L" and picture.size == (28, 28) and type(label) is int
    assert picture.getpixel((5, 2)) == (784 + 2 * 28 + 5) % 256


def test_the_offline_and_the_real_data_are_of_one_type(tmp_path):
    write_fashion_mnist(tmp_path)
    real = data.load("fashion-mnist", source="real", root=tmp_path)
    offline = data.load("fashion-mnist")
    assert real.classes == offline.classes and real.class_to_idx == offline.class_to_idx
    assert real.data.dtype == offline.data.dtype and real.data.ndim == offline.data.ndim
    assert real.targets.dtype == offline.targets.dtype
    for left, right in zip(data.tensors(real, 1), data.tensors(offline, 1), strict=True):
        assert left.shape == right.shape and left.dtype == right.dtype


def test_packed_files_are_verified_and_unpacked_without_a_network(
    monkeypatch, tmp_path, fashion_mnist
):
    sums = write_fashion_mnist(tmp_path, packed=True)
    assert not data.available("fashion-mnist", tmp_path)
    monkeypatch.setattr(fashion_mnist, "resources", list(sums.items()))
    train = data.load("fashion-mnist", source="real", root=tmp_path, download=True)
    assert len(train) == 3 and data.available("fashion-mnist", tmp_path)


def test_files_with_a_wrong_checksum_are_not_trusted(tmp_path, fashion_mnist):
    write_fashion_mnist(tmp_path, packed=True)  # not the sums of the public files
    with pytest.raises(data.DataNotFound, match="could not be downloaded"):
        data.load("fashion-mnist", source="real", root=tmp_path, download=True)
    assert not data.available("fashion-mnist", tmp_path)


def test_damaged_files_are_told_from_missing_ones(tmp_path):
    write_fashion_mnist(tmp_path)
    file = tmp_path / RAW / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(data.DataNotFound, match="could not be read, so delete"):
        data.load("fashion-mnist", source="real", root=tmp_path)


def test_a_refused_download_is_one_sentence(tmp_path, fashion_mnist):
    with pytest.raises(data.DataNotFound, match="could not be downloaded") as caught:
        data.load("fashion-mnist", source="real", root=tmp_path, download=True)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_dead_network_does_not_hang(monkeypatch, tmp_path, fashion_mnist):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        threading.Timer(5, silent.close).start()  # so that the test ends even where the code hangs
        host, port = silent.getsockname()
        monkeypatch.setattr(fashion_mnist, "mirrors", [f"http://{host}:{port}/"])
        monkeypatch.setattr(data, "TIMEOUT", 0.2)
        start = time.monotonic()
        with pytest.raises(data.DataNotFound, match="could not be downloaded"):
            data.load("fashion-mnist", source="real", root=tmp_path, download=True)
        assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


@pytest.mark.skipif(not (SHARED / RAW).is_dir(), reason="the public data is not here")
def test_the_public_fashion_mnist():
    test = data.load("fashion-mnist", "test", source="real", root=SHARED, download=True)
    images, labels = data.tensors(test)
    assert images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(labels).tolist() == [1000] * 10
    assert images.mean().item() == pytest.approx(0.2868, abs=1e-3)
