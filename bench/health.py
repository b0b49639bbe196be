"""What the watch over a training costs: the processor time of its parts beside that of the training.

    python bench/health.py [STEPS]      alone on the machine; writes bench/health.json

Every recipe is trained for STEPS (default 600) steps as it stands, with the twenty measurements of any run. Timed are
the family's diagnosis, the rules with their rows, and how varied the samples are. `share` is theirs of the training's
time; `share of the whole run` is that when the recipe's own number of steps is trained, at the same speed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from morphogen import evaluation, train
from morphogen.loop import Trainer
from morphogen.recipes import RECIPES

RUNS = {
    "gan-image": ("builtin:digits", {}), "vae-image": ("builtin:digits", {}), "cyclevae-image": ("builtin:digits", {}),
    "cyclegan-image": ("builtin:digits#label=0|1|2|3|4", {"data_b": "builtin:digits#label=5|6|7|8|9"}),
    "vae-text": ("builtin:words", {}), "gan-points": ("builtin:grid", {}),
}  # fmt: skip
SETTINGS = ["evaluate.final_samples=64", "evaluate.report=false", "evaluate.language_model=false",
            "evaluate.samplers=[]", "evaluate.importance_samples=1"]  # fmt: skip


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Within, the seconds of the watch's parts, and of the whole loop, are summed up."""
    seconds: dict[str, float] = {}
    places = (
        (Trainer, "diagnose"),
        (Trainer, "check"),
        (Trainer, "fit"),
        (Trainer, "evaluate"),
        (evaluation, "variety"),
    )
    before = [getattr(owner, name) for owner, name in places]

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            begin = time.process_time()
            try:
                return call(*args, **more)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.process_time() - begin

        return run

    for (owner, name), call in zip(places, before, strict=True):
        setattr(owner, name, wrapped(name, call))
    try:
        yield seconds
    finally:
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, call)


def main() -> None:
    steps, result = int(sys.argv[1]) if sys.argv[1:] else 600, {}
    for recipe, (data, more) in RUNS.items():
        folder = Path(tempfile.mkdtemp())
        with timed() as seconds:
            train(recipe, data, out=folder / "run", steps=steps, settings=SETTINGS, **more)
        shutil.rmtree(folder)
        whole, measured = seconds.pop("fit"), seconds.pop("evaluate")
        watch, longer = sum(seconds.values()), (RECIPES[recipe]().train.steps or steps) / steps
        result[recipe] = {
            "a measurement, ms": round(1000 * watch / 20, 1), "share": round(watch / whole, 4),
            "share of the whole run": round(watch / ((whole - measured) * longer + measured), 4),
        }  # fmt: skip
        print(recipe, result[recipe], flush=True)
    (Path(__file__).parent / "health.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
