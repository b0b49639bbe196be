"""Stacked MNIST: three random digits as the channels of a picture, 1,000 modes. How many does a GAN keep?

    python bench/stacked_mnist.py [MINUTES]      needs ../shared; writes bench/stacked_mnist.json

The recipe is gan-image on an .npy file, without labels. 26,000 samples are read channel by channel by the fixed digit
classifier of ../shared/yardstick; reverse KL is KL(share of generated per mode ‖ share in the data), in nats.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from morphogen import open_source, train

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
COUNT = 26_000


def stacked(source: str, count: int, seed: int) -> np.ndarray:
    """uint8 (count, 28, 28, 3) of independently drawn digits."""
    digits = open_source(source).array()
    assert digits is not None
    draws = np.random.default_rng(seed).integers(0, len(digits), (count, 3))
    return np.stack([digits[draws[:, c], :, :, 0] for c in range(3)], axis=-1)


def modes_of(images: np.ndarray) -> np.ndarray:
    """The mode 0 to 999 of each picture (N, 28, 28, 3), by the yardstick's classifier."""
    sys.path.insert(0, str(SHARED / "yardstick"))
    import digits as yardstick

    net = yardstick.load(SHARED / "yardstick" / "digits.safetensors")
    channels = [yardstick.features(net, np.ascontiguousarray(images[..., c]))[1].argmax(1) for c in range(3)]
    return channels[0] * 100 + channels[1] * 10 + channels[2]


def reverse_kl(found: np.ndarray, expected: np.ndarray) -> float:
    p, q = (np.bincount(m, minlength=1000) / len(m) for m in (found, expected))
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    folder = ROOT / "runs" / "stacked"
    folder.mkdir(parents=True, exist_ok=True)
    real = stacked(f"{SHARED / 'data' / 'mnist'}#train", 60_000, 0)
    np.save(folder / "x.npy", real)
    run = train("gan-image", str(folder / "x.npy"), out=folder / "run", minutes=minutes)
    fake = run.model().sample(COUNT, seed=1)
    found, expected = modes_of(fake), modes_of(real)
    fresh = modes_of(stacked(f"{SHARED / 'data' / 'mnist'}#test", COUNT, 1))
    result = {
        "minutes": run.evaluation["training"]["minutes"], "steps": run.config.train.steps,
        "modes": len(np.unique(found)), "reverse_kl": round(reverse_kl(found, expected), 4),
        "floor: real pictures": {
            "modes": len(np.unique(fresh)),
            "reverse_kl": round(reverse_kl(fresh, expected), 4),
        },
    }  # fmt: skip
    (Path(__file__).parent / "stacked_mnist.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
