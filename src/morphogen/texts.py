"""What evaluating a model of text adds: a language model of equal size, its quality and diversity over the temperature,
and the rows of BLEU. And the first of two stages: a codec that a recipe asks for.

The language model is the VAE's own decoder without z (`blind`), trained as a run of its own, RUN/language_model, for as
many steps: so what z is worth, and what a GAN is worth beside plain maximum likelihood, is always on the table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from morphogen.config import Config, dump_yaml, read_yaml, validate
from morphogen.data.dataset import JOINED
from morphogen.data.text import unpacked
from morphogen.evaluation import FLOOR, SAMPLES
from morphogen.families.base import CHUNK
from morphogen.loop import spaced
from morphogen.metrics.distances import METRICS
from morphogen.metrics.text import DEEP, TextScores, common_words, text_classifier, words_kept
from morphogen.modalities.vocabulary import BLANK
from morphogen.model import Model, load
from morphogen.run import RunFolder, model_folder, read_json, write_text

LANGUAGE_MODEL, CODEC = "language_model", "codec"
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Train = Callable[..., Any]


def train_codec(config: Config, folder: RunFolder, train: Train, **given: Any) -> Config:
    """The config with `codec` naming a run: where it names a recipe, that is trained first, into RUN/codec, on the same
    data. Done already, it is not touched."""
    path = folder.path / CODEC
    assert config.codec is not None
    if not (path / "evaluation.json").exists():
        data = {k: v for k, v in config.data.model_dump(mode="json").items() if k not in ("source", "label")}
        asked = {"data": data, "train": {"seed": config.train.seed}}
        settings = [*_flat(asked), *_flat(config.codec_settings)]
        train(config.codec, config.data.source, out=path, settings=settings, **given)
    return config.model_copy(update={"codec": str(path)})


def _flat(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested keys as 'a.b=c'."""
    found: list[str] = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}={json.dumps(value)}"]
    return found


def train_language_model(config: Config, folder: RunFolder, train: Train, **given: Any) -> None:
    """The equal-size language model of a text VAE's config, as a run in RUN/language_model."""
    path = folder.path / LANGUAGE_MODEL
    if (path / "evaluation.json").exists():
        return
    values = config.model_dump(mode="json")
    decoder = {**values["model"]["decoder"], "blind": True, "word_dropout": 0.0}
    plain = {"free_bits": 0.0, "target_kl": None, "prior": {}, "latent_dim": 1, "chosen_by": "nelbo"}
    values["model"] |= {"encoder": {"kind": "silent"}, "decoder": decoder, **plain}
    values["terms"] = {"reconstruction": {}, "kl": {}}
    values["evaluate"] |= {"language_model": False, "samplers": [], "importance_samples": 1, "final_samples": 2000}
    values["recipe"] = ""
    recipe = folder.path / f"{LANGUAGE_MODEL}.yaml"
    write_text(recipe, dump_yaml(validate(Config, values)))
    train(str(recipe), out=path, **given)


def language_model_of(folder: Path) -> Path | None:
    """The language model beside a run, or beside its codec; None where there is none."""
    for path in (folder / LANGUAGE_MODEL, folder / CODEC / LANGUAGE_MODEL):
        if (path / "evaluation.json").exists():
            return path
    config = folder / "config.yaml"
    codec = read_yaml(config).get("codec") if config.exists() else None
    beside = codec and model_folder(codec).parent / LANGUAGE_MODEL
    return beside if beside and (beside / "evaluation.json").exists() else None


def add_text(result: dict[str, Any], model: Model, data: Any, count: int, seed: int, folder: Path | None) -> None:
    """BLEU and what belongs to it, of samples and of real items, into an evaluation; the language model's beside."""
    begin = time.perf_counter()
    scores = TextScores(data.train.data, data.heldout.data)
    count = min(count, len(data.train))
    samples = model.modality.raw(model.sample(count, seed))
    result["text"] = text_rows(samples, data, count, seed, scores)
    result["notes"].append(note_on(scores))
    beside = None if folder is None else language_model_of(folder)
    if beside is not None:
        result["language_model"] = read_json(beside / "evaluation.json")["likelihood"] | {"run": str(beside)}
        language_model = load(beside)
        result["maximum_likelihood"] = curve(language_model, scores, count, seed)
        for name, found in distances(language_model, samples, data, count, seed).items():
            result["text"][name] |= found
        if folder is not None and (folder / "config.yaml").exists():
            draw_curve(result, folder / "curve.png")
    result["text_seconds"] = round(time.perf_counter() - begin, 1)


def text_rows(
    samples: np.ndarray, data: Any, count: int, seed: int, scores: TextScores | None = None
) -> dict[str, dict[str, float]]:
    """BLEU and what belongs to it of samples uint8 (N, M), and of as many training items: none of them is among the
    held-out ones, which are the references."""
    scores = scores or TextScores(data.train.data, data.heldout.data)
    count = min(count, len(data.train), len(samples))
    return {SAMPLES: scores(samples[:count]), FLOOR: scores.floor(some_of(data.train.data, count, seed))}


