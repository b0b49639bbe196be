"""Toy truth: the 25 Gaussians and the ring, five seeds each; every loss once on the grid.

python bench/grid.py             prints a table and writes bench/grid.json
python bench/grid.py grid        only the five seeds of the grid (or `ring`, or `losses`), beside what the file holds
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from morphogen import train
from morphogen.families.gan import RATIOS
from morphogen.objectives.adversarial import LOSSES

HERE = Path(__file__).resolve().parent
PENALTY = {"wasserstein": ["terms.gradient_penalty={weight: 0.1}", "terms.r1.weight=0", "terms.r2.weight=0"]}


def one(source: str, seed: int, loss: str = "relativistic") -> dict[str, float | str]:
    """Train once; the truth of the best model's 10,000 samples."""
    settings = [f"train.seed={seed}", f"model.loss={loss}", *PENALTY.get(loss, [])]
    settings += [] if loss in RATIOS else ["sample.tries=1"]
    with tempfile.TemporaryDirectory() as folder:
        run = train("gan-points", source, out=Path(folder) / "run", settings=settings)
    modes = {k: round(float(v), 4) for k, v in run.evaluation["modes"].items()}
    return {"data": source, "loss": loss, "seed": seed, **modes, "minutes": run.evaluation["training"]["minutes"]}


CASES = {
    "grid": [("builtin:grid", seed, "relativistic") for seed in range(5)],
    "ring": [("builtin:ring", seed, "relativistic") for seed in range(5)],
    "losses": [("builtin:grid", 0, loss) for loss in LOSSES if loss != "relativistic"],
}


def main() -> None:
    file, wanted = HERE / "grid.json", sys.argv[1:] or list(CASES)
    rows = json.loads(file.read_text()) if file.exists() else {}
    for name in wanted:
        if name not in CASES:
            raise SystemExit(f"There are {', '.join(CASES)}, not {name}.")
        rows[name] = []
        for case in CASES[name]:
            rows[name].append(one(*case))
            print(rows[name][-1], flush=True)
            file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
