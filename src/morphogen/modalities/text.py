"""Text.  Raw: uint8 (B, M), an item's UTF-8 bytes (`data.text`).  Space: (V, L).

Tensors: token numbers, int64 (B, L), the item's end and blanks after it; or, `relaxed`, their probabilities, float32
(B, V, L), one-hot for data, for families that want a gradient through samples. `decode(encode(x)) == x` exactly.

M bytes of the longest item · V entries of the vocabulary · L tokens of the longest item, its end included
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from morphogen.data.text import packed, unpacked
from morphogen.modalities import vocabulary as v
from morphogen.objectives.categorical import straight_through


class Text:
    """The text modality for one vocabulary.

    space: (M,), the width of raw items.  vocabulary: its state.  length: L.
    """

    name = "text"
    suffix = ".txt"

    def __init__(self, space: tuple[int, ...], vocabulary: dict[str, Any], length: int, relaxed: bool = False):
        self.item_space, self.length, self.relaxed = tuple(space), length, relaxed
        self.vocabulary = v.vocabulary_of(vocabulary)
        self.space = (len(self.vocabulary), length)

    def stored(self, raw: np.ndarray) -> np.ndarray:
        """uint8 (N, M) → token numbers int32 (N, L), once, before the training."""
        tokens = np.zeros((len(raw), self.length), np.int32)
        for row, text in zip(tokens, unpacked(raw), strict=True):
            numbers = [*self.vocabulary.encode(text), v.END][: self.length]
            row[: len(numbers)] = numbers
            row[-1] = row[-1] and v.END  # an item that is too long ends where there is no more room
        return tokens

    def encode(self, raw: Tensor) -> Tensor:
        """Token numbers (B, L) → int64, or, relaxed, one-hot float32 (B, V, L), in which the end is a blank."""
        tokens = raw.long()
        if not self.relaxed:
            return tokens
        tokens = torch.where(tokens == v.END, v.BLANK, tokens)
        return F.one_hot(tokens, self.space[0]).transpose(1, 2).float().contiguous()

    def decode(self, x: Tensor) -> np.ndarray:
        """Token numbers (B, L), or probabilities (B, V, L) of them → uint8 (B, M)."""
        tokens = (x.argmax(1) if x.dim() == 3 else x).cpu().numpy()
        return packed([self.vocabulary.decode(row) for row in tokens.tolist()], self.item_space[0])

    def squash(self, x: Tensor) -> Tensor:
        """What a network's last layer (B, V, L) goes through: the softmax over the vocabulary.

        While the network learns, instead a sample with the gradient of the probabilities (`straight_through`).
        """
        return straight_through(x) if x.requires_grad else x.float().softmax(1)

    def array(self, raw: np.ndarray) -> np.ndarray:
        """uint8 (N, M) → strings (N,)."""
        return np.array(unpacked(raw), dtype=str)

    def raw(self, array: np.ndarray) -> np.ndarray:
        """Strings (N,) → uint8 (N, M); what does not fit is cut off."""
        return packed([str(text) for text in array], self.item_space[0])

    def units(self, tokens: Tensor) -> dict[str, int]:
        """How many tokens and characters items of token numbers (N, L) have, each one's end counted."""
        count = int((tokens != v.BLANK).sum())
        return {"token": count, "character": sum(len(self.vocabulary.decode(t)) + 1 for t in tokens.tolist())}

    def stretched(self, raw: np.ndarray) -> np.ndarray:
        """uint8 (N, M') of another text → (N, M) of this one."""
        return packed(unpacked(raw), self.item_space[0])

    def save(self, item: np.ndarray, path: Path) -> None:
        """One item as a file."""
        path.write_text(unpacked(item[None])[0] + "\n", encoding="utf-8", newline="\n")

    def preview(self, raw: np.ndarray, path: Path, columns: int) -> None:
        """uint8 (N, M) → a .txt file, an item a line."""
        write_lines(path.with_suffix(".txt"), unpacked(raw))

    def preview_pairs(self, above: np.ndarray, below: np.ndarray, path: Path, columns: int) -> None:
        """Items (N, M), under each its counterpart (N, M'), as a .txt file."""
        pairs = zip(unpacked(above), unpacked(below), strict=True)
        write_lines(path.with_suffix(".txt"), [text for pair in pairs for text in (*pair, "")])

    def animate(self, raw: np.ndarray, path: Path, milliseconds: int = 60) -> None:
        """Text has no frames: the items, a line each."""
        self.preview(raw, path, 1)


def write_lines(path: Path, texts: Any) -> None:
    """Texts as a .txt file, one a line; line breaks within a text become spaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ("".join(" " if c in "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029" else c for c in str(t)) for t in texts)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def text_options(
    texts: list[str], others: list[str], kind: str = "auto", symbols: int | None = None
) -> dict[str, Any]:  # fmt: skip
    """The settings of the modality for training texts; others: held-out ones, which must fit in, too."""
    vocabulary = v.learn(texts, kind, symbols)
    longest = max(len(vocabulary.encode(text)) for text in [*texts, *others])
    return {"vocabulary": vocabulary.state(), "length": longest + 1}
