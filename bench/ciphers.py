"""Ciphers as unpaired translation, where the truth is known: tiny Shakespeare against the same kind of text enciphered.

    python bench/ciphers.py make FOLDER                         substitution, Vigenère (length 3) and shift, 3 keys each
    python bench/ciphers.py score RUN FOLDER/NAME               characters right, on lines never trained on, both ways
    python bench/ciphers.py frequency FOLDER/NAME               what matching by frequency rank gets, for comparison

Lines in lower-case letters and space (27 symbols, all enciphered; Vigenère begins afresh on each line). The last tenth
of the lines is for scoring; the others are shuffled and halved: one half plain (a.txt), the other enciphered (b.txt);
of `substitution` 1,000 lines a side, of `substitution-all` all of them. test-a.txt and test-b.txt are the same lines,
plain and enciphered.
Then: morphogen train cyclegan-text --data FOLDER/NAME/a.txt --data-b FOLDER/NAME/b.txt --out RUN
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from morphogen import load

SYMBOLS = "abcdefghijklmnopqrstuvwxyz "
SHAKESPEARE = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "shakespeare.txt"


def substitution(rng: random.Random) -> Callable[[str], str]:
    shuffled = list(SYMBOLS)
    rng.shuffle(shuffled)
    table = str.maketrans(SYMBOLS, "".join(shuffled))
    return lambda line: line.translate(table)


def vigenere(rng: random.Random, length: int = 3) -> Callable[[str], str]:
    key = [rng.randrange(1, len(SYMBOLS)) for _ in range(length)]
    moved = lambda c, by: SYMBOLS[(SYMBOLS.index(c) + by) % len(SYMBOLS)]
    return lambda line: "".join(moved(c, key[i % length]) for i, c in enumerate(line))


CIPHERS = {
    "substitution": (substitution, 1000),
    "substitution-all": (substitution, None),
    "vigenere": (vigenere, None),
    "shift": (lambda rng: vigenere(rng, 1), None),
}


def lines() -> list[str]:
    texts = (re.sub("[^a-z ]", "", line.lower()) for line in SHAKESPEARE.read_text().splitlines())
    return [text for text in (" ".join(text.split()) for text in texts) if len(text) >= 3]


def make(folder: Path) -> None:
    every = lines()
    cut = len(every) * 9 // 10
    training, test = every[:cut], every[cut:]
    random.Random(0).shuffle(training)
    half = len(training) // 2
    for name, (cipher, most) in CIPHERS.items():
        for key in (1, 2, 3):
            encipher = cipher(random.Random(key))
            plain, secret = training[:half][:most], training[half:][:most]
            parts = {"a": plain, "b": [encipher(line) for line in secret],
                     "test-a": test, "test-b": [encipher(line) for line in test]}  # fmt: skip
            (folder / f"{name}-{key}").mkdir(parents=True, exist_ok=True)
            for part, texts in parts.items():
                (folder / f"{name}-{key}" / f"{part}.txt").write_text("".join(f"{line}\n" for line in texts))


def read(path: Path) -> list[str]:
    return path.read_text().removesuffix("\n").split("\n")


def right(made: list[str], true: list[str]) -> float:
    """The share of characters that are right; what is missing is wrong."""
    hits = sum(x == y for one, other in zip(made, true, strict=True) for x, y in zip(one, other, strict=False))
    return hits / sum(map(len, true))


def score(run: str, folder: Path) -> dict[str, float]:
    plain, cipher, model = read(folder / "test-a.txt"), read(folder / "test-b.txt"), load(run)
    width = model.modality.length - 1
    fits = [k for k, line in enumerate(plain) if len(line) <= width]
    plain, cipher = [plain[k] for k in fits], [cipher[k] for k in fits]
    found = {"lines": len(fits)}
    for to, source, true in (("a", cipher, plain), ("b", plain, cipher)):
        found[f"right_to_{to}"] = right([str(t) for t in model.translate(np.array(source), to)], true)
    return found


def frequency(folder: Path) -> dict[str, float]:
    a, b = (Counter("".join(read(folder / f"{side}.txt"))).most_common() for side in "ab")
    table = {cipher: plain for (cipher, _), (plain, _) in zip(b, a, strict=False)}
    made = ["".join(table.get(c, "?") for c in line) for line in read(folder / "test-b.txt")]
    return {"right_to_a": right(made, read(folder / "test-a.txt"))}


def main() -> None:
    verb, *rest = sys.argv[1:]
    if verb == "make":
        make(Path(rest[0]))
        return
    print(json.dumps(score(rest[0], Path(rest[1])) if verb == "score" else frequency(Path(rest[0]))))


if __name__ == "__main__":
    main()
