"""Training, from the words of the command line to a finished run folder.

Order of a training: config → data → description (shape, classes) → networks → run folder → loop → final evaluation.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from morphogen.assessment import evaluate_model
from morphogen.config import (
    SAFE_TO_CHANGE,
    Config,
    apply_settings,
    changed_keys,
    dump_yaml,
    near,
    read_yaml,
    validate,
)
from morphogen.data.check import facts_of
from morphogen.data.dataset import TOGETHER
from morphogen.description import describe
from morphogen.domains import Data, load_data
from morphogen.errors import MorphogenError, UsageError
from morphogen.evaluation import (
    HeldoutScore,
    TranslationScore,
)
from morphogen.families import Family
from morphogen.families.cycle_gan import CycleGAN
from morphogen.families.vae import VAE
from morphogen.health import data_findings
from morphogen.judges import extractors_for, pictures_of, teacher_of
from morphogen.loop import (
    ENOUGH_FOR_FID,
    Display,
    Items,
    Silence,
    Trainer,
    modality_of,
    spaced,
    steps_for_minutes,
)
from morphogen.metrics.audit import MOST, audit, plain_features
from morphogen.metrics.classifier import SIDE
from morphogen.modalities import Audio
from morphogen.model import (
    Model,
    build_family,
    load,
    save_model,
    start_from,
    weights_hash,
)
from morphogen.posthoc import candidates, fit_domains, top_codes, views_of
from morphogen.precision import choose, made_with
from morphogen.recipes import RECIPES
from morphogen.report import write_report
from morphogen.run import RunFolder, read_json, write_json, write_text
from morphogen.texts import train_codec, train_language_model
from morphogen.vocoding import ready_vocoder
from morphogen.watch import Finding, merge

FITTED = 30_000  # items whose codes a post-hoc prior is fitted to
TEXTURED, TEXTURED_NUMBERS = 2000, 20_000_000  # items, of so many numbers at most, that samples' grain is measured on
MOST_ATTRIBUTES = 1000  # values of a label of which the model learns where they lie


@dataclass
class Run:
    """A finished training."""

    path: Path
    config: Config
    evaluation: dict[str, Any]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def model(self, networks: dict[str, nn.Module] | None = None) -> Model:
        """The best model of this run."""
        return load(self.path, networks)


def resolve_config(recipe: str, settings: Sequence[str] = (), **given: Any) -> Config:
    """The config of a recipe name or a YAML file with `settings` ('a.b=c') and the options of `train` put in.

    Raises UsageError for an unknown recipe, key or value.
    """
    if recipe in RECIPES:
        values = RECIPES[recipe]().model_dump(mode="json")
    elif recipe.endswith((".yaml", ".yml")):
        values = read_yaml(Path(recipe))
    else:
        raise UsageError(f"There is no recipe '{recipe}'; `morphogen recipes` lists them.{near(recipe, RECIPES)}")
    values = copy.deepcopy(values)
    for section in ("data", "train"):
        values[section] = values.get(section) or {}
        if not isinstance(values[section], dict):
            raise UsageError(f"The section '{section}' of {recipe} is no mapping of keys to values.")
    if given.get("data"):
        values["data"]["source"] = given["data"]
    if given.get("data_b"):
        values["data_b"] = (values.get("data_b") or {}) | {"source": given["data_b"]}
    lengths = {name: given[name] for name in ("steps", "minutes") if given.get(name) is not None}
    if len(lengths) > 1:
        raise UsageError("Give --steps or --minutes, not both.")
    asked = {s.partition("=")[0].strip() for s in settings} & {"train.steps", "train.minutes", "train.epochs"}
    if lengths or asked:
        values["train"] |= {"steps": None, "minutes": None, "epochs": None, **lengths}
    return validate(Config, apply_settings(values, list(settings)))


def check_content(config: Config, data: Data) -> None:
    """UsageError where evaluate.content names no attribute of the data."""
    content, known = config.evaluate.content, data.train.labels
    if content is not None and content not in known:
        has = ", ".join(known) or "none"
        raise UsageError(f"evaluate.content is '{content}', but the items have {has}.{near(content, known)}")


def check_terms(config: Config, family: Family) -> None:
    """Every player needs settings and its first term; no other names may be there, and no augmentation that the family
    would not heed. UsageError names the fault."""
    if config.augment.mode not in family.augmentations:
        raise UsageError(f"This family heeds augment.mode={' or '.join(family.augmentations)} only; set that.")
    if config.sample.tries > 1 and not family.chooses:
        raise UsageError(
            "sample.tries is for GANs whose model.loss is relativistic or nonsaturating, which make their "
            "discriminator's logits log-ratios; set sample.tries=1."
        )
    terms = [name for names in family.terms.values() for name in names]
    for what, given, known in (("player", config.players, family.players), ("term", config.terms, terms)):
        for name in given:
            if name not in known:
                raise UsageError(f"The family has no {what} '{name}'; it has {', '.join(known)}.{near(name, known)}")
    if isinstance(family, VAE) and family.last is not None and "adversarial" in config.terms:
        term = config.terms["adversarial"]
        if not term.start or term.every > 1 or term.until is not None:
            raise UsageError(
                "While the critic teaches a VAE its encoder rests: set terms.adversarial.start to the step from which, "
                "and neither every nor until."
            )
    for name in family.needed:
        if name not in config.terms:
            raise UsageError(f"The config lacks terms.{name}, without which a network learns nothing; add it.")
    for player in (name for name, networks in family.players.items() if networks):
        if player not in config.players:
            raise UsageError(f"The config lacks players.{player}; give it a learning rate, players.{player}.lr.")
        if family.terms[player][0] not in config.terms:
            raise UsageError(
                f"The config lacks terms.{family.terms[player][0]}, without which {player} learns nothing; add it, or "
                f"leave the network out where it may be (such as model.probe=null)."
            )


def check_starts(config: Config, steps: int) -> None:
    """UsageError for a term that would begin after the last of so many steps."""
    late = [name for name, term in config.terms.items() if term.weight and term.start >= steps]
    if late:
        raise UsageError(f"terms.{late[0]}.start is past the last step, {steps}; set a smaller one.")


def train(
    recipe: str = "gan-image",
    data: str | None = None,
    data_b: str | None = None,
    *,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    steps: int | None = None,
    minutes: float | None = None,
    init: str | Path | None = None,
    networks: dict[str, nn.Module] | None = None,
    display: Display | None = None,
    command: str = "",
) -> Run:
    """Train a model into the run folder `out`, or go on with the training that is there.

    recipe: a name of `morphogen recipes` or a YAML file.  data: SRC (a folder, an IDX folder, .npy, builtin:NAME, …).
    data_b: SRC of the second domain, for recipes with two.
    settings: 'a.b=c' as with --set.  steps, minutes: how long.  init: a run whose weights to start from.
    networks: own modules by role, as {'generator': module}; their calls are those of `morphogen.nets.roles`.
    Raises UsageError for wrong options, MorphogenError for bad data or divergence, Stopped after Ctrl-C or SIGTERM.
    """
    display = display or Silence()
    config = resolve_config(recipe, settings, data=data, data_b=data_b, steps=steps, minutes=minutes)
    folder = RunFolder(out or Path("runs") / (config.recipe or Path(recipe).stem))
    going_on = folder.exists()
    if config.codec in RECIPES:
        config = train_codec(config, folder, train, display=display)
    if going_on:
        config = continued(config, folder)
    items = load_data(config)
    skipped = items.train.skipped + (items.other.train.skipped if items.other is not None else [])
    if skipped:
        display.note(f"{len(skipped)} unreadable items are left out; {folder.skipped} lists them")
    check_content(config, items)
    description = describe(config, items, networks)
    family = build_family(description, config.augment, networks, config.train.seed, items.codec)
    check_terms(config, family)
    precision = choose(config.train.precision)
    spent = 0.0
    if isinstance(family.modality, Audio):
        spent = ready_vocoder(
            family.modality, items.waves(), items.train.fingerprint(), config.vocoder, precision, config.train.seed,
            folder.path, display.note, None if going_on else config.train.minutes,
        )  # fmt: skip
    spent += let_teach(config, family, items, display)
    if init is not None and not folder.steps_saved():
        copied, total = start_from(family, init)
        display.note(f"started from {init}: {copied} of {total} tensors fit")
    facts = data_facts(items)
    check_facts(folder, facts, going_on)
    extractors = extractors_for(config.evaluate.extractor, items, display, family)
    scorers = {side: heldout_score(extractors[side], d, config) for side, d in items.domains().items()}
    scorer: Any = scorers["a"]
    if items.other is not None:
        beaten = {
            side: modality_of(family, to).stretched(
                d.heldout.data[spaced(len(d.heldout), config.evaluate.samples)]
            ) for (side, d), to in zip(items.domains().items(), "ba", strict=True)
        }  # fmt: skip
        scorer = TranslationScore(**scorers, beaten=beaten)
    folder.create()
    folder.write_skipped(skipped)
    if config.train.tensorboard:
        display = tensorboard(display, folder)

    def save(best: Family, step: int, scores: dict[str, float]) -> None:
        description.training = provenance(config, items) | {
            "name": folder.path.name, "step": step, "scores": scores, "command": command, "precision": precision.why,
            "versions": made_with(),
        }  # fmt: skip
        save_model(best, description, folder.model)

    def trainer(network_family: Family) -> Trainer:
        return Trainer(
            config, network_family, items.train, items.heldout, items.classes, folder, precision, scorer, save, display,
            None if (b := items.other) is None else (b.train, b.heldout, b.label, b.classes),
        )  # fmt: skip

    if config.train.steps is None:
        config.train.steps = decide_steps(config, len(items.train), lambda: trainer(copy.deepcopy(family)), spent)
        display.note(f"{config.train.steps} steps")
    check_starts(config, config.train.steps)
    write_text(folder.config, dump_yaml(config))
    write_json(folder.facts, facts)
    loop = trainer(family)
    if init is not None:  # again: what the family took from the data in between is learned state of that model
        start_from(family, init)
        loop.shown.load_state_dict(family.state_dict())
    if going_on and loop.resume():
        display.note(f"going on from step {loop.step} of {config.train.steps}")
    if loop.step == 0:
        folder.cut_metrics(-1)
        loop.tell([loop.watch.keep(finding) for finding in wrong_with(items)], [])
    loop.fit()
    if config.evaluate.language_model:
        train_language_model(config, folder, train, display=display)
    standing = [finding.json() for finding in loop.watch.standing.values()]
    evaluation = finish(folder, config, items, extractors, scorer, loop.seconds, networks, display, standing)
    return Run(folder.path, config, evaluation, skipped)


def heldout_score(extractor: Any, data: Data, config: Config) -> HeldoutScore:
    """What scores samples of one domain while training, with the floor of as many training items."""
    real = data.train.data[spaced(len(data.train), config.evaluate.samples)]
    return HeldoutScore(extractor, data.heldout.data, real=real)


def wrong_with(data: Data) -> list[Finding]:
    """What is wrong with the items that a training begins with, of either domain."""
    domains = data.domains()
    found = {side: data_findings(facts_of(d.train, d.label)) for side, d in domains.items()}
    return [replace(f, since=0, where=f.where if len(domains) == 1 else f"{side} {f.where}".strip())
            for side, findings in found.items() for f in findings]  # fmt: skip


def continued(config: Config, folder: RunFolder) -> Config:
    """The config to go on with; UsageError names a changed setting that would make it another run."""
    stored = validate(Config, read_yaml(folder.config))
    old, new = stored.model_dump(mode="json"), config.model_dump(mode="json")
    unsafe = [key for key in changed_keys(old, new) if key not in SAFE_TO_CHANGE]
    if unsafe:
        raise UsageError(
            f"{folder.path} was begun with another {unsafe[0]}; use another --out, or the settings of {folder.config}."
        )
    config.vocoder.steps = stored.vocoder.steps  # it is trained already
    same_length = (config.train.minutes, config.train.epochs) == (stored.train.minutes, stored.train.epochs)
    if config.train.steps is None and same_length:
        config.train.steps = stored.train.steps
    return config


def tensorboard(display: Display, folder: RunFolder) -> Display:
    """The display, with the curves written for TensorBoard as well."""
    try:
        from morphogen.progress import TensorBoardDisplay

        return TensorBoardDisplay(display, str(folder.path / "tensorboard"))
    except ImportError:
        raise UsageError("train.tensorboard needs the extra: pip install 'morphogen[track]'.") from None


def provenance(config: Config, data: Data) -> dict[str, Any]:
    """What a model says of its training, as far as it is known beforehand."""
    return {
        "recipe": config.recipe, "data": config.data.source, "split": data.split, "items": len(data.train),
        "heldout": len(data.heldout), "seed": config.train.seed, "steps": config.train.steps,
        "data_config": config.data.model_dump(mode="json"), "extractor": config.evaluate.extractor,
        "content": config.evaluate.content, "data_b": config.data_b and config.data_b.model_dump(mode="json"),
    }  # fmt: skip


def data_facts(data: Data) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    codec = {} if data.codec is None else {"codec": weights_hash(data.codec)}
    return codec | {
        "fingerprint": data.train.fingerprint(), "heldout_fingerprint": data.heldout.fingerprint(),
        "space": list(data.train.item_shape), "classes": data.classes,
        **({} if data.other is None else {"other": data_facts(data.other)}),
    }  # fmt: skip


def check_facts(folder: RunFolder, facts: dict[str, Any], going_on: bool) -> None:
    """Refuse to go on with data that are not those the run began with."""
    if going_on and folder.facts.exists() and read_json(folder.facts) != facts:
        raise MorphogenError(f"The data have changed since {folder.path} began; restore them or use another --out.")


def decide_steps(config: Config, items: int, trial: Callable[[], Trainer], spent: float = 0.0) -> int:
    """The number of steps: from minutes, less those spent already, by a short trial, else from epochs, else 10,000."""
    if config.train.minutes is not None:
        late = [name for name, term in config.terms.items() if term.start]
        if late:
            raise UsageError(f"terms.{late[0]}.start counts steps, so give --steps, not minutes.")
        return steps_for_minutes(trial(), max(0.1 * config.train.minutes, config.train.minutes - spent))
    if config.train.epochs is not None:
        return max(1, round(config.train.epochs * items / config.train.batch_size))
    return 10_000


def let_teach(config: Config, family: Family, data: Data, display: Display) -> float:
    """Train the classifier that a family learns from, where it does: one of the label for a discriminator to see by.
    Returns the seconds it took."""
    begin = time.perf_counter()
    if isinstance(family, CycleGAN):
        let_hold_meaning(config, family, data, display)
    elif family.taught is not None:
        let_see(family, data, display)
    return time.perf_counter() - begin


def let_see(family: Family, data: Data, display: Display) -> None:
    """Train a classifier of the label, and let the discriminator see by it."""
    label, trunk, begin = data.evaluation_label(), family.taught, time.perf_counter()
    assert trunk is not None
    if label is None or label not in data.heldout.labels or len(np.unique(data.train.labels[label])) < 2:
        raise UsageError(
            "A projected discriminator sees items as a classifier of their labels does, of two or more; set "
            "data.label or evaluate.content, or another kind of discriminator, as conv."
        )
    classifier = teacher_of(data, pictures_of(family.modality), label=label, seed=1, side=trunk.largest)
    trunk.learn(classifier.net.trunk)
    display.note(f"the discriminator sees by a {classifier.identity} ({time.perf_counter() - begin:.0f} s)")


def let_hold_meaning(config: Config, family: CycleGAN, data: Data, display: Display) -> None:
    """Train a classifier of the labelled one of two domains, and let it hold the meaning of translations. UsageError
    where classes are to be matched that nobody reads."""
    weighs = [side for side in "ab" if (term := config.terms.get(f"semantic_{side}")) is not None and term.weight]
    domains = {"a": data} if data.other is None else {"a": data, "b": data.other}
    labelled = next((side for side, domain in domains.items() if domain.label is not None), None)
    if getattr(family.options, "match_labels", False) and (data.other is None or labelled not in weighs):
        raise UsageError(
            "model.match_labels needs two data sets, labels of one (data.label or data_b.label), and the semantic term "
            "of its side, by which the classes in the other are read."
        )
    if data.other is None or not weighs or labelled is None:
        return
    begin = time.perf_counter()
    classifier = teacher_of(
        domains[labelled], pictures_of(family.modality), label=str(domains[labelled].label), wide=True
    )
    family.teach(labelled, classifier.net, SIDE)
    display.note(f"meaning is held by a {classifier.identity} ({time.perf_counter() - begin:.0f} s)")


def finish(
    folder: RunFolder, config: Config, data: Data, extractors: dict[str, Any], scorer: HeldoutScore, seconds: float,
    networks: dict[str, nn.Module] | None, display: Display, standing: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Choose the prior of a VAE's samples, then evaluate the best model in full, into RUN/evaluation.json, together
    with the findings that stood at the end of the training."""
    if not (folder.model / "weights.safetensors").exists():
        raise MorphogenError(f"No evaluation of {folder.path} gave a finite score; lower the learning rates.")
    model, settings, priors = load(folder.path, networks), config.evaluate, None
    if isinstance(model.family, VAE):
        model.description.sample = config.sample.model_dump(mode="json")  # it may have changed since the best step
        model, priors = choose_prior(model, data, scorer, config, display)
        model.save(folder.model)
    display.note("evaluating the best model")
    model.description.training["content"] = config.evaluate.content
    result = evaluate_model(
        model,
        data,
        extractors,
        settings.final_samples,
        likelihood=(settings.likelihood_items, settings.importance_samples),
        folder=folder.path,
        galleries=folder.galleries,
    )
    if priors:
        result["priors"] = priors
    result["training"] = {"minutes": round(seconds / 60, 2), "steps": config.train.steps, "recipe": config.recipe,
                          "health": standing}  # fmt: skip
    merge(result, standing)
    write_json(folder.evaluation, result)
    if settings.report:
        report(folder, model, data, extractors, display)
    return result


