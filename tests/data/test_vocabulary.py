"""Words become the numbers of the vocabulary, and only what is not in it becomes [UNK]."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vltickets.data import Source, Vocabulary
from vltickets.data.captions import flickr8k_captions
from vltickets.data.vocabulary import SPECIALS, build_vocabulary, read_vocabulary
from vltickets.errors import UserError

WORDS = [*SPECIALS, "the", "red", "cube", "un", "##seen", "##s", ",", "?"]
VOCABULARY = Vocabulary(WORDS)


def pieces(text: str, longest: int | None = None, vocabulary: Vocabulary = VOCABULARY) -> list[str]:
    return [vocabulary.words[number] for number in vocabulary.encode([text], longest)[0]]


def test_words_are_found_in_the_vocabulary_and_cut_into_its_pieces() -> None:
    assert pieces("The red CUBES, unseen?") == ["[CLS]", "the", "red", "cube", "##s", ",", "un", "##seen", "?", "[SEP]"]


def test_an_unknown_word_is_unk_and_its_neighbours_are_not() -> None:
    assert pieces("the blue cube") == ["[CLS]", "the", "[UNK]", "cube", "[SEP]"]
    assert pieces("") == ["[CLS]", "[SEP]"]


def test_mutant_a_tokenizer_that_ignores_its_vocabulary_is_all_unk() -> None:
    assert pieces("the red cube", vocabulary=Vocabulary([*SPECIALS, "only"])).count("[UNK]") == 3


@given(words=st.lists(st.sampled_from(["the", "red", "unseen", "zebra"]), max_size=12), longest=st.integers(2, 12))
def test_truncation_keeps_the_ends(words: list[str], longest: int) -> None:
    whole, cut = pieces(" ".join(words)), pieces(" ".join(words), longest)
    assert len(cut) == min(len(whole), longest)
    assert (cut[0], cut[-1]) == ("[CLS]", "[SEP]")
    assert cut[:-1] == whole[: len(cut) - 1]


def test_a_vocabulary_with_capitals_keeps_them() -> None:
    cased = Vocabulary([*SPECIALS, "The", "the"])
    assert pieces("The the", vocabulary=cased) == ["[CLS]", "The", "the", "[SEP]"]


def test_content_is_all_but_the_specials() -> None:
    assert VOCABULARY.content.tolist() == list(range(5, len(WORDS)))
    assert len(VOCABULARY) == len(WORDS)


def test_no_text_of_the_world_has_an_unknown_word(source: Source, small_world: Path) -> None:
    captions = source.captions("train")
    answers = source.answers()
    for texts in (captions.texts, captions.foils, source.vqa("test", answers).texts, source.nlvr2("test").texts):
        assert texts is not None
        assert source.vocabulary.unk not in texts.values
    first = json.loads((small_world / "captions" / "captions_train.json").read_text())["annotations"][0]["caption"]
    words = [source.vocabulary.words[number] for number in captions.texts.row(0)]
    assert "".join(words[1:-1]) == first.lower().replace(" ", "")


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_file_s_last_word_counts_with_or_without_a_line_end(tmp_path: Path, end: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + end)
    assert read_vocabulary(path).words == WORDS
    assert Vocabulary(WORDS).text() == "\n".join(WORDS) + "\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\n".join(WORDS[1:]), r"lacks the special tokens \[PAD\]"),
        ("\n".join([*WORDS, "red"]), "names a word twice"),
        ("\xff", "special tokens"),
    ],
)
def test_a_broken_vocabulary_file_is_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=f"vocab.txt.*{says}"):
        read_vocabulary(path)


def test_a_vocabulary_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocab.txt: no such file"):
        read_vocabulary(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match=r"vocab.txt: not a text file"):
        read_vocabulary(tmp_path / "vocab.txt")


def test_a_built_vocabulary_has_the_common_words_commonest_first() -> None:
    built = build_vocabulary(["A dog.", "a dog runs.", "A cat"], least=2)
    assert built.words == [*SPECIALS, "a", ".", "dog"]


@pytest.mark.shared
def test_every_word_of_the_flickr8k_vocabulary_is_found_again(shared: Path) -> None:
    _, captions = flickr8k_captions(shared / "data", "train")
    vocabulary = build_vocabulary((text for texts in captions for text in texts), least=3)
    words = vocabulary.words[len(SPECIALS) :]
    assert vocabulary.encode(words) == [[vocabulary.cls, 5 + n, vocabulary.sep] for n in range(len(words))]
    coded = np.array([n for row in vocabulary.encode([text for texts in captions for text in texts]) for n in row])
    assert (coded == vocabulary.unk).mean() < 0.02
