"""Words to numbers: BERT's word pieces over a `vocab.txt`, by the `tokenizers` library."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from vltickets.errors import UserError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Vocabulary:
    """A word-piece vocabulary. Text is lower-cased where no word of the vocabulary has a capital letter."""

    def __init__(self, words: Sequence[str], where: str = "the vocabulary") -> None:
        missing = [token for token in SPECIALS if token not in words]
        if missing:
            raise UserError(f"{where} lacks the special tokens {', '.join(missing)}")
        self.words = list(words)
        index = {word: number for number, word in enumerate(self.words)}
        if len(index) != len(self.words):
            raise UserError(f"{where} names a word twice")
        self.pad, self.unk, self.cls, self.sep, self.mask = (index[token] for token in SPECIALS)
        lower = not any(word != word.lower() for word in self.words if word not in SPECIALS)
        self._tokenizer = Tokenizer(WordPiece(index, unk_token="[UNK]", max_input_chars_per_word=100))
        self._tokenizer.normalizer = BertNormalizer(lowercase=lower)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Return [CLS] pieces [SEP] for each text, cut to `longest` numbers, the specials among them."""
        room = None if longest is None else longest - 2
        coded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[self.cls, *item.ids[:room], self.sep] for item in coded]

    @property
    def content(self) -> np.ndarray:
        """The numbers of all but the special tokens, from which MLM draws its random words."""
        special = {self.pad, self.unk, self.cls, self.sep, self.mask}
        return np.array([number for number in range(len(self.words)) if number not in special])

    def text(self) -> str:
        """Return the vocabulary as the content of a `vocab.txt`."""
        return "\n".join(self.words) + "\n"


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a `vocab.txt`, one piece a line; a missing or incomplete one is a `UserError`."""
    try:
        return Vocabulary(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it should hold the word pieces, one a line") from None


def build_vocabulary(texts: Iterable[str], least: int) -> Vocabulary:
    """Return the vocabulary of the words that stand at least `least` times in lower-cased texts, commonest first."""
    counts = Counter(word for text in texts for word in re.findall(r"[^\W_]+|[^\w\s]", text.lower()))
    kept = sorted((word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word))
    return Vocabulary([*SPECIALS, *kept])
