"""Toy truth: the 25 Gaussians and the ring, five seeds each; every loss once on the grid.

python bench/grid.py             prints a table and writes bench/grid.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from morphogen import train
from morphogen.objectives.adversarial import LOSSES

HERE = Path(__file__).resolve().parent
PENALTY = {"wasserstein": ["terms.gradient_penalty={weight: 0.1}", "terms.r1.weight=0", "terms.r2.weight=0"]}


def one(source: str, seed: int, loss: str = "relativistic") -> dict[str, float | str]:
    """Train once; the truth of the best model's 10,000 samples."""
    settings = [f"train.seed={seed}", f"model.loss={loss}", *PENALTY.get(loss, [])]
    with tempfile.TemporaryDirectory() as folder:
        run = train("gan-points", source, out=Path(folder) / "run", settings=settings)
    modes = {k: round(float(v), 4) for k, v in run.evaluation["modes"].items()}
    return {"data": source, "loss": loss, "seed": seed, **modes, "minutes": run.evaluation["training"]["minutes"]}


def main() -> None:
    cases = [(source, seed, "relativistic") for source in ("builtin:grid", "builtin:ring") for seed in range(5)]
    cases += [("builtin:grid", 0, loss) for loss in LOSSES if loss != "relativistic"]
    rows = []
    for case in cases:
        rows.append(one(*case))
        print(rows[-1], flush=True)
    (HERE / "grid.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
