"""How often the audit calls a copier a copier, and an honest sampler one: planted cases of every modality, five seeds.

    python bench/audit.py [SEEDS]      the models of zoo/ need ../shared/data and are left out without it

Writes bench/audit.json. Copiers: training items, the same a little changed, and one in five among real items that the
model has not seen. Honest: the held-out items themselves, others of their kind, pictures blurred, and the samples of
the models in zoo/. A split and the draws of a case are those of its seed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from morphogen import load
from morphogen.config import Config, DataConfig
from morphogen.data.text import packed, unpacked
from morphogen.domains import load_data
from morphogen.judges import pictures_of, plain_modality
from morphogen.metrics.audit import audit, plain_features

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"image": "builtin:digits", "text": "builtin:words", "audio": "builtin:tones"}
MODELS = ("gan-mnist", "vae-mnist", "gan-fsdd", "vae-fsdd", "vae-names", "gan-coco")
COUNT = 500


def changed(items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Items that a little was done to: noise of 10 grey levels, another letter in each text, sound 1 dB softer."""
    if items.ndim == 4:
        return np.clip(items + rng.normal(0, 10, items.shape), 0, 255).astype(np.uint8)
    if items.ndim == 3:
        return (items * 10 ** (-1 / 20)).astype(np.int16)
    texts = [list(text) for text in unpacked(items)]
    for text in texts:
        text[rng.integers(len(text))] = "abcdefghijklmnopqrstuvwxyz"[rng.integers(26)]
    return packed(["".join(text) for text in texts], items.shape[1])


def blurred(items: np.ndarray) -> np.ndarray:
    """Pictures averaged with their four neighbours."""
    x = items.astype(float)
    return ((x + sum(np.roll(x, s, axis) for axis in (2, 3) for s in (-1, 1))) / 5).astype(np.uint8)


def planted(seed: int) -> list[tuple[str, bool, dict[str, Any]]]:
    """(name, whether it copies, what the audit says) of the cases with made-up samplers."""
    found = []
    for modality, source in SOURCES.items():
        how = Config(modality=modality, data=DataConfig(source=source, heldout_fraction=0.2), train={"seed": seed})  # type: ignore[arg-type]
        data, rng = load_data(how), np.random.default_rng(seed)
        train, order = data.train.data, rng.permutation(len(data.heldout))
        heldout, fresh = (data.heldout.data[np.sort(half)] for half in np.array_split(order, 2))
        copies = train[rng.integers(0, len(train), COUNT)]
        cases: dict[str, tuple[bool, np.ndarray]] = {
            "copies": (True, copies),
            "copies, a little changed": (True, changed(copies, rng)),
            "one in five a copy": (True, np.concatenate([fresh, copies[: len(fresh) // 4]])),
            "the held-out items": (False, heldout[rng.permutation(len(heldout))]),
            "other real items": (False, fresh),
        }
        if modality == "image":
            cases["other real items, blurred"] = False, blurred(fresh)
        see = plain_features(pictures_of(plain_modality(data.train)))
        for name, (guilty, items) in cases.items():
            found.append((f"{modality}: {name}", guilty, audit(items, train, heldout, see, seed)))
    return found


def models(seed: int) -> list[tuple[str, bool, dict[str, Any]]]:
    """The same of the models in zoo/."""
    found = []
    for name in MODELS:
        model = load(ROOT / "zoo" / name)
        training, space = model.description.training, model.modality.item_space
        how = Config(modality=model.modality.name, data=training["data_config"], train={"seed": training["seed"]})  # type: ignore[arg-type]
        if model.modality.suffix == ".txt":
            how.data.length = space[0]
        data = load_data(how)
        see = plain_features(pictures_of(model.modality))
        items = model.modality.raw(model.sample(COUNT, seed))
        found.append((name, False, audit(items, data.train.data, data.heldout.data, see, seed)))
    return found


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    ways: list[Callable[[int], list[Any]]] = [planted]
    ways += [models] if (ROOT.parent / "shared" / "data").exists() else []
    cases: dict[str, dict[str, Any]] = {}
    for name, guilty, found in (case for seed in seeds for way in ways for case in way(seed)):
        case = cases.setdefault(name, {"copies": guilty, "called": 0, "of": 0, "p": []})
        case["called"] += found["verdict"] == "copies"
        case["of"] += 1
        case["p"].append(float(f"{found['p']:.2g}"))
        print(f"{name:<40} {found['verdict']:<7} p {found['p']:.2g}  near {found['near_copies']:.3f}", flush=True)
    rates = {}
    for rate, guilty in (("detection", True), ("false_alarms", False)):
        chosen = [c for c in cases.values() if c["copies"] is guilty]
        rates[rate] = sum(c["called"] for c in chosen) / sum(c["of"] for c in chosen)
    result = rates | {"seeds": len(seeds), "cases": cases}
    (Path(__file__).parent / "audit.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
