"""The only loop: for any family and modality, any number of players.

One step: a batch; for each player in turn its terms, their weighted sum, backward, a guarded update; then the moving
average. What happens at a step is a function of (config, data, step): killed anywhere and resumed = never killed.

Shapes: B batch · N items · space (C, *S).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from morphogen.config import Config
from morphogen.data import Dataset, batch_indices
from morphogen.data.dataset import JOINED
from morphogen.errors import MorphogenError
from morphogen.evaluation import cycle_scores, text_cycle
from morphogen.families import Family, Turn
from morphogen.families.base import CHUNK, seed_of
from morphogen.health import divergence, overfitting, training_findings
from morphogen.modalities import Audio
from morphogen.optim import Average, Guard, guarded_step, lr_factor, optimizer, term_weight
from morphogen.precision import Precision
from morphogen.run import RunFolder
from morphogen.watch import Finding, Watch

ENOUGH_FOR_FID = 1000  # held-out items; with fewer, FID's covariance is noise, and the unbiased KID chooses the best
CHECK_EVERY = 20  # steps between looks at the guard; fixed, since what follows from it must not depend on settings
LR_AFTER_ROLLBACK = 0.3
MOST_ROLLBACKS = 10
MEASURED = 1000  # held-out items on which a family measures itself at each evaluation
DIAGNOSED, WENT_ROUND = 200, 100  # items of which `Family.diagnose` is asked, and whose cycles are looked at
TRIAL_STEPS = (8, 16, 5)  # for --minutes: warm-up, then so many steps a round, so many rounds


class Stopped(MorphogenError):
    """Ctrl-C or SIGTERM came; everything is saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"Stopped and saved at step {step}; the same command goes on from there.")
        self.exit_code = 128 + signum


class Display(Protocol):
    """Whoever shows the progress."""

    def step(self, step: int, steps: int, values: dict[str, float]) -> None: ...
    def note(self, text: str) -> None: ...


