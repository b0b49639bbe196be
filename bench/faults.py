"""Are planted faults called by their names, and healthy runs left in peace? Trainings of a minute or less each.

    python bench/faults.py [NAME…]      all, or some; about 15 minutes on one core; writes bench/faults.json

Each fault has the finding that must be told; healthy runs must have none at the end. What was told and has gone again
is listed as `passing`. All but the speech of `vae-audio` is built in or made up.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from morphogen import evaluate, train
from morphogen.nets.roles import ConvGenerator

OUT = Path(__file__).parent / "faults.json"
QUICK = ["evaluate.samples=400", "evaluate.final_samples=500", "evaluate.report=false",
         "evaluate.importance_samples=5",
         "evaluate.language_model=false", "evaluate.samplers=[gmm]"]  # fmt: skip
GAN = ["model.generator={kind: conv, width: 32}", "model.discriminator={kind: conv, width: 16}"]
VAE = ["model.encoder={kind: conv, width: 16, features: 64}", "model.decoder={kind: conv, width: 32}",
       "train.batch_size=64"]  # fmt: skip
CYCLE = ["model.to_a={width: 16, blocks: 2}", "model.to_b={width: 16, blocks: 2}", "evaluate.samples=300",
         "train.batch_size=16"]  # fmt: skip


def trained(folder: Path, recipe: str, data: str, steps: int, *settings: str, **more: Any) -> dict[str, list[str]]:
    """{"told": findings at the end, "passing": those that had gone by then} of a training."""
    cadence = [f"train.evaluate_every={steps // 10}", f"train.checkpoint_every={min(20, steps // 10)}"]
    run = train(recipe, data, out=folder / "run", steps=steps, settings=[*QUICK, *cadence, *settings], **more)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    every = {f["what"] for row in rows for f in row.get("health", [])}
    parts = [run.evaluation, run.evaluation.get("back", {"health": []})]
    told = {f["what"]: f["evidence"] for part in parts for f in part["health"]}
    return {"told": [f"{what}: {evidence}" for what, evidence in told.items()], "passing": sorted(every - told.keys())}


def two_of_ten(folder: Path) -> dict[str, list[str]]:
    """A GAN that has seen 3 and 7, beside all ten digits."""
    run = train(
        "gan-image",
        "builtin:digits#label=3|7",
        out=folder / "run",
        steps=1200,
        settings=[*QUICK, *GAN, "data.label=label"],
    )
    np.save(folder / "samples.npy", run.model().sample(1000, label="all"))
    result = evaluate(samples=str(folder / "samples.npy"), data="builtin:digits")
    return {"told": [f"{f['what']}: {f['evidence']}" for f in result["health"]], "passing": []}


class Deaf(ConvGenerator):
    """A decoder that never hears of its code."""

    def forward(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(torch.zeros_like(z), y)


def cut(folder: Path) -> dict[str, list[str]]:
    networks: dict[str, nn.Module] = {"decoder": Deaf((1, 8, 8), 32, width=32)}
    return trained(folder, "vae-image", "builtin:digits", 400, *VAE, "model.free_bits=0.3", networks=networks)


def copies(folder: Path) -> dict[str, list[str]]:
    """Pictures of which three in ten are copies."""
    from morphogen.data import open_source

    items = open_source("builtin:digits").array()
    assert items is not None
    np.save(folder / "items.npy", np.concatenate([items[:700], items[:300]])[..., 0])
    return trained(folder, "gan-image", str(folder / "items.npy"), 300, *GAN)


def few(recipe: str, steps: int, *settings: str) -> Callable[[Path], dict[str, list[str]]]:
    """Of a hundred digits, beside all the others."""

    def run(folder: Path) -> dict[str, list[str]]:
        from morphogen.data import open_source

        items = open_source("builtin:digits").array()
        assert items is not None
        items = np.random.default_rng(0).permutation(items[..., 0])
        np.save(folder / "few.npy", items[:100])
        np.save(folder / "others.npy", items[100:])
        return trained(folder, recipe, str(folder / "few.npy"), steps, *settings, f"data.heldout={folder}/others.npy")

    return run


def digits_and_shades(folder: Path) -> tuple[str, str]:
    """Two domains between which something must be hidden: digits, and shades that run from corner to corner."""
    from morphogen.data import open_source

    items = open_source("builtin:digits").array()
    assert items is not None
    corners = np.random.default_rng(0).uniform(0, 255, (800, 2, 2))
    way = np.stack([np.linspace(1, 0, 16), np.linspace(0, 1, 16)], 1)  # (16, 2)
    shades = np.einsum("hi,nij,wj->nhw", way, corners, way).astype(np.uint8)
    np.save(folder / "a.npy", items[:800, :, :, 0].repeat(2, 1).repeat(2, 2))
    np.save(folder / "b.npy", shades)
    return str(folder / "a.npy"), str(folder / "b.npy")


def hiding(hide: float) -> Callable[[Path], dict[str, list[str]]]:
    def run(folder: Path) -> dict[str, list[str]]:
        a, b = digits_and_shades(folder)
        settings = [*CYCLE, f"model.hide={hide}", "terms.cycle_a.weight=20", "terms.identity_a.weight=0",
                    "terms.identity_b.weight=0"]  # fmt: skip
        return trained(folder, "cyclegan-image", a, 800, *settings, data_b=b)

    return run


def plain(recipe: str, data: str, steps: int, *settings: str, **more: Any) -> Callable[[Path], dict[str, list[str]]]:
    return lambda folder: trained(folder, recipe, data, steps, *settings, **more)


D, W, T = "builtin:digits", "builtin:words", "builtin:tones"
CASES: dict[str, tuple[str, Callable[[Path], dict[str, list[str]]]]] = {  # name → (what must be told, how it is made)
    "two of ten classes": ("mode collapse", two_of_ten),
    "KL times 100": ("posterior collapse", plain("vae-image", D, 400, *VAE, "terms.kl.weight=100")),
    "decoder without codes": ("posterior collapse|decoder ignores the codes", cut),
    "KL times 0": ("prior hole", plain("vae-image", D, 400, *VAE, "terms.kl.weight=1e-5", "evaluate.samplers=[]")),
    "hides, no noise": ("information hiding", hiding(0.0)),
    "learning rate 10": ("divergence", plain("gan-image", D, 300, *GAN, "players.generator.lr=10",
                                             "players.discriminator.lr=10")),
    "30 % copies": ("duplicates", copies),
    "generator asleep": ("discriminator winning", plain("gan-image", D, 400, *GAN, "players.generator.lr=1e-7")),
    "discriminator asleep": ("discriminator idle", plain("gan-image", D, 400, *GAN, "players.discriminator.lr=1e-7")),
    "few items, VAE": ("overfitting", few("vae-image", 1000, *VAE)),
    "few items, GAN": ("discriminator overfits", few("gan-image", 1200, *GAN, "augment.mode=off")),
    "hides, noise": ("not information hiding", hiding(0.1)),
    "gan-image": ("", plain("gan-image", D, 800, *GAN, "data.label=label")),
    "gan-points": ("", plain("gan-points", "builtin:ring", 1500)),
    "vae-image": ("", plain("vae-image", D, 1000, *VAE)),
    "vae-text": ("", plain("vae-text", W, 500, "model.encoder.hidden=64", "model.decoder.hidden=128")),
    "vae-audio": ("", plain("vae-audio", "../shared/data/fsdd#take=5-49", 800, *VAE, "vocoder.source=zoo/gan-fsdd",
                            "data.label_pattern={digit}_{speaker}_{take}", "data.label=digit")),
    "cyclevae-image": ("", plain("cyclevae-image", D, 1000, *VAE, "data.label=label", "model.scale=0.15")),
    "cyclegan-image": ("", plain("cyclegan-image", f"{D}#label=0|1|2|3|4", 500, *CYCLE,
                                 data_b=f"{D}#label=0|1|2|3|4")),
}  # fmt: skip


def right(name: str, expected: str, told: list[str]) -> bool:
    if name == "two of ten classes" and not any("missing: 0, 1, 2, 4, 5, 6, 8, 9" in text for text in told):
        return False
    names = {text.partition(":")[0] for text in told}
    if expected.startswith("not "):
        return expected.removeprefix("not ") not in names
    return bool(names & set(expected.split("|"))) if expected else not names


def main() -> None:
    found = json.loads(OUT.read_text()) if OUT.exists() and sys.argv[1:] else {}
    for name, (expected, make) in CASES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder, begin = Path(tempfile.mkdtemp()), time.perf_counter()
        outcome = make(folder)
        shutil.rmtree(folder)
        seconds = round(time.perf_counter() - begin)
        found[name] = {"expected": expected or "nothing", "right": right(name, expected, outcome["told"]), **outcome,
                       "seconds": seconds}  # fmt: skip
        print(json.dumps({name: found[name]}, ensure_ascii=False, indent=1), flush=True)
        OUT.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
    wrong = [name for name, case in found.items() if not case["right"]]
    print(f"{len(found) - len(wrong)} of {len(found)} right{', wrong: ' + ', '.join(wrong) if wrong else ''}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
