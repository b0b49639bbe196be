"""A whole model assessed: its samples, its likelihood, its translations and conversions, or anybody's samples."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from morphogen.config import (
    Config,
)
from morphogen.data import BadItem, open_source
from morphogen.data.builtin import GRID_CENTERS, GRID_SIGMA, RING_CENTERS, RING_SIGMA
from morphogen.data.dataset import JOINED
from morphogen.data.text import unpacked
from morphogen.domains import Data, load_data, of_known_classes, read_like, same_source
from morphogen.errors import UsageError
from morphogen.evaluation import (
    conversion_scores,
    cycle_scores,
    evaluate_items,
    likelihood_of,
    text_cycle,
)
from morphogen.families.critic import as_frequent
from morphogen.families.vae import VAE
from morphogen.health import code_findings, cycle_findings, prior_findings, sound_findings
from morphogen.judges import extractor_for, extractors_for, pictures_of, plain_modality, seen_fingerprint, teacher_of
from morphogen.loop import (
    Display,
    Items,
    modality_of,
    spaced,
    translate_raw,
)
from morphogen.metrics.distances import kernel_distance, mean_and_error
from morphogen.metrics.sound import Voices, heard_conversions, sound_scores, through_codec
from morphogen.metrics.toy import mixture_modes
from morphogen.modalities import Audio
from morphogen.model import (
    Model,
    load,
)
from morphogen.precision import choose
from morphogen.run import RunFolder, model_folder, read_json
from morphogen.texts import add_rows, add_text, rewritten
from morphogen.watch import Finding, merge

SEES_ALIKE = (
    "The discriminator saw by a classifier of the same labels as the scores do (another one, of another seed): its "
    "samples look better here than to a stranger."
)
MOST_HEARD = 300  # held-out recordings of a domain that are converted to be listened to


def evaluate(
    run: str | Path | None = None, *, data: str | None = None, samples: str | None = None, heldout: str | None = None,
    extractor: str | None = None, count: int = 10_000, seed: int = 0, display: Display | None = None,
    networks: dict[str, nn.Module] | None = None, likelihood: tuple[int, int] = (1000, 100),
    galleries: str | Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a run, or anybody's samples (a folder or .npy), against held-out data.

    data: what the samples' model was trained on (a run knows its own).  heldout: by default a seeded split of it.
    likelihood: held-out items and importance samples of each, for the likelihood of a VAE.
    galleries: folder for the pictures of the samples closest to training items and farthest from any data; of a run
    folder RUN/galleries.
    Returns the scores; `morphogen.scorecard.table` prints them. UsageError unless one of run, samples is given.
    """
    if (run is None) == (samples is None):
        raise UsageError("Give evaluate a run, or --samples with --data.")
    if run is not None:
        return _evaluate_run(
            load(run, networks), run, data, heldout, extractor, count, seed, likelihood, display, galleries
        )
    if data is None:
        raise UsageError("Give --data: what the model of these samples was trained on.")
    sounding = open_source(data).space == "audio"
    config = Config(modality="audio" if sounding else "image")
    items = load_data(_data_config(config, data, heldout, seed))
    assert samples is not None
    theirs = read_like(samples, items.train, "crop")
    modality = plain_modality(items.train)
    see = pictures_of(modality)
    chosen = extractor_for(extractor or "auto", items, display, see)
    result = evaluate_items(
        theirs.data, items.train.data, items.heldout.data, chosen, seed=seed, sample_count=count, split=items.split,
        see=see,
    )  # fmt: skip
    show_galleries(result, theirs.data, items.train.data, modality, None if galleries is None else Path(galleries))
    add_modes(result, theirs.data, data)
    if theirs.space == "text":
        add_rows(result, theirs.data, items, count, seed)
    if theirs.skipped:
        result["notes"].append(f"{len(theirs.skipped)} samples could not be read and are left out")
    if theirs.space == "image":
        result["notes"] += _resized(samples, items.train.item_shape)
    return result


def _evaluate_run(
    model: Model, run: str | Path, data: str | None, heldout: str | None, extractor: str | None, count: int, seed: int,
    likelihood: tuple[int, int], display: Display | None, galleries: str | Path | None,
) -> dict[str, Any]:  # fmt: skip
    items, training = data_of(model, data, heldout, seed), model.description.training
    chosen = extractors_for(extractor or training.get("extractor", "auto"), items, display, model.family)
    folder = RunFolder(model_folder(run).parent)
    if galleries is None and folder.config.exists():
        galleries = folder.galleries
    result = evaluate_model(
        model, items, chosen, count, likelihood=likelihood, display=display, folder=folder.path,
        galleries=None if galleries is None else Path(galleries),
    )  # fmt: skip
    if folder.evaluation.exists():
        result["training"] = read_json(folder.evaluation).get("training", {})
        merge(result, result["training"].get("health", []))
    return result


