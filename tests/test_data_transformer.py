"""The data set of the chapter on the Transformer: English and French sentences."""

import hashlib
from pathlib import Path

import pytest

from course import data
from course.data import fra_eng

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def train():
    return data.load("fra-eng")


def test_splits_have_their_size_and_no_source_in_common(train):
    test = data.load("fra-eng", "test")
    assert (len(train), len(test)) == (4000, 400)
    sources = [pair[0] for pair in train.pairs + test.pairs]
    assert len(set(sources)) == 4400


def test_an_item_is_two_texts(train):
    source, target = train[0]
    assert isinstance(source, str) and isinstance(target, str)
    assert source.endswith(".") and target.endswith(".")
    loaded = data.load("fra-eng", transform=str.upper, target_transform=len)
    assert loaded[0] == (source.upper(), len(target))


def test_every_test_word_occurs_in_training(train):
    test = data.load("fra-eng", "test")
    for side in (0, 1):
        known = {word for pair in train.pairs for word in pair[side].split()}
        assert {word for pair in test.pairs for word in pair[side].split()} <= known


def test_grammar(train):
    pairs = dict(train.pairs + data.load("fra-eng", "test").pairs)
    feminine = {french for _, french, is_feminine in fra_eng.NOUNS if is_feminine}
    colours = {"rouge", "vert", "verte", "noir", "noire", "blanc", "blanche"}
    for source, target in pairs.items():
        words = target.rstrip(".").split()
        assert ("not" in source) == ("ne" in words) == ("pas" in words)
        for noun in (n for _, n, _ in fra_eng.NOUNS if n in words):
            at = words.index(noun)
            article = (
                words[at - 1]
                if words[at - 1] not in {word for row in fra_eng.ADJECTIVES for word in row[1:3]}
                else words[at - 2]
            )
            assert (article in ("la", "une")) == (noun in feminine)
        assert words[-1] not in ("le", "la", "un", "une", "ne")
        for colour in colours & set(words):
            assert words[words.index(colour) - 1] in {french for _, french, _ in fra_eng.NOUNS}


def test_pairs_are_the_same_every_time():
    digest = hashlib.sha256(repr(fra_eng._sentences()).encode()).hexdigest()
    fra_eng._sentences.cache_clear()
    assert hashlib.sha256(repr(fra_eng._sentences()).encode()).hexdigest() == digest


def test_changing_a_data_set_changes_no_other(train):
    other = data.load("fra-eng")
    other.pairs.clear()
    assert len(train) == len(data.load("fra-eng")) == 4000


# The real file


def write(folder, lines):
    (folder / "fra-eng").mkdir()
    (folder / "fra-eng" / "fra.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_small_file_in_the_real_format(tmp_path):
    assert not data.available("fra-eng", tmp_path)
    write(tmp_path, [f"Sentence {k}.\tPhrase {k} !" for k in range(200)] + ["Go.\tVa !"])
    train, test = (
        data.load("fra-eng", split, source="real", root=tmp_path) for split in ("train", "test")
    )
    assert len(train) + len(test) == 201 and 5 < len(test) < 50
    assert ("Go.", "Va !") in train.pairs + test.pairs


def test_translations_of_one_sentence_stay_together(tmp_path):
    write(tmp_path, [f"Sentence {k // 3}.\tPhrase {k}." for k in range(300)])
    train, test = (
        data.load("fra-eng", split, source="real", root=tmp_path) for split in ("train", "test")
    )
    assert not {s for s, _ in train.pairs} & {s for s, _ in test.pairs}


def test_a_missing_file_is_told_in_one_sentence(tmp_path):
    with pytest.raises(data.DataNotFound, match=r"d2l\.ai"):
        data.load("fra-eng", source="real", root=tmp_path)


def test_a_wrong_download_is_deleted(tmp_path, monkeypatch):
    d2l = pytest.importorskip("d2l.torch")

    def fetch(url, folder, sha1):
        assert url.endswith("fra-eng.zip") and folder == str(tmp_path)
        (tmp_path / "fra-eng.zip").write_bytes(b"not the file")
        return str(tmp_path / "fra-eng.zip")

    monkeypatch.setattr(d2l, "download", fetch)
    with pytest.raises(data.DataNotFound, match="checksum"):
        data.load("fra-eng", source="real", root=tmp_path, download=True)
    assert not (tmp_path / "fra-eng.zip").exists()


@pytest.mark.skipif(not (SHARED / "fra-eng").is_dir(), reason="the real data is not here")
def test_the_real_file():
    train, test = (
        data.load("fra-eng", split, source="real", root=SHARED) for split in ("train", "test")
    )
    assert len(train) + len(test) == 167_130
    assert 0.08 < len(test) / 167_130 < 0.12
    assert not {s for s, _ in train.pairs} & {s for s, _ in test.pairs}