class Silence:
    """A display that shows nothing."""

    def step(self, step: int, steps: int, values: dict[str, float]) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Items:
    """A data set ready to be drawn from: raw items and, where labels condition the model, their class numbers."""

    def __init__(self, dataset: Dataset, label: str | None, classes: list[str], device: torch.device, modality: Any):
        self.device, self.data = device, modality.stored(dataset.data)
        mapped = isinstance(self.data, np.memmap)
        self.raw = None if mapped else torch.from_numpy(np.ascontiguousarray(self.data)).to(device)
        self.labels: Tensor | None = None
        if label is not None:
            number = {name: k for k, name in enumerate(classes)}
            self.labels = torch.tensor([number[str(v)] for v in dataset.labels[label]], device=device)

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Raw items (B, *item) and labels (B,) or None, on the device."""
        index = torch.from_numpy(indices).to(self.device)
        raw = self.raw[index] if self.raw is not None else torch.from_numpy(self.data[indices]).to(self.device)
        return raw, None if self.labels is None else self.labels[index]


def spaced(n: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0 … n-1, evenly spaced: folders come sorted by class."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def sample_raw(
    family: Family, modality: Any, count: int, seed: int, labels: Tensor | None,
    temperature: float = 1.0, truncation: float | None = None,
    drawing: tuple[float, float, float] = (1.0, 1.0, 0.0), tries: int = 1,
) -> np.ndarray:  # fmt: skip
    """Raw items (count, *item) of a model in evaluation mode; labels (count,) where it is conditional; drawing:
    see `Family.drawn`; tries: see `Family.chosen_codes`."""
    how = seed, labels, temperature, truncation
    codes = family.codes(count, *how) if tries == 1 else family.chosen_codes(count, *how, tries)
    with family.drawn(*drawing):
        return np.concatenate([modality.decode(x) for x in family.items_of(codes, labels)])


def modality_of(family: Family, domain: str) -> Any:
    """The modality of domain 'a' or 'b'."""
    return family.modality if domain == "a" else family.other


@torch.no_grad()
def translate_raw(family: Family, raw: Tensor, to: str, seed: int = 0) -> np.ndarray:
    """Stored items (N, …) of one domain → raw items of domain `to`, 'a' or 'b'; seed: which of several outputs."""
    before, after = (modality_of(family, d) for d in ("ab" if to == "b" else "ba"))
    noise = family.noise(len(raw), seed_of(seed, "style")).to(family.device)
    parts = [
        family.translate(before.encode(part.to(family.device)), to, z)
        for part, z in zip(raw.split(CHUNK), noise.split(CHUNK), strict=True)
    ]
    return np.concatenate([after.decode(part) for part in parts])


def frequent_labels(counts: list[int], count: int, seed: int) -> Tensor:
    """Labels (count,) drawn with the training frequencies, by seed."""
    weights = torch.tensor(counts, dtype=torch.float64)
    chunks = []
    for chunk in range(-(-count // CHUNK)):  # whole chunks, so that label i is the same for every count
        generator = torch.Generator().manual_seed(seed_of(seed, "labels", chunk))
        chunks.append(torch.multinomial(weights, CHUNK, replacement=True, generator=generator))
    return torch.cat(chunks)[:count]


class Trainer:
    """The state of one training and the way it moves.

    scorer: raw samples (N, *item) → {'fid': …, 'kid': …}, lower better, for the choice of the best model; of two
        domains (translations, the domain they went to) → the same.
    other: training and held-out items of a second domain, the label and its values that tell what they are.
    save_model: (family in evaluation mode, step, scores) writes RUN/model.
    """

    def __init__(
        self, config: Config, family: Family, train: Dataset, heldout: Dataset, classes: list[str],
        folder: RunFolder, precision: Precision, scorer: Callable[..., dict[str, float]],
        save_model: Callable[[Family, int, dict[str, float]], None], display: Display | None = None,
        other: tuple[Dataset, Dataset, str | None, list[str]] | None = None,
    ):  # fmt: skip
        self.config, self.folder, self.precision = config, folder, precision
        self.scorer, self.save_model, self.display = scorer, save_model, display or Silence()
        self.family = precision.place(family)
        self.modality = family.modality
        label = config.data.label or JOINED if classes else None
        self.items = Items(train, label, classes, precision.device, self.modality)
        self.heldout = Items(heldout, label, classes, precision.device, self.modality)
        self.other: tuple[Items, Items] | None = None
        if other is not None:
            datasets, (label_b, classes_b) = other[:2], other[2:]
            train_b, heldout_b = (Items(d, label_b, classes_b, precision.device, family.other) for d in datasets)
            self.other = train_b, heldout_b
        labels = self.items.labels if other is None else None  # of two data sets, labels condition neither
        fewest = min(len(self.heldout), len(heldout) if other is None else len(other[1]))
        few = family.criterion.endswith("fid") and fewest < ENOUGH_FOR_FID
        self.criterion = family.criterion.replace("fid", "kid") if few else family.criterion
        self.label_counts = [] if labels is None else torch.bincount(labels, minlength=len(classes)).tolist()
        seen = self.modality.encode(self.items.take(spaced(len(self.items), 2000))[0])
        seen_b = None
        if self.other is not None:
            seen_b = family.other.encode(self.other[0].take(spaced(len(self.other[0]), 2000))[0])
        self.family.prepare(seen, seen_b)
        self.parameters = {p: [w for m in names for w in getattr(family, m).parameters()] for p, names in
                           family.players.items() if names}  # fmt: skip
        self.optimizers = {p: optimizer(weights, config.players[p]) for p, weights in self.parameters.items()}
        self.guards = {p: Guard(config.train.explode, precision.device) for p in self.parameters}
        self.shown = copy.deepcopy(family).eval().requires_grad_(False)  # its averaged networks make the samples
        modules = {name: getattr(self.shown, name) for name in family.averaged}
        self.average = Average(modules, config.train.ema, config.train.ema_most)
        self.size = self._weights_norm()
        self.step, self.rollbacks, self.lr_scale = 0, 0, 1.0
        self.best: dict[str, Any] = {}
        self.scores: dict[str, float] = {}
        self.watch = Watch()
        self.seconds = 0.0
        self.stop_signal: int | None = None

    # ---- one step -------------------------------------------------------------------------------------------------

    def train_step(self) -> dict[str, Tensor]:
        """One step of every player; returns the terms' means, still on the device."""
        step, cache, values = self.step, {}, {}
        self.family.train()
        weights = self._weights(step)
        for player in self.parameters:
            settings = self.config.players[player]
            if step % settings.every or not any(name in weights for name in self.family.terms[player]):
                continue
            for repeat in range(settings.repeats):
                turn = Turn(player, step, seed_of(self.config.train.seed, self.rollbacks), weights, repeat, cache)
                values |= self._take_turn(turn, self._batch(step, repeat))
        sources = {name: getattr(self.family, name) for name in self.family.averaged}
        self.average.update(sources, step)
        self.family.after_step(step, cache, self.config.train.batch_size)
        self.step += 1
        return values

    def _take_turn(self, turn: Turn, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for weight in itertools.chain.from_iterable(self.parameters.values()):
            weight.requires_grad_(False)
        for weight in self.parameters[turn.player]:
            weight.requires_grad_(True)
        torch.manual_seed(seed_of(turn.seed, turn.step, turn.player, turn.repeat))  # for dropout
        settings = self.config.players[turn.player]
        rate = settings.lr * self.lr_scale * lr_factor(turn.step, self.steps, self.config.train)
        for group in self.optimizers[turn.player].param_groups:
            group["lr"] = rate
        with self.precision.autocast():
            terms = self.family.losses(turn, batch)
        means = {name: term.float().mean() for name, term in terms.items() if name in turn.weights}
        loss = torch.stack([turn.weights[name] * mean for name, mean in means.items()]).sum()
        self.optimizers[turn.player].zero_grad()
        loss.backward()
        norm = guarded_step(self.optimizers[turn.player], self.guards[turn.player], settings.clip)
        return {name: mean.detach() for name, mean in means.items()} | {f"norm/{turn.player}": norm}

    def _weights(self, step: int) -> dict[str, float]:
        weights = {name: term_weight(term, step, self.steps) for name, term in self.config.terms.items()}
        return {name: weight for name, weight in weights.items() if weight}

    def _batch(self, step: int, repeat: int) -> dict[str, Tensor]:
        train = self.config.train
        repeats = max(p.repeats for p in self.config.players.values())
        batch: dict[str, Tensor] = {}
        sources = [("a", "label", self.items, train.seed)]
        if self.family.wants_heldout(step):
            sources.append(("heldout", "heldout_label", self.heldout, train.seed + 1))
        for name, label, items, seed in sources:
            raw, y = items.take(batch_indices(len(items), train.batch_size, seed, step * repeats + repeat))
            batch[name] = self.modality.encode(raw)
            if y is not None:
                batch[label] = y
        if self.other is not None:
            items = self.other[0]
            index = batch_indices(len(items), train.batch_size, train.seed + 2, step * repeats + repeat)
            raw, y = items.take(index)
            batch["b"] = self.family.other.encode(raw)
            if y is not None:
                batch["label_b"] = y
        return batch

    # ---- the run --------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many steps this run has; every schedule ends there."""
        return self.config.train.steps or TRIAL_STEPS[0]

    def every(self, what: int | None) -> int:
        """A cadence in steps; by default a twentieth of the run."""
        return what or max(1, self.steps // 20)

    def fit(self) -> None:
        """From the current step to the last. Raises Stopped after Ctrl-C or SIGTERM, with everything saved."""
        train = self.config.train
        if self.step == 0:
            self.checkpoint()
        with self._signals():
            while self.step < self.steps:
                begin = time.perf_counter()
                values = self.train_step()
                if self.step % CHECK_EVERY == 0 and not self._healthy():
                    self._roll_back()
                    continue
                if (self.step - 1) % train.log_every == 0 or self.step == self.steps:
                    self._log(values)  # after steps 0, 20, …: where the lazy terms are computed, too
                self.seconds += time.perf_counter() - begin
                if self.step % self.every(train.evaluate_every) == 0 or self.step == self.steps:
                    self.evaluate()
                if self.step % self.every(train.checkpoint_every) == 0 or self.step == self.steps:
                    self.checkpoint()
                if self.stop_signal is not None and self.step < self.steps:
                    self.checkpoint(always=True)
                    raise Stopped(self.stop_signal, self.step)

    def _log(self, values: dict[str, Tensor]) -> None:
        numbers = torch.stack(list(values.values())).tolist() if values else []  # the one wait for the device
        row = dict(zip(values, numbers, strict=False)) | self.family.numbers
        skipped = sum(float(g.state["skipped"]) for g in self.guards.values())
        if skipped:
            row["skipped_updates"] = skipped
        self.folder_write(lambda: self.folder.append_metrics({"step": self.step} | _finite(row)))
        self.display.step(self.step, self.steps, row | self.scores)

    def evaluate(self) -> None:
        """Score the averaged model on held-out data, save it when it is the best so far, and make a preview."""
        begin = time.perf_counter()
        self.sync_shown()
        self.scores = self.measure()
        health = self.diagnose() if self.scores else {}
        score = self.scores.get(self.criterion, math.inf)
        if math.isfinite(score) and (not self.best or score < self.best["score"]):
            self.best = {"score": score, "step": self.step}
            self.folder_write(lambda: self.save_model(self.shown, self.step, self.scores))
        row = {"step": self.step} | _finite({f"heldout/{k}": v for k, v in self.scores.items()})
        row |= _finite({f"health/{k}": v for k, v in health.items()})
        self.folder_write(lambda: self.folder.append_metrics(row))
        self.folder_write(self.preview)
        best = f"{self.best['score']:.4g} at step {self.best['step']}" if self.best else "none yet"
        self.display.note(f"step {self.step}: held-out {self.criterion.upper()} {score:.4g}, best {best}")
        self.check(score, health)
        self.seconds += time.perf_counter() - begin

    # ---- health ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def diagnose(self) -> dict[str, float]:
        """What shows whether the family learns as it should: `Family.diagnose` on a few items; of two data sets also
        how honest the cycles of held-out items are."""
        found = self.shown.diagnose(self._some(0), self._some(1), self.config.train.seed)
        for side, to in (("a", "b"), ("b", "a")) if self.other is not None else ():
            found |= {f"{side} to {to}/{name}": value for name, value in self._honesty(side, to).items()}
        return found

    def _some(self, part: int) -> dict[str, Tensor]:
        """A few training (part 0) or held-out items (1), as a batch."""
        items = (self.items, self.heldout)[part]
        raw, y = items.take(spaced(len(items), DIAGNOSED))
        batch = {"a": self.modality.encode(raw)} | ({} if y is None else {"label": y})
        if self.other is not None:
            raw, _ = self.other[part].take(spaced(len(self.other[part]), DIAGNOSED))
            batch |= {"b": self.family.other.encode(raw)}
        return batch

    def _honesty(self, side: str, to: str) -> dict[str, float]:
        """The cycle's scores of held-out items of one domain, and the KID of them as they are and of translations."""
        assert self.other is not None
        items, other = self.heldout if side == "a" else self.other[1], modality_of(self.shown, to)
        x = modality_of(self.shown, side).encode(items.take(spaced(len(items), WENT_ROUND))[0]).cpu()
        if x.is_floating_point() and x.dim() == 3:
            found = text_cycle(self.shown, side, x, other)[0]
        else:
            found = cycle_scores(self.shown, side, x, other, self.config.train.seed)[0]
        return {name: value for name, value in found.items() if not name.endswith("_error")} | {
            "kid": self.scores[f"kid_{side}_to_{to}"], "codec": float(isinstance(other, Audio)),
            "untranslated": getattr(self.scorer, "untranslated", {}).get(side, math.inf),
        }  # fmt: skip

    def check(self, score: float, health: dict[str, float]) -> None:
        """Judge what was measured, and tell what has begun and what has gone."""
        numbers, floor = self.scores | health, getattr(self.scorer, "floor", None)
        skipped = sum(float(g.state["skipped"]) for g in self.guards.values())
        before, at = self.watch.skipped
        self.watch.skipped = skipped, self.step
        numbers |= {"skipped": skipped - before, "updates": float(len(self.guards) * (self.step - at))}
        numbers |= {"stalled": self.watch.better(score)} | ({} if floor is None else {"floor": floor})
        found = training_findings(numbers, self._ways())
        if "train_nelbo" in numbers:
            self.watch.bounds.append((self.step, numbers["train_nelbo"], numbers["nelbo"]))
            found += overfitting(self.watch.bounds, numbers["nelbo_error"], self.best)
        self.tell(*self.watch.see(self.step, found))

    def _ways(self) -> dict[str, Any]:
        """What the findings have to know of the settings."""
        options, adapts = self.family.options, self.config.augment.mode == "adaptive"
        return {
            "family": self.config.family, "augment": self.family.numbers.get("augment") if adapts else None,
            "sampled": getattr(options, "chosen_by", "nelbo") != "reconstruction",
            "samplers": self.config.evaluate.samplers or getattr(self.family, "wants_flow", False),
        }  # fmt: skip

    def tell(self, begun: list[Finding], gone: list[Finding]) -> None:
        """Findings that have begun or gone go to the display and into metrics.jsonl."""
        if begun or gone:
            row = {"step": self.step, "health": [f.json() for f in (*begun, *gone)]}
            self.folder_write(lambda: self.folder.append_metrics(row))
        for finding in begun:
            self.display.note(f"step {self.step}: health: {finding.sentence()}")
        for finding in gone:
            self.display.note(f"step {self.step}: health: {finding.name} has gone; it stood since step {finding.since}")

    def measure(self) -> dict[str, float]:
        """The scores of the averaged model: of its samples, and the family's own of held-out items; none when a
        sample is not finite."""
        if self.other is not None:
            return self._measure_translations()
        count, seed = self.config.evaluate.samples, self.config.train.seed
        labels = frequent_labels(self.label_counts, count, seed) if self.label_counts else None
        how = self.config.sample
        items = sample_raw(
            self.shown, self.modality, count, seed, labels, drawing=(how.symbols, how.top_p, how.grain), tries=how.tries
        )  # fmt: skip
        if not np.isfinite(items).all():
            return {}
        raw, y = self.heldout.take(spaced(len(self.heldout), MEASURED))
        scores = self.scorer(items) | self.shown.measure(self.modality.encode(raw), y, seed)
        if not self.shown.converts:
            return scores
        raw, y = self.heldout.take(spaced(len(self.heldout), count))
        family: Any = self.shown
        converted = self.modality.decode(family.converted(self.modality.encode(raw), y, seed))
        return scores | {f"converted_{name}": value for name, value in self.scorer(converted).items()}

    def _measure_translations(self) -> dict[str, float]:
        """The scores of translations of held-out items, of each direction and on average, and the family's own."""
        assert self.other is not None
        raw, y = {}, {}
        for side, items in (("a", self.heldout), ("b", self.other[1])):
            raw[side], y[side] = items.take(spaced(len(items), self.config.evaluate.samples))
        scores: dict[str, float] = {}
        for side, to in (("a", "b"), ("b", "a")):
            made = translate_raw(self.shown, raw[side], to)
            if not np.isfinite(made).all():
                return {}
            made = self._comparable(side, to, made, y[side])
            scores |= {f"{name}_{side}_to_{to}": value for name, value in self.scorer(made, to).items()}
        scores |= {name: (scores[f"{name}_a_to_b"] + scores[f"{name}_b_to_a"]) / 2 for name in ("fid", "kid")}
        x = self.modality.encode(raw["a"][:MEASURED])
        return scores | self.shown.measure(x, None, self.config.train.seed)

    def _comparable(self, side: str, to: str, made: np.ndarray, y: torch.Tensor | None) -> np.ndarray:
        """Translations (N, …) redrawn where the classes are to be as frequent as in domain `to`."""
        if not getattr(self.family.options, "match_labels", False):
            return made
        family: Any = self.family
        target = modality_of(family, to)
        stored = torch.from_numpy(target.stored(np.ascontiguousarray(made))).to(family.device)
        rows = family.comparable(side, target.encode(stored), y)
        return made if rows is None else made[rows.cpu().numpy()]

    def preview(self) -> None:
        """A grid of the same 64 noise vectors at every evaluation; with labels, they cycle along the rows. Of two
        domains, rows of held-out items and, below each, of what they become."""
        if self.other is not None:
            return self._preview_translations()
        classes = len(self.label_counts)
        columns = min(classes, 16) if classes else 8
        count = 64 // columns * columns
        labels = torch.arange(count) % classes if classes else None
        items = sample_raw(self.shown, self.modality, count, seed_of(self.config.train.seed, "preview"), labels)
        self.modality.preview(items, self.folder.previews / f"step-{self.step:08d}.png", columns)

    def _preview_translations(self) -> None:
        assert self.other is not None
        for side, to, items in (("a", "b", self.heldout), ("b", "a", self.other[1])):
            raw = items.take(spaced(len(items), 40))[0]
            made = translate_raw(self.shown, raw, to)
            before = modality_of(self.shown, side)
            path = self.folder.previews / f"step-{self.step:08d}-{side}-to-{to}.png"
            modality_of(self.shown, to).preview_pairs(before.decode(before.encode(raw)), made, path, 20)

    def sync_shown(self) -> None:
        """Bring the networks that are not averaged, and the plain state, of the shown family up to date."""
        for name, module in self.family.named_children():
            if name not in self.family.averaged:
                getattr(self.shown, name).load_state_dict(module.state_dict())
        for name, tensor in self.family.named_buffers(recurse=False):
            getattr(self.shown, name).copy_(tensor)
        self.shown.numbers = dict(self.family.numbers)

    # ---- bad updates ----------------------------------------------------------------------------------------------

    def _weights_norm(self) -> float:
        every = [w.data for ws in self.parameters.values() for w in ws]
        return float(torch.nn.utils.get_total_norm(every))

    def _largest_norm(self) -> float:
        return self.config.train.explode * (self.size + 1)

    def _healthy(self) -> bool:
        """No long streak of skipped updates, no weight or running statistic gone astray."""
        if any(float(g.state["streak"]) >= self.config.train.patience for g in self.guards.values()):
            return False
        buffers = [b for b in self.family.buffers() if b.is_floating_point()]
        if buffers and not math.isfinite(float(torch.nn.utils.get_total_norm(buffers))):
            return False
        return self._weights_norm() < self._largest_norm()

    def _roll_back(self) -> None:
        """Back to the last checkpoint, with other random draws and lower learning rates."""
        rollbacks, scale, failed = self.rollbacks + 1, self.lr_scale * LR_AFTER_ROLLBACK, self.step
        if rollbacks > MOST_ROLLBACKS:
            lrs = ", ".join(f"players.{p}.lr={s.lr:g}" for p, s in self.config.players.items())
            raise MorphogenError(f"Training diverged {rollbacks} times, last at step {failed}; lower {lrs}.")
        best, norm = self.best, (self._weights_norm(), self._largest_norm())
        streak = max(float(g.state["streak"]) for g in self.guards.values())
        if not self.resume(every=self.every(self.config.train.checkpoint_every)):
            raise MorphogenError(f"Training diverged at step {failed} and no checkpoint is there to go back to.")
        self.rollbacks, self.lr_scale, self.best = rollbacks, scale, best  # RUN/model is still that best one
        finding = self.watch.keep(divergence(failed, self.step, scale, self.config.family, best, norm, streak))
        self.checkpoint(always=True)  # so that a kill now does not forget the lesson
        text = f"training diverged at step {failed}: back to step {self.step}, learning rates times {scale:.2g}"
        row = {"step": self.step, "rollback": text, "health": [finding.json()]}
        self.folder_write(lambda: self.folder.append_metrics(row))
        self.display.note(f"{text}; {finding.remedy}")

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the future depends on: (tensors, plain numbers)."""
        tensors = {f"family.{k}": v for k, v in self.family.state_dict().items()}
        tensors |= {f"shown.{k}": v for k, v in self.shown.state_dict().items()}
        for player, opt in self.optimizers.items():
            for i, weight in enumerate(self.parameters[player]):
                tensors |= {f"optimizer.{player}.{i}.{k}": v for k, v in opt.state.get(weight, {}).items()}
        for player, guard in self.guards.items():
            tensors |= {f"guard.{player}.{k}": v for k, v in guard.state.items()}
        numbers = {
            "step": self.step, "rollbacks": self.rollbacks, "lr_scale": self.lr_scale, "best": self.best,
            "scores": self.scores, "numbers": self.family.numbers, "seconds": self.seconds, "size": self.size,
            "watch": self.watch.state(),
        }  # fmt: skip
        return tensors, numbers

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """The inverse of `state`; memory formats stay those of the live tensors."""
        self.family.load_state_dict(_below(tensors, "family."))
        self.shown.load_state_dict(_below(tensors, "shown."))
        for player, opt in self.optimizers.items():
            opt.state.clear()
            for i, weight in enumerate(self.parameters[player]):
                saved = _below(tensors, f"optimizer.{player}.{i}.")
                if saved:
                    opt.state[weight] = {k: _like(v, weight) for k, v in saved.items()}
        for player, guard in self.guards.items():
            for name, value in _below(tensors, f"guard.{player}.").items():
                guard.state[name].copy_(value)
        self.step, self.rollbacks, self.lr_scale = numbers["step"], numbers["rollbacks"], numbers["lr_scale"]
        self.best, self.scores, self.seconds = numbers["best"], numbers["scores"], numbers["seconds"]
        self.family.numbers, self.size = dict(numbers["numbers"]), numbers["size"]
        self.watch.restore(numbers.get("watch", {}))

    def checkpoint(self, always: bool = False) -> None:
        """Save `state`; unless `always`, not when it is on disk already or updates are being skipped right now."""
        known = self.step in self.folder.steps_saved()
        if not always and (known or any(float(g.state["streak"]) for g in self.guards.values())):
            return
        self.folder_write(lambda: self.folder.save_checkpoint(self.step, *self.state(), self.config.train.keep))

    def resume(self, every: int = 1) -> bool:
        """Go to the last checkpoint of a step that `every` divides; False when there is none.

        A rollback names the cadence, so that a checkpoint which a stop has left in between does not change its course.
        """
        found = self.folder.load_checkpoint(every)
        if found is None:
            return False
        try:
            self.restore(*found)
        except (RuntimeError, KeyError) as error:
            why = str(error).splitlines()[0]
            raise MorphogenError(f"The checkpoint does not fit these networks ({why}); use another --out.") from None
        self.folder.cut_metrics(self.step)
        return True

    def folder_write(self, write: Callable[[], None]) -> None:
        """Write to the run folder; a full disk costs the file, not the run, except at the last step."""
        try:
            write()
        except OSError as error:
            text = f"step {self.step}: the run folder {self.folder.path} cannot be written ({error.strerror})"
            if self.step >= self.steps:
                raise MorphogenError(f"{text}; make room and run the same command again.") from None
            self.display.note(f"{text}; training goes on and tries again")

    @contextlib.contextmanager
    def _signals(self) -> Any:
        """Ctrl-C and SIGTERM ask the loop to save and stop; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def ask(signum: int, frame: Any) -> None:
            self.stop_signal = signum
            for s, handler in before.items():
                signal.signal(s, handler)

        for s in before:
            signal.signal(s, ask)
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)


def steps_for_minutes(trial: Trainer, minutes: float) -> int:
    """How many steps fit into `minutes`, evaluations included, by the speed of `trial`, which is thrown away."""
    clock = trial.precision.clock
    for _ in range(TRIAL_STEPS[0]):
        trial.train_step()
    rounds = []
    for _ in range(TRIAL_STEPS[2]):
        begin = clock()
        for _ in range(TRIAL_STEPS[1]):  # a multiple of the usual lazy cycles, so that their steps are in
            trial.train_step()
        rounds.append(clock() - begin)
    a_step = statistics.median(rounds) / TRIAL_STEPS[1]  # another program's burst must not count
    begin = clock()
    trial.measure()
    an_evaluation = clock() - begin
    every = trial.config.train.evaluate_every
    if every is not None:
        return max(20, int(60 * minutes / (a_step + an_evaluation / every)))
    left = max(60 * minutes - 20 * an_evaluation, 6 * minutes)  # a tenth at least goes into training
    return max(20, int(left / a_step))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _like(saved: Tensor, weight: Tensor) -> Tensor:
    """A saved optimizer tensor with the device and memory format that the optimizer itself would have given it."""
    if saved.shape != weight.shape or saved.dim() == 0:
        return saved.to(weight.device, copy=True)  # Adam's step count
    return torch.empty_like(weight).copy_(saved)


def _finite(row: dict[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in row.items()}  # JSON has no NaN
