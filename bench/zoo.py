"""Train the models of zoo/ anew, put their model/ folder and evaluation.json there, and their scores into RESULTS.md.

    python bench/zoo.py [NAME…]              needs ../shared/data
    python bench/zoo.py --scores [NAME…]     only evaluates the models that are there, and writes their evaluation.json

Each entry is the very command that a user would type; the card holds it, and the data's attribution.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import results_table

from morphogen import evaluate, load
from morphogen.assessment import data_of
from morphogen.model import Model
from morphogen.run import load_tensors, save_tensors, write_json

ROOT = Path(__file__).resolve().parents[1]
MNIST = "MNIST: Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0."
USPS = "USPS: Y. LeCun et al. 1990, the split of The Elements of Statistical Learning."
NAMES = "Names: A. Karpathy, makemore, of the US Social Security Administration's; MIT."
SHAKESPEARE = "Tiny Shakespeare: A. Karpathy, char-rnn; the texts are in the public domain."
CIPHERS = "runs/ciphers"  # made by: python bench/ciphers.py make runs/ciphers
DIGITS, POST = "../shared/data/mnist#train", "../shared/data/usps#train"
CAPTIONS = "MS COCO captions, Texygen's 10,000; CC BY 4.0."
FSDD = "Free Spoken Digit Dataset: Z. Jackson et al.; CC BY-SA 4.0."
SPOKEN, TAKES = "../shared/data/fsdd#take=5-49", "--set 'data.label_pattern={digit}_{speaker}_{take}'"
SHORT = "--set data.seconds=0.704"  # 97 of 100 of these recordings are no longer, and a step costs a third less
CONVERTED = "--set vocoder.source=zoo/gan-fsdd --set evaluate.content=digit"
HALF = 3_900_000  # bytes of float32 weights from which on a model is shared in half precision
SLIM = (
    "--set data.label=label --set 'model.to_a={width: 16, blocks: 3}' --set 'model.to_b={width: 16, blocks: 3}' "
    "--set model.loss=relativistic --set 'model.critic_a={kind: conv, width: 32, features: 128}' "
    "--set 'model.critic_b={kind: conv, width: 32, features: 128}' --set 'terms.r2_a={weight: 0.00012, every: 4}' "
    "--set 'terms.r2_b={weight: 0.00012, every: 4}' --set terms.semantic_a.weight=8 --set terms.semantic_b.weight=8 "
    "--set terms.cycle_a.weight=10 --set terms.cycle_b.weight=10 --set 'players.generator.betas=[0.0,0.99]' "
    "--set 'players.discriminator.betas=[0.0,0.99]' --set model.match_labels=true --set train.evaluate_every=1000"
)
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
    "cyclegan-mnist-usps": (
        f"morphogen train cyclegan-image --data {DIGITS} --data-b {POST} --steps 10000 --set train.seed=2 {SLIM}",
        f"{MNIST} {USPS}",
    ),
    "cyclegan-usps-mnist": (
        f"morphogen train cyclegan-image --data {POST} --data-b {DIGITS} --steps 7000 {SLIM}",
        f"{MNIST} {USPS}",
    ),
    "cyclegan-mnist-noise": (
        f"morphogen train cyclegan-image --data {DIGITS} --steps 8000 --set data.label=label --set model.latent_dim=16 "
        "--set model.loss=relativistic --set 'model.critic_a={width: 24, features: 64}' "
        "--set 'model.to_b={width: 16, features: 64}' --set 'model.to_a={width: 64}' --set terms.cycle_a.weight=20 "
        "--set terms.cycle_b.weight=2 --set 'terms.r2_a={weight: 0.00012, every: 4}' "
        "--set 'players.generator.betas=[0.0,0.99]' --set 'players.discriminator.betas=[0.0,0.99]' "
        "--set train.batch_size=64 --set train.schedule=cosine --set train.decay_from=0",
        MNIST,
    ),
    "cyclevae-mnist": (
        f"morphogen train cyclevae-image --data {DIGITS} --steps 5000 --set data.label=label",
        MNIST,
    ),
    "gan-fsdd": (
        f"morphogen train gan-audio --data {SPOKEN} {TAKES} --set data.label=digit+speaker --steps 6500 "
        "--set model.latent_dim=32 --set 'model.generator={kind: conv, width: 48, most: 128}' "
        "--set 'model.discriminator={kind: projected, width: 24, most: 128, features: 64}' "
        f"--set train.evaluate_every=500 {SHORT}",
        FSDD,
    ),
    "vae-fsdd": (
        f"morphogen train vae-audio --data {SPOKEN} {TAKES} {SHORT} --steps 10000 --set train.batch_size=64 "
        "--set vocoder.source=zoo/gan-fsdd --set 'evaluate.samplers=[local]' --set evaluate.content=digit+speaker "
        "--set model.latent_dim=132 --set 'model.encoder={kind: frames, width: 96, still: false}' "
        "--set 'model.decoder={kind: frames, width: 112}' --set augment.mode=fixed --set augment.probability=0.5 "
        "--set 'augment.policy=[gain, shift, stretch]' "
        "--set 'model.critic={kind: projected, width: 24, most: 128, features: 64, side: 64}' "
        "--set 'terms.adversarial={weight: 5000, start: 5500, warmup: 300}' --set 'terms.critic={start: 5500}' "
        "--set 'terms.r1={weight: 0.00012, every: 4, start: 5500}' "
        "--set 'terms.r2={weight: 0.00012, every: 4, start: 5500}' "
        "--set 'players.discriminator={lr: 0.001, betas: [0.0, 0.99]}' "
        "--set 'players.autoencoder={lr: 0.0005, betas: [0.0, 0.99], clip: 10000}' "
        "--set train.evaluate_every=1000 --set train.decay_from=0.85",
        FSDD,
    ),
    "cyclegan-fsdd": (
        "morphogen train cyclegan-audio --data '../shared/data/fsdd#speaker=jackson,take=5-49' "
        f"--data-b '../shared/data/fsdd#speaker=theo,take=5-49' {TAKES} --set data.seconds=1.024 {CONVERTED} "
        "--set data.label=digit --steps 1633 "
        "--set 'data_b.label_pattern={digit}_{speaker}_{take}' --set data_b.seconds=1.024 "
        "--set 'model.to_a={width: 16, blocks: 3, downs: 2}' --set 'model.to_b={width: 16, blocks: 3, downs: 2}' "
        "--set 'model.critic_a={width: 24, downs: 3}' --set 'model.critic_b={width: 24, downs: 3}'",
        FSDD,
    ),
    "cyclevae-fsdd": (
        f"morphogen train cyclevae-audio --data {SPOKEN} {TAKES} {SHORT} {CONVERTED} --set data.label=speaker "
        "--steps 7000 --set 'model.encoder={kind: maps, width: 24}' --set 'model.decoder={kind: maps, width: 24}' "
        "--set model.latent_dim=704 --set 'model.guess={width: 16, features: 64}' --set terms.kl.weight=1.1 "
        "--set terms.cycle_kl.weight=1.1 --set terms.blind.weight=20 "
        "--set train.evaluate_every=1000 --set 'model.critic={kind: patch, width: 24, downs: 3}' "
        "--set terms.domain.weight=3",
        FSDD,
    ),
    "vae-mnist-binary": (
        "morphogen train vae-binary --data ../shared/data/mnist#train --steps 30000 --set train.evaluate_every=1500",
        MNIST,
    ),
    "vae-names": (
        "morphogen train vae-text --data ../shared/data/text/names.txt --steps 8000 --set train.batch_size=128 "
        "--set model.latent_dim=8 --set model.decoder.word_dropout=0.02 --set train.evaluate_every=800 "
        "--set evaluate.final_samples=3000",
        NAMES,
    ),
    "vae-coco": (
        "morphogen train vae-text --data ../shared/data/text/coco-train.txt --steps 4000 --set model.free_bits=0.35 "
        "--set model.decoder.word_dropout=0.05 --set train.evaluate_every=500 --set evaluate.final_samples=5000 "
        "--set evaluate.samples=1000",
        CAPTIONS,
    ),
    "gan-coco": (
        "morphogen train gan-text --data ../shared/data/text/coco-train.txt --steps 40000 --set "
        "'codec_settings={model: {latent_dim: 64, free_bits: 0, chosen_by: reconstruction, decoder: {word_dropout: "
        "0.05}}, terms: {kl: {weight: 0.17, warmup: 1000}}, train: {steps: 4000, evaluate_every: 1000}, evaluate: "
        "{samplers: [gmm], final_samples: 1000, likelihood_items: 100, importance_samples: 20, language_model: false}}"
        "' --set sample.symbols=0.72 --set train.evaluate_every=4000 --set evaluate.final_samples=5000 "
        "--set evaluate.samples=1000",
        CAPTIONS,
    ),
    "cyclegan-cipher": (
        f"morphogen train cyclegan-text --data {CIPHERS}/vigenere-1/a.txt --data-b {CIPHERS}/vigenere-1/b.txt "
        "--steps 8500 --set 'model.to_a={kind: places, hidden: 128}' --set 'model.to_b={kind: places, hidden: 128}' "
        "--set train.evaluate_every=1000 --set train.checkpoint_every=500",
        SHAKESPEARE,
    ),
    "cyclevae-cipher": (
        f"morphogen train cyclevae-text --data {CIPHERS}/shift-1/a.txt --data-b {CIPHERS}/shift-1/b.txt --steps 6000 "
        "--set train.evaluate_every=1000",
        SHAKESPEARE,
    ),
}

ONLY_THEN = ("training", "priors", "language_model", "maximum_likelihood")  # of an evaluation at the end of a training


def make(name: str) -> None:
    train(ZOO[name][0], name)
    publish(name)


def train(command: str, name: str) -> None:
    """Run a command of the table into runs/NAME."""
    run = ROOT / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    arguments = shlex.split(command.replace("#", "\\#"))[1:]
    subprocess.run(
        [sys.executable, "-m", "morphogen", *arguments, "--out", str(run.relative_to(ROOT))], cwd=ROOT, check=True
    )


def publish(name: str) -> None:
    """Put the finished run's model, scores, card and picture into their places; large weights in half precision."""
    run, target, attribution = ROOT / "runs" / name, ROOT / "zoo" / name, ZOO[name][1]
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run / "model", target / "model")
    if sum(path.stat().st_size for path in target.rglob("*.safetensors")) > HALF:
        for path in target.rglob("*.safetensors"):
            save_tensors({k: v.half() if v.is_floating_point() else v for k, v in load_tensors(path).items()}, path)
    shutil.copy(run / "evaluation.json", target)
    model = load(target)
    (ROOT / "docs" / "pictures").mkdir(parents=True, exist_ok=True)
    draw(model, run, ROOT / "docs" / "pictures" / f"{name}.png")
    card = target / "model" / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + f"\nData: {attribution}\n", encoding="utf-8")


