"""−log p(x) of zoo/vae-mnist-binary on all 10,000 test digits, binarised by a fixed seed, by importance sampling.

    python bench/likelihood.py [SAMPLES] [RUN]      500 samples by default; needs ../shared/data

Writes bench/likelihood.json. Each hundred items are kept once done, in runs/likelihood/: begun again, it goes on.

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

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "runs" / "likelihood"
HUNDRED = 100


def part(run: str, samples: int, starts: list[int]) -> None:
    """−log p(x) of the hundreds of test items that begin at `starts`, in float32 on one core, each to its file."""
    import torch

    torch.set_num_threads(1)
    from morphogen import load, open_source

    items = open_source(f"{ROOT.parent / 'shared' / 'data' / 'mnist'}#test").array()
    assert items is not None
    model = load(run)
    for start in starts:
        begin = time.perf_counter()
        x = model.tensor(items[start : start + HUNDRED, :, :, 0])
        with torch.no_grad():
            nats = torch.cat(list(model.family.nll(x, None, samples, seed=start))).tolist()
        kept = {"nats": nats, "seconds": time.perf_counter() - begin}
        kept_at(run, samples, start).write_text(json.dumps(kept))
        print(f"{start}: {sum(nats) / len(nats):.3f}", flush=True)


def kept_at(run: str, samples: int, start: int) -> Path:
    return KEPT / f"{Path(run).name}-{samples}-{start:05}.json"


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    run = sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "zoo" / "vae-mnist-binary")
    KEPT.mkdir(parents=True, exist_ok=True)
    every, workers = range(0, 10_000, HUNDRED), len(os.sched_getaffinity(0))
    left = [start for start in every if not kept_at(run, samples, start).exists()]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.starmap(part, [(run, samples, left[k::workers]) for k in range(workers)])
    kept = [json.loads(kept_at(run, samples, start).read_text()) for start in every]
    each = [nats for hundred in kept for nats in hundred["nats"]]
    mean = sum(each) / len(each)
    spread = (sum((nats - mean) ** 2 for nats in each) / len(each)) ** 0.5
    result = {
        "run": Path(run).name, "items": len(each), "samples": samples, "nats": round(mean, 3),
        "standard_error": round(spread / len(each) ** 0.5, 3),
        "bits_per_dim": round(mean / (784 * 0.6931472), 4),
        "core_minutes": round(sum(hundred["seconds"] for hundred in kept) / 60, 1),
    }  # fmt: skip
    (Path(__file__).parent / "likelihood.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
