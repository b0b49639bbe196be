"""What the cyclic models of zoo/ keep and change, on MNIST's test digits: the rows of the cycle targets.

    python bench/cycles.py cyclevae [RUN]     probes of the code, digits read in conversions, style kept
    python bench/cycles.py noise RUN [RUN…]   mean |G(E(x)) − x| of any models with an encoder

Needs ../shared; writes bench/cycles-WHAT.json. Converted digits are read by the classifier of ../shared/yardstick.
Probes for the digit are fitted to the codes of 20,000 training digits, to convergence, and the better one counts.
Style is slant and stroke thickness, by image moments.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from morphogen import load, open_source

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CODES = 20_000


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 28, 28) and labels (N,)."""
    source = open_source(f"{SHARED / 'data' / 'mnist'}#{part}")
    items = source.array()
    assert items is not None
    return items[..., 0], np.asarray(source.labels["label"], str)


def probes(model, seed: int = 0) -> dict[str, float]:
    """Per cent of test digits that a probe names right by their codes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    x, y = digits("train")
    rows = np.random.default_rng(seed).permutation(len(x))[:CODES]
    test, test_y = digits("test")
    codes, test_codes = model.encode(x[rows]), model.encode(test)
    mean, std = codes.mean(0), codes.std(0) + 1e-8
    kinds = {
        "logistic regression": LogisticRegression(max_iter=2000),
        "MLP 256, 256": MLPClassifier((256, 256), max_iter=400, random_state=seed),
    }
    found = {}
    for name, probe in kinds.items():
        probe.fit((codes - mean) / std, y[rows])
        found[name] = round(100 * float(probe.score((test_codes - mean) / std, test_y)), 2)
    return found


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slant and stroke thickness (N,) of digits uint8 (N, H, W): μ11/μ02, and ink over the length of its outline."""
    ink = images / 255.0
    rows, columns = np.mgrid[: ink.shape[1], : ink.shape[2]]
    total = ink.sum((1, 2)) + 1e-6
    down = rows - ((ink * rows).sum((1, 2)) / total)[:, None, None]
    right = columns - ((ink * columns).sum((1, 2)) / total)[:, None, None]
    slant = (ink * down * right).sum((1, 2)) / ((ink * down**2).sum((1, 2)) + 1e-6)
    slope = np.hypot(*np.gradient(ink, axis=(1, 2)))
    return slant, total / (slope.sum((1, 2)) + 1e-6)


def conversions(model) -> dict[str, float]:
    """All test digits to each of the ten: the share read as the wanted digit, and the styles' mean correlations."""
    sys.path.insert(0, str(SHARED / "yardstick"))
    import digits as yardstick

    net = yardstick.load(SHARED / "yardstick" / "digits.safetensors")
    x, y = digits("test")
    before, right, kept = moments(x), [], []
    for target in model.domains:
        made = model.translate(x, target)
        seen = yardstick.features(net, np.ascontiguousarray(made))[1].argmax(1)
        right.append(float((seen == int(target)).mean()))
        after = moments(made)
        kept += [
            [np.corrcoef(old[y == source], new[y == source])[0, 1] for old, new in zip(before, after, strict=True)]
            for source in model.domains
            if source != target
        ]
    slant, thickness = np.mean(kept, axis=0)
    return {
        "read as wanted, %": round(100 * float(np.mean(right)), 2), "the worst digit, %": round(100 * min(right), 2),
        "slant r": round(float(slant), 3), "thickness r": round(float(thickness), 3),
    }  # fmt: skip


def main() -> None:
    what, runs = sys.argv[1], sys.argv[2:] or [str(ROOT / "zoo" / "cyclevae-mnist")]
    result = {}
    for run in runs:
        model = load(run)
        if what == "cyclevae":
            result[Path(run).name] = {"digit in the code, %": probes(model)} | conversions(model)
        else:
            x, y = digits("test")
            back = model.reconstruct(x, y.tolist() if model.classes else None)
            error = np.abs(back.astype(np.float32) - x).mean() / 127.5
            result[Path(run).name] = {"mean |G(E(x)) - x|, of values from -1 to 1": round(float(error), 4)}
    (Path(__file__).parent / f"cycles-{what}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