def draw(model: Model, run: Path, picture: Path) -> None:
    """A sheet of samples; of two data sets, translations below what they were made of; of many domains, an item a row
    and what it becomes in each. Of text, the same as lines: each above what it becomes in the first domain."""
    if model.modality.suffix == ".txt" and model.family.other is not None:
        shutil.copy(sorted(run.glob("previews/*-b-to-a.txt"))[-1], picture.with_suffix(".txt"))
        return
    if model.family.other is not None:
        shutil.copy(sorted(run.glob("previews/*-a-to-b.png"))[-1], picture)
        return
    if model.domains and model.modality.name == "text":
        heldout = data_of(model).heldout
        there = heldout.data[np.flatnonzero(np.asarray(heldout.labels["domain"], str) == model.domains[1])[:16]]
        back = model.modality.raw(model.translate(model.modality.array(there), model.domains[0]))
        model.modality.preview_pairs(there, back, picture, 1)
        return
    if not model.domains:
        sheet = model.modality.raw(model.sample(80, seed=0, label="all" if model.classes else None))
        model.modality.preview(sheet, picture, 10)
        return
    heldout = data_of(model).heldout.data
    items = model.modality.array(heldout[:: len(heldout) // 8][:8])
    columns = [items, *(model.translate(items, domain) for domain in model.domains)]
    sheet = np.stack(columns, 1).reshape(-1, *items.shape[1:])
    model.modality.preview(model.modality.raw(sheet), picture, len(columns))


def score(name: str) -> None:
    """Evaluate a model of the zoo with as many items as at the end of its training; what only that knew stays."""
    path = ROOT / "zoo" / name / "evaluation.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    likelihood = old.get("likelihood", {})
    counts = (likelihood.get("items", 1000), likelihood.get("samples", 100))
    new = evaluate(f"zoo/{name}", count=old["counts"]["samples"], likelihood=counts)
    new |= {key: old[key] for key in ONLY_THEN if key in old and key not in new}
    write_json(path, new)
    print(name, new["audit"]["verdict"], [found["what"] for found in new["health"]], flush=True)


def main() -> None:
    os.chdir(ROOT)  # the sources are named from there
    names = [name for name in sys.argv[1:] if name != "--scores"] or list(ZOO)
    for name in names:
        (score if "--scores" in sys.argv[1:] else make)(name)
    results_table.write()


if __name__ == "__main__":
    main()
