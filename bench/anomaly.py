"""Anomalies by likelihood: how well does `score` rank 100 test digits turned by 90 degrees among 1,000 upright ones?

    python bench/anomaly.py [RUN…]      needs ../shared/data; by default the VAEs of zoo/; writes bench/anomaly.json

0, 1 and 8 are left out: turned, they are still digits, or nearly. AUC is the chance that a turned digit scores lower
than an upright one: 0.5 is guessing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from morphogen import load, open_source

ROOT = Path(__file__).resolve().parents[1]


def digits(seed: int = 0, upright: int = 1000, turned: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 28, 28) and bool (N,): which are turned; different test digits in the two groups."""
    source = open_source(f"{ROOT.parent / 'shared' / 'data' / 'mnist'}#test")
    items, labels = source.array(), np.asarray(source.labels["label"], str)
    assert items is not None
    known = np.flatnonzero(~np.isin(labels, ["0", "1", "8"]))
    chosen = np.random.default_rng(seed).permutation(known)[: upright + turned]
    images = items[chosen, :, :, 0].copy()
    images[upright:] = np.rot90(images[upright:], axes=(1, 2))
    return images, np.arange(len(images)) >= upright


def main() -> None:
    images, turned = digits()
    result = {}
    for run in sys.argv[1:] or ["zoo/vae-mnist", "zoo/vae-mnist-binary"]:
        scores = load(ROOT / run if not Path(run).exists() else run).score(images)
        result[run] = {"auc": round(float(roc_auc_score(turned, -scores)), 4)}
    (Path(__file__).parent / "anomaly.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
