"""Vocabularies: text ↔ token numbers, such that any text comes back exactly.

    0 the blank after an item's end      1 the item's end      then the entries

Characters and words that the training text lacks are spelled as bytes, each as two of sixteen entries, its halves:
sixteen more entries cost a model less than 256. A byte-level BPE has all bytes among its entries anyway.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

BLANK, END, FIRST = 0, 1, 2
HALVES = 16  # entries 2 … 17 of the character and word vocabularies: the halves of a byte
MOST_CHARACTERS, MOST_WORDS = 4000, 8000
FEW = 24  # characters of a usual item up to which single characters are the better units
SMALL = 300_000  # characters of training text up to which BPE has too little to learn from
A_PIECE = 200  # characters of training text for each BPE entry
MOST_PIECES = 8000
WORD = re.compile(r" ?\S+|\s+(?!\S)|\s")  # a word with the space before it; pieces joined are the text


class Pieces:
    """Characters or words by number, the rest in bytes."""

    def __init__(self, kind: str, entries: Sequence[str]):
        self.kind, self.entries = kind, list(entries)
        self.number = {piece: FIRST + HALVES + k for k, piece in enumerate(self.entries)}

    def __len__(self) -> int:
        return FIRST + HALVES + len(self.entries)

    def encode(self, text: str) -> list[int]:
        """Text → token numbers, without the end."""
        numbers: list[int] = []
        for piece in text if self.kind == "character" else WORD.findall(text):
            known = self.number.get(piece)
            if known is not None:
                numbers.append(known)
                continue
            for byte in piece.encode("utf-8", "replace"):
                numbers += [FIRST + byte // 16, FIRST + byte % 16]
        return numbers

    def decode(self, numbers: Sequence[int]) -> str:
        """Token numbers up to the first end or blank → text; half a byte and broken UTF-8 become '�'."""
        data, half = bytearray(), None
        for number in numbers:
            if number in (BLANK, END):
                break
            if number < FIRST + HALVES:
                if half is None:
                    half = number - FIRST
                else:
                    data.append(16 * half + number - FIRST)
                    half = None
                continue
            half = None
            data += self.entries[number - FIRST - HALVES].encode()
        return data.decode("utf-8", "replace")

    def state(self) -> dict[str, Any]:
        """What `vocabulary_of` makes it of again."""
        entries = "".join(self.entries) if self.kind == "character" else self.entries
        return {"kind": self.kind, "entries": entries}


class BPE:
    """Byte-level byte-pair encoding, by the library `tokenizers`."""

    kind = "bpe"

    def __init__(self, tokenizer: str):
        from tokenizers import Tokenizer

        self.tokenizer: Any = Tokenizer.from_str(tokenizer)

    @classmethod
    def trained(cls, texts: Sequence[str], symbols: int) -> BPE:
        """A vocabulary of at most `symbols` entries learned from texts."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer: Any = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=max(256, symbols), min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        return FIRST + self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Text → token numbers, without the end."""
        return [FIRST + number for number in self.tokenizer.encode(text).ids]

    def decode(self, numbers: Sequence[int]) -> str:
        """Token numbers up to the first end or blank → text; broken UTF-8 becomes '�'."""
        kept = []
        for number in numbers:
            if number in (BLANK, END):
                break
            kept.append(int(number) - FIRST)
        return self.tokenizer.decode(kept, skip_special_tokens=False)

    def state(self) -> dict[str, Any]:
        """What `vocabulary_of` makes it of again."""
        return {"kind": self.kind, "tokenizer": json.dumps(json.loads(self.tokenizer.to_str()), ensure_ascii=False)}


Vocabulary = Pieces | BPE


def vocabulary_of(state: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a `state`."""
    return BPE(state["tokenizer"]) if state["kind"] == "bpe" else Pieces(state["kind"], state["entries"])


def learn(texts: Sequence[str], kind: str = "auto", symbols: int | None = None) -> Vocabulary:
    """A vocabulary of training texts. kind: character, bpe, word, or auto: characters where items are short or the text
    is small, BPE otherwise, with an entry for every `A_PIECE` characters."""
    total = sum(map(len, texts))
    if kind == "auto":
        usual = sorted(map(len, texts))[len(texts) // 2]
        kind = "character" if usual <= FEW or total <= SMALL else "bpe"
    if kind == "bpe":
        return BPE.trained(texts, symbols or min(MOST_PIECES, max(500, total // A_PIECE)))
    if kind == "word":
        counts = Counter(piece for text in texts for piece in WORD.findall(text))
        common = [piece for piece, count in counts.most_common(symbols or MOST_WORDS) if count > 1]
        return Pieces("word", sorted(common))
    counts = Counter(character for text in texts for character in text)
    return Pieces("character", sorted(c for c, _ in counts.most_common(symbols or MOST_CHARACTERS)))