def some_of(items: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of the items, in their order, by seed."""
    return items[np.sort(np.random.default_rng(seed).permutation(len(items))[:count])]


class LanguageFeatures:
    """The mean of a language model's recurrent state over an item's tokens, its end included: what the model expects
    on the way, so meaning as far as it has learned any."""

    def __init__(self, language_model: Model):
        self.modality, self.family = language_model.modality, language_model.family

    @torch.no_grad()
    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, H) from uint8 (N, M)."""
        tokens = torch.from_numpy(self.modality.stored(items)).to(self.family.device)
        return torch.cat([self._features(self.modality.encode(part)) for part in tokens.split(CHUNK)]).cpu().numpy()

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        decoder: Any = self.family.decoder
        states = decoder.states(decoder(self.family.noise(len(x), 0).to(x.device)), x)  # it is blind: any code will do
        there = (x != BLANK).unsqueeze(2)
        return (states * there).sum(1) / there.sum(1)


def distances(language_model: Model, samples: np.ndarray, data: Any, count: int, seed: int) -> dict[str, Any]:
    """Fréchet distance and KID to the held-out items in the language model's features, of samples and, as the floor, of
    as many training items; {} for a model that wants labels."""
    if language_model.classes:
        return {}
    extractor = LanguageFeatures(language_model)
    reference, found = extractor.features(data.heldout.data), {}
    for name, items in ((SAMPLES, samples[:count]), (FLOOR, some_of(data.train.data, count, seed))):
        features = extractor.features(items)
        scores = METRICS["frechet"](features, reference, seed) | METRICS["kernel"](features, reference, seed)
        found[name] = {f"language_{key}": value for key, value in scores.items()}
    return found


def add_rows(result: dict[str, Any], items: np.ndarray, data: Any, count: int, seed: int) -> None:
    """`text_rows` of anybody's samples or translations, with their note. A curve of maximum likelihood has no place
    beside translations: a language model translates nothing."""
    scores = TextScores(data.train.data, data.heldout.data)
    result["text"] = text_rows(items, data, count, seed, scores)
    result["notes"].append(note_on(scores))


def note_on(scores: TextScores) -> str:
    """What a reader of the rows must know."""
    units = "characters" if scores.single else "words"
    return (
        f"BLEU is against {len(scores.real)} held-out items, of {units}; more references give higher values: compare "
        f"with the floor's row, which is of training items, its copies of held-out ones. Reverse perplexity: of the "
        f"held-out items under {DEEP[scores.single]}-grams of {units} counted in the row's items."
    )


def curve(language_model: Model, scores: TextScores, count: int, seed: int) -> list[dict[str, float]]:
    """Quality and diversity of a language model's samples at each temperature."""
    rows = []
    for temperature in TEMPERATURES:
        items = language_model.modality.raw(language_model.sample(count, seed, temperature=temperature))
        rows.append({"temperature": temperature} | scores(items))
    return rows


def draw_curve(result: dict[str, Any], path: Path) -> None:
    """Negative BLEU-4 against Self-BLEU-4, lower left the better, as Caccia et al. 2020, figure 1, have it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    ways = result["maximum_likelihood"]
    axes.plot([-r["bleu4"] for r in ways], [r["self_bleu4"] for r in ways], "o-", label="maximum likelihood")
    for r in ways:
        axes.annotate(f" {r['temperature']:g}", (-r["bleu4"], r["self_bleu4"]), fontsize=7)
    for name, row in result["text"].items():
        axes.plot([-row["bleu4"]], [row["self_bleu4"]], "s", label=name)
    axes.set_xlabel("− BLEU-4 against held-out items")
    axes.set_ylabel("Self-BLEU-4")
    axes.legend()
    figure.savefig(path, dpi=120)


MOST_REWRITTEN = 1000  # held-out items that are converted to be judged
COMMON = 50  # most frequent words, which say little of what a sentence is about


def rewritten(model: Model, data: Any, seed: int) -> dict[str, float]:
    """What becomes of held-out texts in another domain, drawn by seed, and of them when they are brought back.

    domain_right   share that a classifier sees in the wanted domain
    before         the same of the texts as they were: what a copy would get
    real_right     share of held-out texts that the classifier sees in their own domain
    words_kept     share of an item's words, the commonest left out, that its conversion has
    words_chance   the same with the conversion of another item
    words_same     the same when an item is decoded in its own domain: what the code knows of the words
    words_back     the same when the conversion is brought back
    """
    label = data.label or JOINED
    rows = spaced(len(data.heldout), MOST_REWRITTEN)
    items, own = model.modality.array(data.heldout.data[rows]), np.asarray(data.heldout.labels[label], str)[rows]
    family: Any = model.family
    numbers = torch.tensor([model.classes.index(d) for d in own], device=family.device)
    to = np.asarray(model.classes)[family.others(numbers, seed).cpu().numpy()]
    made = _brought(model, items, to, seed)
    back, trained = _brought(model, made, own, seed), unpacked(data.train.data)
    classes = text_classifier(trained, np.asarray(data.train.labels[label], str))
    common = common_words(trained, COMMON)
    return {
        "domain_right": float((classes(made) == to).mean()),
        "before": float((classes(items) == to).mean()),
        "real_right": float((classes(items) == own).mean()),
        "words_kept": words_kept(items, made, common),
        "words_chance": words_kept(items, np.roll(made, len(made) // 2), common),
        "words_same": words_kept(items, _brought(model, items, own, seed), common),
        "words_back": words_kept(items, back, common),
    }


def _brought(model: Model, items: np.ndarray, to: np.ndarray, seed: int) -> np.ndarray:
    """Texts (N,) in the domains `to` (N,)."""
    made = np.empty(len(items), object)
    for goal in np.unique(to):
        made[to == goal] = model.translate(items[to == goal], str(goal), seed)
    return made