def data_of(model: Model, data: str | None = None, heldout: str | None = None, seed: int = 0) -> Data:
    """The data that a model was trained on, or others, fitted to its shape and split as then."""
    training = model.description.training
    config = Config(family=model.description.family, data=training["data_config"], data_b=training.get("data_b"),
                    modality=model.modality.name)  # fmt: skip
    config.evaluate.content = training.get("content")
    if data is not None and not same_source(data, config.data.source):
        config.data.heldout = None
    config = _data_config(config, data, heldout, training.get("seed", seed))
    space = model.modality.item_space
    if len(space) == 3:
        config.data.size, config.data.channels = f"{space[1]}x{space[2]}", space[0]  # type: ignore[assignment]
    elif isinstance(model.modality, Audio):
        config.data.rate, config.data.channels = model.modality.rate, space[0]  # type: ignore[assignment]
        config.data.seconds = model.modality.samples / model.modality.rate
    elif model.modality.suffix == ".txt":
        config.data.length = space[0]  # it bounds text; vectors do not heed it
    items = load_data(config)
    if model.classes and items.label is not None:
        items.heldout = of_known_classes(items.heldout, items.label, model.classes)
    return items


def evaluate_model(
    model: Model, data: Data, extractors: dict[str, Any], count: int, seed: int = 1,
    likelihood: tuple[int, int] = (1000, 100), display: Display | None = None, folder: Path | None = None,
    galleries: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores of `count` samples of a model against held-out data, with the row of real data beside; of a VAE also the
    likelihood of `likelihood` = (items, importance samples of each); of two domains those of their translations.
    galleries: where the pictures of the closest and of the worst samples go."""
    if data.other is not None:
        result = evaluate_translations(model, {"a": data, "b": data.other}, extractors, count, seed, galleries)
        if isinstance(model.modality, Audio):
            result["heard"] = heard(model, data, seed)
        return result
    samples = model.modality.raw(model.sample(count, seed))
    result = evaluate_items(
        samples, data.train.data, data.heldout.data, extractors["a"], seed=seed, split=data.split,
        beside=through_codec(model.modality, data.train.data, count, seed), see=pictures_of(model.modality),
        family=model.description.family,
    )  # fmt: skip
    if model.family.taught is not None and extractors["a"].name == "classifier":
        result["notes"].append(SEES_ALIKE)
    show_galleries(result, samples, data.train.data, model.modality, galleries)
    add_modes(result, samples, data.train.spec)
    if isinstance(model.modality, Audio):
        result["sound"] = sound_scores(
            model.modality, samples, data.train.data, data.heldout.data, extractors["a"]
        )  # fmt: skip
        result["health"] += [f.json() for f in sound_findings(result["sound"])]
    if data.train.space == "text":
        add_text(result, model, data, count, seed, folder)
    if isinstance(model.family, VAE):
        label, device = data.label if model.classes else None, model.family.device
        known, items = (Items(d, label, model.classes, device, model.modality) for d in (data.train, data.heldout))
        raw, y = items.take(spaced(len(items), likelihood[0]))
        progress = None if display is None else display.note
        x = model.modality.encode(raw)
        result["likelihood"] = likelihood_of(model.family, x, y, likelihood[1], seed, progress)
        raw_known, y_known = known.take(spaced(len(known), len(x)))
        learned = model.family.measure(model.modality.encode(raw_known), y_known, seed)
        for name, found in (("train", learned), ("heldout", result["likelihood"])):
            gap = {f"nelbo_{name}{end}": found[f"nelbo{end}"] for end in ("", "_error")}
            result["audit"]["gap"] |= gap
        drawn = model.family.diagnose(_batch(raw_known, y_known, model), _batch(raw, y, model), seed)
        wanted = model.family.options.chosen_by != "reconstruction"
        codes = code_findings(result["likelihood"] | drawn) + (prior_findings(drawn) if wanted else [])
        result["health"] += [f.json() for f in codes]
        result["looked_for"] += ["posterior collapse", "decoder ignores the codes", "prior hole"]
        if model.family.converts and y is not None:
            result["conversions"] = conversion_scores(model.family, x, y, model.classes, extractors["a"], seed)
            if data.train.space == "text":
                result["conversions"] |= rewritten(model, data, seed)
            if isinstance(model.modality, Audio):
                result["heard"] = heard(model, data, seed)
    return result


def _batch(raw: torch.Tensor, y: torch.Tensor | None, model: Model, most: int = 200) -> dict[str, torch.Tensor]:
    """At most `most` items, evenly spaced, as `Family.diagnose` takes them."""
    rows = torch.from_numpy(spaced(len(raw), most)).to(raw.device)
    return {"a": model.modality.encode(raw[rows])} | ({} if y is None else {"label": y[rows]})


def heard(model: Model, data: Data, seed: int) -> dict[str, float]:
    """`heard_conversions` of held-out recordings, each to another domain, with what is said in them where
    `evaluate.content` names it."""
    content = model.description.training.get("content") or ""
    a, b = data, data.other

    def voices(train: bool) -> Voices:
        sets = [(d.train if train else d.heldout, name) for d, name in ((a, "a"), (b, "b")) if d is not None]
        rows = [spaced(len(s), len(s) if train else MOST_HEARD) for s, _ in sets]
        domains = [
            np.full(len(r), name) if b is not None else np.asarray(s.labels[a.label or JOINED], str)[r]
            for (s, name), r in zip(sets, rows, strict=True)
        ]
        known = all(content in s.labels for s, _ in sets)
        said = [np.asarray(s.labels[content], str)[r] for (s, _), r in zip(sets, rows, strict=True)] if known else None
        waves = [s.data[r] for (s, _), r in zip(sets, rows, strict=True)]
        return Voices(np.concatenate(waves), np.concatenate(domains), None if said is None else np.concatenate(said))

    heldout = voices(False)
    if b is not None:
        to = np.where(heldout.domains == "a", "b", "a")
    else:
        family: Any = model.family
        own = torch.tensor([model.classes.index(d) for d in heldout.domains], device=family.device)
        to = np.asarray(model.classes)[family.others(own, seed).cpu().numpy()]
    items, converted = model.modality.array(heldout.waves), np.empty_like(heldout.waves)
    for goal in np.unique(to):
        converted[to == goal] = model.modality.raw(model.translate(items[to == goal], str(goal), seed))
    precision = choose()
    return heard_conversions(
        model.modality, voices(True), heldout, converted, to,
        seen_fingerprint(data.train, model.modality.stored) + (b.train.fingerprint() if b is not None else ""),
        precision.dtype != torch.float32,
    )  # fmt: skip


def evaluate_translations(
    model: Model, domains: dict[str, Data], extractors: dict[str, Any], count: int, seed: int = 1,
    galleries: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores of the translations of held-out items in both directions, each against the held-out items of the domain
    that they were brought to, and how honest the cycle is. The result is that of a → b, with that of b → a under
    'back'."""
    results: dict[str, Any] = {}
    for here, to in (("a", "b"), ("b", "a")):
        source, there, features = domains[here], domains[to], extractors[to]
        raw = source.heldout.data[spaced(len(source.heldout), count)]
        stored = modality_of(model.family, here).stored(np.ascontiguousarray(raw))
        made = translate_raw(model.family, torch.from_numpy(stored), to)
        target = modality_of(model.family, to)
        beaten = {"not translated": target.stretched(raw)}  # what a translation must beat
        beaten |= through_codec(target, there.train.data, len(raw), seed)
        result = evaluate_items(
            made, there.train.data, there.heldout.data, features, seed=seed, split=there.split, beside=beaten,
            see=pictures_of(target), family=model.description.family,
        )  # fmt: skip
        show_galleries(result, made, there.train.data, target, galleries, f"-{here}-to-{to}")
        if there.train.space == "text":
            add_rows(result, made, there, len(made), seed)
        result["cycle"] = cycle_report(model.family, here, source, there, seed)
        result["health"] = [replace(Finding(**f), where=f"{here} to {to}").json() for f in result["health"]]
        result["health"] += [f.json() for f in cycle_findings(result, f"{here} to {to}")]
        result["looked_for"] += ["information hiding", "copied input", "content lost"]
        results[to] = result
    results["b"]["back"] = results["a"]
    return results["b"]


def cycle_report(family: Any, side: str, domain: Data, opposite: Data, seed: int) -> dict[str, float]:
    """`cycle_scores` of held-out items of one domain, and, where their labels are known, the share whose translation
    back is still seen as what they are, and 'kid_matched': the KID of translations, redrawn so that their classes are
    as frequent as in the `opposite` domain, by the labels' classifier, which also reads how frequent they are there."""
    rows = spaced(len(domain.heldout), 1000)
    modality, other = modality_of(family, side), modality_of(family, "b" if side == "a" else "a")
    raw = torch.from_numpy(modality.stored(np.ascontiguousarray(domain.heldout.data[rows])))
    if domain.train.space == "text":
        return text_cycle(family, side, modality.encode(raw), other)[0]
    scores, back = cycle_scores(family, side, modality.encode(raw), other, seed)
    if domain.label is not None:
        see = pictures_of(modality)
        teacher, see = teacher_of(domain, see, label=domain.label, wide=True), see or modality.stretched
        labels = np.asarray(domain.heldout.labels[domain.label], str)[rows]
        seen = np.asarray(teacher.classes)[teacher.probabilities(see(modality.decode(back))).argmax(1)]
        name = "label_kept_there_and_back"
        scores[name], scores[f"{name}_error"] = mean_and_error(seen == labels)
        there = see(translate_raw(family, raw, "b" if side == "a" else "a"))
        seen = np.asarray(teacher.classes)[teacher.probabilities(there).argmax(1)]
        scores["label_kept"], scores["label_kept_error"] = mean_and_error(seen == labels)
        theirs = opposite.heldout.data[spaced(len(opposite.heldout), 1000)]
        shown = translate_raw(family, torch.from_numpy(other.stored(np.ascontiguousarray(theirs))), side)
        classes = torch.from_numpy(np.searchsorted(teacher.classes, labels))
        shares = torch.bincount(classes, minlength=len(teacher.classes)) / len(classes)
        alike = as_frequent(classes, shares, torch.from_numpy(teacher.probabilities(see(shown)).mean(0)))
        matched = teacher.features(there)[alike.numpy()]
        scores["kid_matched"], scores["kid_matched_error"] = kernel_distance(matched, teacher.features(see(theirs)))
    return scores


def show_galleries(
    result: dict[str, Any], samples: np.ndarray, train: np.ndarray, modality: Any, folder: Path | None, end: str = ""
) -> None:
    """The pictures (spectrograms and sound, or texts) of an evaluation: in closest.png the samples that are closest to
    training items, above each the item, in failures.png those that are farthest from any data. Texts also go into the
    result."""
    closest, failures = result["audit"]["closest"], result["failures"]
    copies, ours, worst = (
        items[[found[key] for found in rows]]
        for items, rows, key in ((train, closest, "train"), (samples, closest, "sample"), (samples, failures, "sample"))
    )
    if modality.suffix == ".txt" and samples.dtype == np.uint8:
        for found, pair in zip(closest, zip(unpacked(ours), unpacked(copies), strict=True), strict=True):
            found["texts"] = list(pair)
        for found, text in zip(failures, unpacked(worst), strict=True):
            found["text"] = text
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(modality, "preview_pairs"):
        modality.preview_pairs(copies, ours, folder / f"closest{end}.png", len(ours) // 2)
    modality.preview(worst, folder / f"failures{end}.png", max(1, len(worst) // 2))


def add_modes(result: dict[str, Any], samples: np.ndarray, spec: str) -> None:
    """For the toy mixtures, whose truth is known: modes found, high-quality share, spread, reverse KL."""
    known = {"builtin:grid": (GRID_CENTERS, GRID_SIGMA), "builtin:ring": (RING_CENTERS, RING_SIGMA)}
    name = spec.partition("#")[0]
    if name in known:
        result["modes"] = mixture_modes(samples, *known[name])


def _resized(samples: str, item_shape: tuple[int, ...]) -> list[str]:
    """A note when the first readable sample has another size than the data."""
    source = open_source(samples)
    for i in range(len(source)):
        with contextlib.suppress(BadItem):
            height, width = source.shape(i)[:2]
            if (height, width) == item_shape[1:]:
                return []
            sizes = f"{height}x{width} to the data's {item_shape[1]}x{item_shape[2]}"
            return [f"The samples were resized (the first from {sizes}), which changes what is measured"]
    return []


def _data_config(config: Config, data: str | None, heldout: str | None, seed: int) -> Config:
    config = config.model_copy(deep=True)
    config.data.source, config.data.heldout = data or config.data.source, heldout or config.data.heldout
    config.train.seed = seed
    return config
