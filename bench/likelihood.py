"""−log p(x) of zoo/vae-mnist-binary on all 10,000 test digits, binarised by a fixed seed, by importance sampling.

    python bench/likelihood.py [SAMPLES] [RUN]      500 samples by default; needs ../shared/data

Writes bench/likelihood.json.

The processes, one a core, share the items. The estimate falls with more samples, on average: that of fewer is an upper
bound of that of more (Burda et al. 2016, theorem 1). The standard error is that over the items.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def part(run: str, samples: int, worker: int, workers: int) -> list[float]:
    """−log p(x) of every `workers`-th hundred of the test items, in float32 on one core."""
    import torch

    torch.set_num_threads(1)
    from morphogen import load, open_source

    items = open_source(f"{ROOT.parent / 'shared' / 'data' / 'mnist'}#test").array()
    assert items is not None
    model, found = load(run), []
    for start in range(100 * worker, len(items), 100 * workers):
        x = model.tensor(items[start : start + 100, :, :, 0])
        with torch.no_grad():
            found += torch.cat(list(model.family.nll(x, None, samples, seed=start))).tolist()
        if worker == 0 and start % 1000 == 0:
            print(f"{start} of {len(items)}: {np.mean(found):.3f}", flush=True)
    return found


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    run = sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "zoo" / "vae-mnist-binary")
    workers, begin = len(os.sched_getaffinity(0)), time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        each = np.concatenate(pool.starmap(part, [(run, samples, k, workers) for k in range(workers)]))
    result = {
        "run": Path(run).name, "items": len(each), "samples": samples, "nats": round(float(each.mean()), 3),
        "standard_error": round(float(each.std() / len(each) ** 0.5), 3),
        "bits_per_dim": round(float(each.mean()) / (784 * float(np.log(2))), 4),
        "minutes": round((time.perf_counter() - begin) / 60, 1),
    }  # fmt: skip
    (Path(__file__).parent / "likelihood.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
