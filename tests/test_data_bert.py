"""The data set of the chapter on BERT: documents of sentences."""

from pathlib import Path

import pytest

from course import data
from course.data import wikitext_2

SHARED = Path(__file__).parents[2] / "shared" / "data"

TEXT = """
 = Tea =

 Tea is a drink . It is hot @-@ water and leaves .
 = = History = =
 <unk> drank it first .

 Many followed .
"""


@pytest.fixture(scope="module")
def stories():
    return data.load("wikitext-2")


def words(documents):
    return {word for document in documents for s in document for word in s.split()}


def test_splits_have_their_size_and_both_moods(stories):
    test = data.load("wikitext-2", "test")
    assert (len(stories), len(test)) == (600, 200)
    for split in (stories, test):
        assert sum(split.moods) == len(split) / 2
        assert len(split.moods) == len(split)


def test_an_item_is_a_list_of_sentences(stories):
    document = stories[0]
    assert 4 <= len(document) <= 7
    assert all(sentence.endswith(" .") and sentence.islower() for sentence in document)
    assert data.load("wikitext-2", transform=len)[0] == len(document)


def test_the_mood_decides_about_words(stories):
    for mood in (0, 1):
        mine = [d for d, m in zip(stories.documents, stories.moods, strict=True) if m == mood]
        other = wikitext_2.ADJECTIVES[1 - mood].split() + wikitext_2.VERBS[1 - mood].split()
        assert not words(mine) & set(other)
        assert set(wikitext_2.ADJECTIVES[mood].split()) <= words(mine)


def test_a_story_has_one_place(stories):
    for document in stories.documents:
        here = words([document])
        places = [p for p, w in wikitext_2.PLACES.items() if here & set(" ".join(w).split())]
        assert len(places) == 1


def test_every_test_word_occurs_in_training(stories):
    assert words(data.load("wikitext-2", "test").documents) <= words(stories.documents)


def test_everybody_gets_the_same_stories(stories):
    assert stories[0][0] == "the gloomy cook blamed the cold oven ."
    assert data.load("wikitext-2").documents == stories.documents
    data.load("wikitext-2").documents[0].clear()
    stories[1].clear()
    assert len(data.load("wikitext-2")[0]) >= 4 and len(stories[1]) >= 4


def test_real_files_are_cut_into_sections_and_sentences(tmp_path):
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    assert not data.available("wikitext-2", tmp_path)
    for file in ("valid.txt", "test.txt"):
        (folder / file).write_text(TEXT, encoding="utf-8")
    dataset = data.load("wikitext-2", "test", source="real", root=tmp_path)
    assert dataset.documents == [
        ["tea is a drink .", "it is hot @-@ water and leaves ."],
        ["<unk> drank it first .", "many followed ."],
    ]
    assert dataset.moods is None


@pytest.mark.skipif(not (SHARED / "wikitext-2").exists(), reason="the real data is not here")
@pytest.mark.parametrize("split, count", [("train", 217646), ("test", 245569)])
def test_the_real_wikitext(split, count):
    dataset = data.load("wikitext-2", split, source="real", root=SHARED)
    text = (SHARED / wikitext_2.FILES[wikitext_2.SPLITS.index(split)]).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert sum(len(line.split()) + 1 for line in lines) == count  # with one end mark per line
    kept = sum(len(s.split()) for document in dataset.documents for s in document)
    headings = [s for s in map(str.strip, lines) if s.startswith("=") and s.endswith("=")]
    assert kept == count - len(lines) - sum(len(line.split()) for line in headings)
