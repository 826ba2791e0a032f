"""The data set of the chapter on linear models: houses and their prices."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from course import data
from course.data import house_prices

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def train():
    return data.load("house-prices")


def test_shapes_and_types(train):
    test = data.load("house-prices", "test")
    assert (len(train), len(test)) == (200, 50)
    for houses in (train, test):
        assert houses.features.shape == (len(houses), 2)
        assert houses.prices.shape == (len(houses),)
        assert houses.features.dtype == houses.prices.dtype == torch.float64
    x, y = train[3]
    assert torch.equal(x, train.features[3]) and torch.equal(y, train.prices[3])


def test_houses_are_plausible(train):
    area, rooms = train.features.T
    assert area.min() >= 500 and area.max() <= 3500
    assert rooms.min() >= 2 and rooms.max() <= 12
    assert torch.equal(rooms, rooms.round()) and torch.equal(area, area.round())
    assert train.prices.min() > 0


def test_the_rule_of_the_prices_can_be_found(train):
    test = data.load("house-prices", "test")
    X = torch.cat([train.features, test.features])
    y = torch.cat([train.prices, test.prices])
    A = torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], dim=1)
    w = torch.linalg.lstsq(A, y[:, None]).solution[:, 0]
    assert abs(w[0] - 0.09) < 0.01 and abs(w[1] - 9) < 2.5 and abs(w[2] - 20) < 20
    assert 19 < (A @ w - y).std() < 25


def test_houses_are_the_same_every_time():
    before = house_prices._generated()
    house_prices._generated.cache_clear()
    assert np.array_equal(before, house_prices._generated())


def test_changing_a_data_set_changes_no_other(train):
    other = data.load("house-prices")
    other.features.zero_()
    assert train.features.abs().min() > 0
    assert data.load("house-prices").features.abs().min() > 0


def test_transforms():
    houses = data.load("house-prices", transform=lambda x: x / 2, target_transform=float)
    x, y = houses[0]
    assert torch.equal(2 * x, houses.features[0]) and isinstance(y, float)


# The real file


def write(folder, prices):
    lines = ["Id,GrLivArea,Street,TotRmsAbvGrd,SalePrice"]
    lines += [f"{i},{1000 + i},Pave,{i % 9},{price}" for i, price in enumerate(prices)]
    (folder / house_prices.FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_real_table(tmp_path):
    write(tmp_path, [100000 + 500 * i for i in range(10)])
    train = data.load("house-prices", source="real", root=tmp_path)
    test = data.load("house-prices", "test", source="real", root=tmp_path)
    assert (len(train), len(test)) == (8, 2)
    assert test.features.tolist() == [[1004, 4], [1009, 0]]
    assert test.prices.tolist() == [102, 104.5]
    assert train.prices[0] == 100


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(data.DataNotFound, match=house_prices.FILE):
        data.load("house-prices", source="real", root=tmp_path)
    (tmp_path / house_prices.FILE).write_text("no table\n", encoding="utf-8")
    with pytest.raises(data.DataNotFound, match="could not be read"):
        data.load("house-prices", source="real", root=tmp_path)


def test_a_download_that_is_another_file(tmp_path, monkeypatch):
    import torchvision.datasets.utils as utils

    monkeypatch.setattr(
        utils, "download_url", lambda url, root, name: Path(root, name).write_text("else")
    )
    with pytest.raises(data.DataNotFound, match="checksum"):
        data.load("house-prices", source="real", root=tmp_path, download=True)
    assert not (tmp_path / house_prices.FILE).exists()


@pytest.mark.skipif(not (SHARED / house_prices.FILE).is_file(), reason="needs the real file")
def test_the_real_table_as_it_is():
    path = SHARED / house_prices.FILE
    assert hashlib.sha1(path.read_bytes()).hexdigest() == house_prices.SHA1
    train = data.load("house-prices", source="real", root=SHARED)
    test = data.load("house-prices", "test", source="real", root=SHARED)
    assert (len(train), len(test)) == (1168, 292)
    assert train.features[0].tolist() == [1710, 8] and train.prices[0] == 208.5