def report(folder: RunFolder, model: Model, data: Data, extractors: dict[str, Any], display: Display) -> None:
    """RUN/report.html. One that cannot be made is a note: by now the training is done and saved."""
    try:
        display.note(f"report: {write_report(folder.path, model=model, data=data, extractors=extractors)}")
    except Exception as error:
        display.note(f"no report was written ({type(error).__name__}: {error})")


def choose_prior(
    model: Model, data: Data, scorer: HeldoutScore, config: Config, display: Display
) -> tuple[Model, dict[str, dict[str, float]]]:
    """The model with the `best_prior`, and the scores of all priors.

    Before it, where samples show grain, that is measured. Also learns where the labels' values lie among the codes, for
    `--attribute`.
    """
    family, device = model.family, model.family.device
    assert isinstance(family, VAE)
    label = data.label if model.classes else None
    some = lambda d, most: Items(d, label, model.classes, device, model.modality).take(spaced(len(d), most))
    if config.sample.grain and family.has_texture:
        raw, y = some(data.train, max(20, min(TEXTURED, TEXTURED_NUMBERS // math.prod(family.modality.space))))
        family.learn_texture(model.modality.encode(raw), y, config.train.seed)
        model.description.options["texture"] = True
    items, flows = [some(d, FITTED) for d in (data.train, data.heldout)], family.wants_flow
    train, heldout = (top_codes(family, raw, y, seed, not flows) for seed, (raw, y) in enumerate(items))
    if flows:
        model.description.options["flow"] = fit_domains(family, train, heldout)
        priors: Any = [("flow of each domain", {}, None)]  # the only one that fits: the code is its noise
    else:
        names: list[str] = [*config.evaluate.samplers]
        likeness = None
        if "local" in names:
            likeness = views_of(family, items[0][0], train[0]), kinds_of(data, spaced(len(data.train), FITTED))
        priors = candidates(family, train, heldout, likeness, names)
    criterion = "fid" if len(data.heldout) >= ENOUGH_FOR_FID else "kid"
    scores, found = {}, {}
    for name, options, prior in priors:
        found[name], family.sampler = (options, prior), prior
        count, holds = config.evaluate.samples, prior is not None and prior.holds_codes
        samples = model.modality.raw(model.sample(max(count, MOST) if holds else count, config.train.seed))
        here = scorer(samples[:count])
        scores[name] = {"fid": here["fid"], "kid": here["kid"]}
        if holds:
            look = plain_features(pictures_of(family.modality))
            found_out = audit(samples, data.train.data, data.heldout.data, look, config.train.seed)
            scores[name] |= {"copies": found_out["verdict"] == "copies"}
        told = ", copies" if scores[name].get("copies") else ""
        display.note(f"samples of the prior '{name}': held-out {criterion.upper()} {here[criterion]:.4g}{told}")
    chosen = best_prior(scores, criterion)
    options, family.sampler = found[chosen]
    score = {key: scores[chosen][key] for key in ("fid", "kid")}
    model.description.training["scores"] = model.description.training.get("scores", {}) | score
    model.description.training["prior"] = chosen
    model.description.options["sampler"] = options
    if not flows:  # else no value of the label lies anywhere in particular
        model.description.attributes = attributes(train[0], data, spaced(len(data.train), FITTED))
    return model, scores


def kinds_of(data: Data, rows: np.ndarray) -> torch.Tensor | None:
    """The numbers (N,) of the values that these training items have of the label by which they are evaluated."""
    name = data.evaluation_label()
    if name is None:
        return None
    return torch.from_numpy(np.unique(np.asarray(data.train.labels[name], str)[rows], return_inverse=True)[1])


def best_prior(scores: dict[str, dict[str, float]], criterion: str) -> str:
    """The name of the prior whose samples score best against held-out data; those that the audit finds to copy training
    items come last."""
    return min(scores, key=lambda name: (scores[name].get("copies", False), scores[name][criterion]))


def attributes(codes: torch.Tensor, data: Data, rows: np.ndarray) -> dict[str, list[float]]:
    """value of a label → mean code of the items that have it − mean code of the others, both of codes (N, Z); of
    a label that joins several attributes, of the values of each, but for those that two of them have."""
    name, labels, found, twice = data.evaluation_label(), data.train.labels, {}, set()
    parts = [] if name is None else name.split(TOGETHER)
    for part in parts if all(part in labels for part in parts) else [str(name)]:
        values = np.asarray(labels[part], str)[rows]
        known = sorted(set(values))
        twice |= found.keys() & set(known)
        if 2 <= len(known) <= MOST_ATTRIBUTES:
            found |= {v: (codes[values == v].mean(0) - codes[values != v].mean(0)).tolist() for v in known}
    return {value: offset for value, offset in found.items() if value not in twice}
