"""The defaults on 300 to 60,000 images, nothing tuned: MNIST cut to size, and other real sets; a minute or two each.

    python bench/sizes.py [MINUTES]      needs ../shared/data; prints a table and writes bench/sizes.json

The score is FID to the same 5,000 held-out digits for every size, in the features of one classifier.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from morphogen import open_source, train

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"


def cut(folder: Path, count: int) -> str:
    """The first `count` of a seeded order of MNIST's training digits, as .npz with labels."""
    source = open_source(f"{SHARED / 'mnist'}#train")
    order = np.random.default_rng(0).permutation(len(source))
    rows, rest = order[5000 : 5000 + count], order[:5000]
    items, labels = source.array(), np.asarray(source.labels["label"])
    np.savez(folder / f"{count}.npz", images=items[rows], labels=labels[rows])
    np.savez(folder / "heldout.npz", images=items[rest], labels=labels[rest])
    return str(folder / f"{count}.npz")


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (300, 1000, 6000, 55_000):
            source = cut(folder, count)
            settings = [f"data.heldout={folder / 'heldout.npz'}", "evaluate.extractor=random"]
            run = train("gan-image", source, out=folder / f"run{count}", minutes=minutes, settings=settings)
            row = run.evaluation["rows"]
            lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
            fids = [line["heldout/fid"] for line in lines if "heldout/fid" in line]
            rows.append({
                "images": count, "steps": run.config.train.steps,
                "best FID": round(min(fids), 3), "last FID": round(fids[-1], 3),
                "floor": round(row["real held-out data"]["fid"], 3), "augment at the end": lines[-2].get("augment"),
                "skipped updates": lines[-2].get("skipped_updates", 0),
                "rollbacks": sum("rollback" in line for line in lines),
            })  # fmt: skip
            print(rows[-1], flush=True)
    (HERE / "sizes.json").write_text(json.dumps({"minutes": minutes, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
