"""What the KL costs a codec: BLEU-4 of greedy reconstructions to their inputs, sentence by sentence, on text that no
model was trained or chosen on.

    python bench/codec.py RUN TEXT.txt [N]        RUN: a text VAE, or a model that holds one, such as zoo/gan-coco

Against the same nets with the KL off (4,000 steps on the same captions, as the codec of zoo/gan-coco):

    morphogen train vae-text --data ../shared/data/text/coco-train.txt --steps 4000 --out runs/codec-without-kl \\
      --set model.latent_dim=64 --set model.free_bits=0 --set model.chosen_by=reconstruction --set terms.kl.weight=0 \\
      --set train.evaluate_every=1000 --set evaluate.language_model=false --set 'evaluate.samplers=[gmm]' \\
      --set evaluate.final_samples=1000 --set evaluate.likelihood_items=100 --set evaluate.importance_samples=20
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from morphogen import load
from morphogen.metrics.text import References, bleu, units_of


def score(run: str, text: str, count: int = 2000) -> dict[str, float]:
    model = load(run)
    codec = getattr(model.modality, "codec", None) or model
    lines = Path(text).read_text(encoding="utf-8").splitlines()[:count]
    back = [str(line) for line in codec.reconstruct(np.array(lines))]
    pairs = zip(units_of(lines, False), units_of(back, False), strict=True)
    each = [bleu(made, References([given], 4)) for given, made in pairs]
    same = np.mean([a == b for a, b in zip(lines, back, strict=True)])
    return {"bleu4": float(np.mean(each, 0)[2]), "same": float(same), "lines": len(lines)}


def main() -> None:
    run, text, *count = sys.argv[1:]
    print(json.dumps(score(run, text, *map(int, count))))


if __name__ == "__main__":
    main()
