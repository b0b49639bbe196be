"""Train the models of zoo/ anew and put their model/ folder and evaluation.json there.

    python bench/zoo.py [NAME…]          needs ../shared/data

Each entry is the very command that a user would type; the card holds it, and the data's attribution.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from morphogen import load

ROOT = Path(__file__).resolve().parents[1]
MNIST = "MNIST: Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0."
ZOO = {
    "gan-mnist": (
        "morphogen train gan-image --data ../shared/data/mnist#train --minutes 10 --set data.label=label "
        "--set model.latent_dim=32 --set model.discriminator.features=64",
        MNIST,
    ),
    "vae-mnist": (
        "morphogen train vae-image --data ../shared/data/mnist#train --minutes 10 --set model.latent_dim=16",
        MNIST,
    ),
    "vae-mnist-binary": (
        "morphogen train vae-binary --data ../shared/data/mnist#train --steps 30000 --set train.evaluate_every=1500",
        MNIST,
    ),
}


def make(name: str) -> None:
    command, attribution = ZOO[name]
    run = ROOT / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    arguments = shlex.split(command.replace("#", "\\#"))[1:]
    subprocess.run(
        [sys.executable, "-m", "morphogen", *arguments, "--out", str(run.relative_to(ROOT))], cwd=ROOT, check=True
    )
    target = ROOT / "zoo" / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run / "model", target / "model")
    shutil.copy(run / "evaluation.json", target)
    model = load(target)
    sheet = model.modality.raw(model.sample(80, seed=0, label="all" if model.classes else None))
    (ROOT / "docs" / "pictures").mkdir(parents=True, exist_ok=True)
    model.modality.preview(sheet, ROOT / "docs" / "pictures" / f"{name}.png", 10)
    card = target / "model" / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + f"\nData: {attribution}\n", encoding="utf-8")


def main() -> None:
    for name in sys.argv[1:] or ZOO:
        make(name)


if __name__ == "__main__":
    main()
