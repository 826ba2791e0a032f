"""The data set of the chapter on sequences: sentences of a grammar, and a novel."""

import hashlib
import math
from pathlib import Path

import pytest

from course import data
from course.data import time_machine

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def train():
    return data.load("time-machine")


def test_an_item_is_a_line(train):
    assert len(train) == len(train.lines) == 500
    assert train[0] == train.lines[0] and isinstance(train[0], str)
    assert train.text.split("\n") == train.lines
    assert data.load("time-machine", transform=str.upper)[3] == train[3].upper()


def test_every_sentence_is_of_the_grammar(train):
    for line in train:
        the, adjective, noun, verb, adverb, preposition, at, place = line.split(" ")
        assert the == at == "the"
        many = noun.endswith("s")
        assert many != verb.endswith("s")
        words = (adjective, noun[:-1] if many else noun, verb if many else verb[:-1])
        for word, known in zip(
            (*words, adverb, preposition, place), time_machine.GRAMMAR, strict=True
        ):
            assert word in known


def test_splits_differ_and_are_the_same_every_time(train):
    test = data.load("time-machine", "test")
    assert len(test) == 100 and test.lines != train.lines[:100]
    time_machine._sentences.cache_clear()
    assert data.load("time-machine").lines == train.lines


def test_whoever_changes_the_lines_changes_only_his_own(train):
    mine = data.load("time-machine")
    mine.lines[0] = "nothing"
    assert data.load("time-machine").lines[0] == train.lines[0] != "nothing"


def test_all_words_occur(train):
    words = set(train.text.replace("\n", " ").split())
    assert {w for kind in time_machine.GRAMMAR for w in kind} <= words


def test_the_entropy_is_that_of_all_sentences(train):
    entropy, length = train.nats
    assert entropy == pytest.approx(math.log(2 * 4 * 4 * 4 * 4 * 3 * 4))
    mean = sum(len(line) + 1 for line in train) / len(train)
    assert length == pytest.approx(mean, rel=0.02)


def test_a_real_text_is_cut_in_two(tmp_path):
    assert not data.available("time-machine", tmp_path)
    lines = [f"Line {i}" for i in range(20)]
    (tmp_path / "timemachine.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    parts = [data.load("time-machine", s, source="real", root=tmp_path) for s in ("train", "test")]
    assert [part.lines for part in parts] == [lines[:18], lines[18:]]
    assert parts[0].nats is None


def test_a_missing_text_is_explained(tmp_path):
    with pytest.raises(data.DataNotFound, match="download=True"):
        data.load("time-machine", source="real", root=tmp_path)


def test_a_wrong_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_url",
        lambda url, root, name: (tmp_path / name).write_text("?"),
    )
    with pytest.raises(data.DataNotFound, match="checksum"):
        data.load("time-machine", source="real", root=tmp_path, download=True)
    assert not (tmp_path / "timemachine.txt").exists()


@pytest.mark.skipif(not data.available("time-machine", SHARED), reason="no real data here")
def test_the_real_text():
    text = (SHARED / "timemachine.txt").read_bytes()
    assert hashlib.sha1(text).hexdigest() == time_machine.SHA1
    train = data.load("time-machine", source="real", root=SHARED)
    test = data.load("time-machine", "test", source="real", root=SHARED)
    assert len(train) + len(test) == 3221
    assert train[0] == "The Time Machine, by H. G. Wells [1898]"
