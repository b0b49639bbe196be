"""Findings: planted faults are called by their names, healthy numbers raise nothing, and every remedy names a setting
that is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_OF
from PIL import Image as Pillow
from torch import nn

from morphogen import api
from morphogen.config import AugmentConfig
from morphogen.data.check import facts_of, facts_of_check
from morphogen.data.dataset import Dataset
from morphogen.data.sources import open_source
from morphogen.evaluation import HeldoutScore, cycle_scores, evaluate_items
from morphogen.families import FAMILIES
from morphogen.families.diagnosis import Activity, judged, share_above, unlike
from morphogen.families.vae import VAE, VAEOptions
from morphogen.health import (
    code_findings,
    cycle_findings,
    data_findings,
    divergence,
    overfitting,
    training_findings,
)
from morphogen.metrics.classifier import ClassifierFeatures, ClassifierNet
from morphogen.metrics.distances import variety
from morphogen.metrics.extractors import RandomFeatures
from morphogen.modalities import Image
from morphogen.nets import initialise
from morphogen.recipes import RECIPES
from morphogen.watch import Finding, Watch, merge

VAE_TINY = TINY_OF["vae-image"][:-1]
VAE_TINY += ["model.encoder={kind: conv, width: 8, features: 32}", "model.decoder={kind: conv, width: 8}"]


def what(findings) -> list[str]:
    return [f.what if isinstance(f, Finding) else f["what"] for f in findings]


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class Notes:
    def __init__(self):
        self.texts: list[str] = []

    def step(self, *_): ...
    def note(self, text):
        self.texts.append(text)


def trained(recipe: str, data: str, out: Path, steps: int, settings: list[str]) -> tuple[api.Run, list[str]]:
    notes = Notes()
    return api.train(recipe, data, out=out, steps=steps, settings=settings, display=notes), notes.texts


# ---- the watch ---------------------------------------------------------------------------------------------------


def test_a_finding_begins_at_the_second_measurement_and_goes_at_the_second_without_it():
    watch, found = Watch(), Finding("mode collapse", "0.1 against 1", "x")
    assert watch.see(10, [found]) == ([], [])
    ((begun,), gone) = watch.see(20, [found])
    assert begun.since == 10 and not gone
    again = Watch()
    again.restore(json.loads(json.dumps(watch.state())))  # as a checkpoint keeps it
    for w in (watch, again):
        assert w.see(30, [found]) == ([], [])
        assert w.see(40, []) == ([], [])
        assert w.see(50, [found]) == ([], [])
        w.see(60, [])
        begun, (gone,) = w.see(70, [])
        assert not begun and (gone.since, gone.until) == (10, 70) and not w.standing
        assert w.see(80, [found]) == ([], []), "one measurement alone is chance"
        assert w.see(90, []) == ([], [])
        assert w.see(100, [found]) == ([], [])


def test_what_is_kept_stands_and_a_standstill_is_counted():
    watch = Watch()
    watch.keep(Finding("divergence", "first", "x", since=5))
    watch.keep(Finding("divergence", "second", "x", since=9))
    for step in (10, 20, 30):
        watch.see(step, [])
    assert [(f.since, f.evidence) for f in watch.standing.values()] == [(5, "second")]
    assert [watch.better(v) for v in (float("inf"), 10, 9.9, 9.85, 9, 12)] == [0, 0, 1, 2, 0, 1]
    below = Watch()
    assert [below.better(v) for v in (-100, -101, -103)] == [0, 1, 0]


def test_findings_of_training_and_evaluation_become_one_list():
    def found(name, since=None, where=""):
        return Finding(name, "e", "r", since, where).json()

    result = {"health": [found("mode collapse")], "looked_for": ["mode collapse", "prior hole"],
              "back": {"health": [found("copied input", where="b to a")]}}  # fmt: skip
    merge(result, [found(n, 7, w) for n, w in (("mode collapse", ""), ("prior hole", ""), ("divergence", ""),
                                               ("copied input", "b to a"))])  # fmt: skip
    assert [(f["what"], f["since"]) for f in result["health"]] == [("mode collapse", 7), ("divergence", 7)]
    assert result["back"]["health"][0]["since"] == 7


# ---- rules -------------------------------------------------------------------------------------------------------

GOOD = {
    "fid": 1.0, "floor": 0.9, "kid": 0.0, "stalled": 9.0, "skipped": 1.0, "updates": 1000.0, "variety/spread": 0.9,
    "variety/distinct": 0.9, "share/3": 0.7, "share/5": 1.4, "told/discriminator": 0.8,
    "told_train/discriminator": 0.85, "dead": 0.1, "units": 300.0, "kl": 20.0, "mutual_information": 5.0,
    "by_code": 90.0, "prior_gap": 0.2, "lost/a": 0.2, "lost/b": 0.5, "changed": 0.8,
    **{f"{way}/{k}": v for way in ("a to b", "b to a") for k, v in
       {"cycle": 0.06, "cycle_noisy": 0.07, "cycle_quantised": 0.06, "copy": 0.6, "content_kept": 0.95, "kid": 0.05,
        "untranslated": 0.5, "codec": 0.0}.items()},
}  # fmt: skip
BAD = [
    ({"skipped": 300.0}, "updates skipped", ""),
    ({"told/discriminator": 0.6, "told_train/discriminator": 0.9}, "discriminator overfits", ""),
    ({"told/discriminator": 1.0, "told_train/discriminator": 1.0, "fid": 30.0}, "discriminator winning", ""),
    ({"told/discriminator": 0.1, "told_train/discriminator": 0.1, "fid": 30.0}, "discriminator idle", ""),
    ({"variety/spread": 0.1}, "mode collapse", ""),
    ({"variety/distinct": 0.05}, "mode collapse", ""),
    ({"share/3": 0.02}, "mode collapse", ""),
    ({"converted_variety/spread": 0.1}, "mode collapse", "conversions"),
    ({"variety/spread_b_to_a": 0.1}, "mode collapse", "b to a"),
    ({"kl": 0.01}, "posterior collapse", ""),
    ({"by_code": 0.0}, "decoder ignores the codes", ""),
    ({"prior_gap": 9.0}, "prior hole", ""),
    ({"dead": 0.8}, "dead units", ""),
    ({"lost/b": 1.0}, "one-sided cycle", "cycle_b"),
    ({"b to a/content_kept": 0.1}, "one-sided cycle", "cycle_b"),
    ({"a to b/content_kept": 0.1, "b to a/content_kept": 0.1}, "content lost", "a to b"),
    ({"a to b/cycle_noisy": 0.5}, "information hiding", "a to b"),
    ({"b to a/copy": 1.0, "b to a/kid": 0.5}, "copied input", "b to a"),
    ({"changed": 0.01}, "copied input", ""),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_healthy_numbers_raise_nothing(family):
    assert training_findings(GOOD, {"family": family, "samplers": ["gmm"]}) == []
    assert training_findings({}, {"family": family}) == []


@pytest.mark.parametrize(("numbers", "name", "where"), BAD)
def test_every_fault_has_its_name_and_two_numbers(numbers, name, where):
    found = training_findings(GOOD | numbers, {"family": "gan"})
    assert {f.what for f in found} == {name}
    assert found[0].where == where
    assert len(re.findall(r"\d[\d.]*", found[0].evidence)) >= 2


def test_young_samples_may_lack_classes_and_a_codec_need_not_be_sampled():
    lacking = GOOD | {"share/3": 0.0, "prior_gap": 9.0}
    assert what(training_findings(lacking | {"stalled": 0.0}, {"family": "gan"})) == ["prior hole"]
    assert training_findings(lacking, {"family": "vae", "sampled": False}) == []
    assert "is fitted" in training_findings(lacking, {"family": "vae", "samplers": ["gmm"]})[-1].done


def test_overfitting_is_the_two_bounds_parting():
    falling = [(k, 100.0 - k, 110.0 - k / 2) for k in range(10)]
    assert overfitting(falling, 1.0, {}) == []
    assert overfitting([*falling, (10, 90.0, 107.0)], 1.0, {}) == [], "two errors are chance"
    (found,) = overfitting([*falling, (10, 80.0, 112.0)], 1.0, {"step": 9})
    assert found.what == "overfitting" and "105.5 to 112" in found.evidence and "step 9 is kept" in found.done
    assert overfitting([*falling, (10, 95.0, 112.0)], 1.0, {}) == [], "both rise: that is divergence"


def game(name: str) -> list[dict[str, float]]:
    """A discriminator that wins, is idle, or knows its items by heart."""
    pairs = ((1.0, 1.0), (0.1, 0.1), (0.6, 0.9))
    return [{f"told/{name}": told, f"told_train/{name}": known, "fid": 30.0} for told, known in pairs]


COMMON = [{"skipped": 300.0}, {"variety/spread": 0.1}, {"dead": 0.8}]
CODES = [{"kl": 0.0}, {"by_code": 0.0}, {"prior_gap": 9.0}]
OWN = {
    "gan": [*COMMON, *game("discriminator")],
    "vae": [*COMMON, *CODES],
    "cycle_gan": [*COMMON, *game("critic_a"), *game("critic_b"), {"lost/a": 1.0}, {"lost/b": 1.0},
                  {"a to b/cycle_noisy": 0.5}, {"a to b/content_kept": 0.0},
                  {"a to b/content_kept": 0.0, "b to a/content_kept": 0.0}, {"b to a/copy": 1.0, "b to a/kid": 0.5}],
    "cycle_vae": [*COMMON, *CODES, *game("critic"), {"changed": 0.0}, {"converted_variety/spread": 0.1}],
}  # fmt: skip


def remedies(family: str) -> set[str]:
    """Those of every finding that a family can have."""
    quiet = {k: v for k, v in GOOD.items() if not k.startswith("told")}
    found = {f.remedy for numbers in OWN[family] for f in training_findings(quiet | numbers, {"family": family})}
    found.add(divergence(1, 0, 0.3, family, {}, (1.0, 2.0), 0.0).remedy)
    if "vae" in family:
        found.add(overfitting([(0, 1.0, 1.0), (1, 0.0, 9.0)], 0.1, {})[0].remedy)
    facts = {"total": 9, "duplicates": 9, "constant": 9, "flat": {"channels": [0], "of": 3},
             "classes": {"k": {"a": 1, "b": 99}}}  # fmt: skip
    return found | {f.remedy for f in data_findings(facts)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_settings_that_remedies_name_are_there(family):
    recipe = {"gan": "gan-image", "vae": "vae-image", "cycle_gan": "cyclegan-image", "cycle_vae": "cyclevae-image"}
    config, sections = RECIPES[recipe[family]](), "train|terms|players|model|augment|data|evaluate"
    terms = {name for names in FAMILIES[family].terms.values() for name in names}
    named = {key for remedy in remedies(family) for key in re.findall(rf"\b(?:{sections})\.[\w.]*\w", remedy)}
    assert len(named) > 7
    for key in named:
        section, name, *rest = key.split(".")
        if section == "terms":
            assert name in terms and rest == ["weight"], key
        elif section == "players":
            assert name in config.players and rest[0] in type(config.players[name]).model_fields, key
        elif section == "model":
            assert name in FAMILIES[family].Options.model_fields, key
        else:
            assert name in type(getattr(config, section)).model_fields, key


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_shares_of_pairs_have_known_values():
    assert share_above(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5])) == 1
    assert share_above(torch.tensor([1.0, 1.0]), torch.tensor([1.0])) == 0.5
    assert judged("d", *torch.tensor([[3.0, 3.0], [1.0, 0.0], [0.0, 2.0]])) == {"told/d": 0.375, "told_train/d": 1.0}
    x = torch.tensor([[0.0], [2.0]])
    assert unlike(x, x) == 0 and unlike(x, torch.ones(2, 1)) == 1


def test_dead_units_are_those_that_never_fire():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        net[2].bias.fill_(-100)
        net[2].weight.zero_()
        net[2].weight[0] = 101.0
    seen = Activity()
    for _ in range(2):
        seen.again()
        with seen:
            net(torch.zeros(3, 2))
    assert seen.numbers() == {"dead": pytest.approx(0.7), "units": 10.0}
    assert Activity().numbers() == {}


def test_variety_of_known_clouds():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 8))
    poorer = variety(rng.normal(size=(300, 8)) / 4, real)
    assert poorer == pytest.approx({"variety/spread": 0.25, "variety/distinct": 0.26}, rel=0.1)
    few = real[rng.integers(0, 20, 400)]
    assert variety(few, real)["variety/distinct"] == 0
    assert "variety/distinct" not in variety(real, few), "real items repeat themselves"


def a_reader(classes: list[str]) -> ClassifierFeatures:
    """A classifier that reads the class off an item's grey level, 20 levels a class."""
    features = ClassifierFeatures(ClassifierNet(1, len(classes)), classes, 1.0)
    features.features = lambda items: np.eye(10, dtype=np.float32)[items[:, 0, 0, 0] // 20]  # type: ignore[method-assign]
    features.probabilities = lambda items: features.features(items)  # type: ignore[method-assign]
    features.classes_of = lambda features: features.argmax(1)  # type: ignore[method-assign]
    return features


def test_a_sampler_of_two_of_ten_classes_is_called_collapsed_and_the_missing_ones_are_named():
    rng = np.random.default_rng(0)

    def items(kinds, count=1000):
        shade = (20 * rng.choice(kinds, count) + rng.integers(0, 20, count)).astype(np.uint8)
        return np.broadcast_to(shade[:, None, None, None], (count, 1, 8, 8)).copy()

    names, every = [f"kind{k}" for k in range(10)], list(range(10))
    train, heldout = items(every), items(every)
    for kinds, said in (([3, 7], ["mode collapse"]), (every, [])):
        result = evaluate_items(items(kinds), train, heldout, a_reader(names), family="gan")
        assert what(result["health"]) == said
        if said:
            missing = result["health"][0]["evidence"].split("classes are missing: ")[1]
            assert missing.split(", ") == [f"kind{k}" for k in every if k not in kinds]
        while_training = HeldoutScore(a_reader(names), heldout)(items(kinds))
        assert what(training_findings(while_training, {"family": "gan"})) == said


# ---- data --------------------------------------------------------------------------------------------------------


def folder_of(path: Path, copies: int, total: int = 60) -> Path:
    rng = np.random.default_rng(0)
    path.mkdir()
    items = rng.integers(0, 255, (total - copies, 12, 12, 3), np.uint8)
    items[..., 2] = 9
    for k in range(total):
        Pillow.fromarray(items[k % len(items)]).save(path / f"{k:03d}.png")
    return path


def test_a_folder_of_thirty_per_cent_duplicates_is_flagged(tmp_path):
    folder = folder_of(tmp_path / "a", 18)
    outcome = subprocess.run([sys.executable, "-m", "morphogen", "data", "check", str(folder), "--json"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    found = json.loads(outcome.stdout)["health"]
    assert what(found) == ["duplicates", "constant channels"]
    assert "18 of 60" in found[0]["evidence"] and "1 of 3 channels" in found[1]["evidence"]
    settings = [*TINY, "train.batch_size=8"]
    run, notes = trained("gan-image", str(folder), tmp_path / "run", 4, settings)
    told = [note for note in notes if "duplicates" in note]
    assert len(told) == 1 and "step 0" in told[0]
    (row,) = [row for row in rows_of(tmp_path / "run") if row["step"] == 0]
    assert what(row["health"]) == ["duplicates", "constant channels"]
    assert {"duplicates", "constant channels"} <= set(what(run.evaluation["health"]))


def test_data_that_are_as_they_should_be_raise_nothing():
    from morphogen.data import check_source

    for name in ("digits", "words", "tones", "ring"):
        source = open_source(f"builtin:{name}")
        found = check_source(source)
        assert what(data_findings(facts_of_check(found))) == [], name


def test_imbalance_and_empty_items_are_flagged():
    data = np.random.default_rng(0).integers(0, 255, (50, 1, 4, 4), np.uint8)
    data[:6] = 7
    labels = np.array(["rare"] * 3 + ["often"] * 47)
    dataset = Dataset(data, [str(k) for k in range(50)], {"kind": labels}, [], "x", "image")
    assert what(data_findings(facts_of(dataset, "kind"))) == ["empty items", "class imbalance"]
    assert what(data_findings(facts_of(dataset, None))) == ["empty items"]


# ---- planted in networks -----------------------------------------------------------------------------------------


def a_vae(cut: bool) -> VAE:
    small = {"kind": "conv", "width": 8}
    family = VAE(
        Image((1, 16, 16)),
        VAEOptions(latent_dim=4, scale=0.1, encoder={**small, "features": 16}, decoder=small),
        augment=AugmentConfig(mode="off"),
    )
    for name, module in family.named_children():
        initialise(module, 0, name)
    with torch.no_grad():
        family.encoder.verdict.linear.weight.mul_(20) if hasattr(family.encoder, "verdict") else None
        if cut:
            family.decoder.dense.weight.zero_()
    return family.eval()


@pytest.mark.parametrize("cut", [True, False])
def test_a_decoder_that_is_cut_from_its_codes_is_called_out(cut):
    family = a_vae(cut)
    batch = {"a": torch.rand(100, 1, 16, 16) * 2 - 1}
    found = family.diagnose(batch, batch, 0)
    assert (found["by_code"] == 0) == cut
    scores = {"kl": 5.0, "mutual_information": 2.0} | ({"by_code": found["by_code"]} if cut else {"by_code": 9.0})
    assert what(code_findings(scores)) == (["decoder ignores the codes"] if cut else [])


def test_a_prior_far_from_the_codes_is_a_hole():
    family = a_vae(False)
    batch = {"a": torch.rand(100, 1, 16, 16) * 2 - 1}
    near = family.diagnose(batch, batch, 0)["prior_gap"]
    family.top = lambda encoded, top=family.top: type(q := top(encoded))(q.mean + 5, q.log_std)  # type: ignore[method-assign]
    far = family.diagnose(batch, batch, 0)["prior_gap"]
    assert near < 2 < 20 < far
    assert what(training_findings({"prior_gap": far}, {"family": "vae"})) == ["prior hole"]


class Hider:
    """Translates to grey, and brings back what it hid in the last bits; with noise on the way it cannot."""

    device, latent_dim = torch.device("cpu"), 1

    def __init__(self, faint: float):
        self.faint = faint

    def noise(self, count, seed):
        return torch.zeros(count, 1)

    def translate(self, x, to, noise=None):
        return self.faint * x

    def there_and_back(self, x, side, spoil):
        there = self.translate(x, "b")
        return there, (spoil(there) / self.faint).clamp(-1, 1)


@pytest.mark.parametrize(("faint", "said"), [(0.02, ["information hiding"]), (-1.0, [])])
def test_a_cycle_that_hides_is_called_out_and_an_open_one_is_not(faint, said):
    x = torch.rand(100, 1, 8, 8) * 2 - 1
    scores, _ = cycle_scores(Hider(faint), "a", x, Image((1, 8, 8)), 0)
    numbers = {f"a to b/{name}": value for name, value in (scores | {"kid": 0.1, "untranslated": 0.5}).items()}
    assert what(training_findings(numbers, {"family": "cycle_gan"})) == said
    rows = {"samples": {"kid": 0.1}, "not translated": {"kid": 0.5}}
    assert what(cycle_findings({"cycle": scores, "rows": rows})) == said


# ---- trained -----------------------------------------------------------------------------------------------------


def test_a_vae_whose_kl_weighs_a_hundred_times_is_called_collapsed(tmp_path):
    settings = [*VAE_TINY, "model.prior={}", "terms.kl={weight: 100}", "train.evaluate_every=20"]
    run, notes = trained("vae-image", "builtin:digits", tmp_path, 120, settings)
    assert "posterior collapse" in what(run.evaluation["health"])
    told = [note for note in notes if "posterior collapse" in note]
    assert len(told) == 1, "shown once, when it begins"
    row = next(row for row in rows_of(tmp_path) if "health" in row and "posterior collapse" in what(row["health"]))
    found = next(f for f in row["health"] if f["what"] == "posterior collapse")
    assert found["since"] < row["step"] and "terms.kl.weight" in found["remedy"]
    assert next(f for f in run.evaluation["health"] if f["what"] == "posterior collapse")["since"] == found["since"]


def test_a_learning_rate_of_ten_is_rolled_back_and_explained(tmp_path):
    settings = [*TINY, "players.generator.lr=10", "players.discriminator.lr=10", "train.checkpoint_every=20"]
    run, notes = trained("gan-image", "builtin:digits", tmp_path, 60, settings)
    row = next(row for row in rows_of(tmp_path) if "rollback" in row)
    (found,) = row["health"]
    assert found["what"] == "divergence" and "back to step" in found["done"]
    assert "players.generator.lr and players.discriminator.lr" in found["remedy"]
    assert any("diverged" in note and "lower players.generator.lr" in note for note in notes)
    assert "divergence" in what(run.evaluation["health"])


def test_it_says_nothing_of_a_short_healthy_training(tmp_path):
    settings = [*TINY, "train.evaluate_every=60", "data.label=label"]
    run, notes = trained("gan-image", "builtin:digits", tmp_path, 300, settings)
    assert not [note for note in notes if "health" in note]
    assert not [row for row in rows_of(tmp_path) if "health" in row]
    assert what(run.evaluation["health"]) == []
    measured = next(row for row in rows_of(tmp_path) if "heldout/fid" in row)
    assert {"health/told/discriminator", "health/dead", "heldout/variety/spread"} <= measured.keys()


def test_the_random_features_of_a_shrunk_cloud_are_poorer():
    """The finding does not hang on labels."""
    rng = np.random.default_rng(1)
    real = rng.integers(0, 255, (200, 1, 8, 8)).astype(np.uint8)
    dull = (127 + (real.astype(int) - 127) // 20).astype(np.uint8)
    scores = HeldoutScore(RandomFeatures(), real[:100])(dull)
    assert what(training_findings(scores, {"family": "gan"})) == ["mode collapse"]
