"""The loop: killed and resumed = never killed, bad updates, full disks, signals, precision, --minutes."""

from __future__ import annotations

import errno
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_OF, assert_same, final_state, stopping_after

from morphogen import api, precision
from morphogen.config import PlayerConfig, TermConfig, TrainConfig
from morphogen.errors import MorphogenError, UsageError
from morphogen.loop import Trainer
from morphogen.model import load
from morphogen.objectives.adversarial import LOSSES
from morphogen.optim import Average, Guard, guarded_step, lr_factor, optimizer, term_weight
from morphogen.run import RunFolder, load_tensors

SETTINGS = [*TINY, "data.label=label", "train.checkpoint_every=7", "train.evaluate_every=11"]


CADENCE = SETTINGS[len(TINY) :]
WITHOUT_LABELS = {"cyclegan-image"}


def settings_of(recipe: str) -> list[str]:
    return [s for s in (*TINY_OF[recipe], *CADENCE) if recipe not in WITHOUT_LABELS or "data.label" not in s]


def run(out: Path, steps: int = 40, settings: list[str] | None = None, recipe: str = "gan-image", **more) -> api.Run:
    settings = [*settings_of(recipe), *(settings or [])]
    return api.train(recipe, "builtin:digits", out=out, steps=steps, settings=settings, **more)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return out


def command(out: Path, recipe: str = "gan-image") -> list[str]:
    sets = [part for s in settings_of(recipe) for part in ("--set", s)]
    return [sys.executable, "-m", "morphogen", "train", recipe, "--data", "builtin:digits", "--steps", "40",
            "--out", str(out), *sets]  # fmt: skip


def kill_after_checkpoint(out: Path, signum: int, recipe: str = "gan-image") -> subprocess.Popen:
    """Start the run in its own process and send `signum` once a checkpoint beyond the first is there."""
    process = subprocess.Popen(command(out, recipe), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline, at_least = time.monotonic() + 120, random.choice([7, 14, 21, 28])  # anywhere, another place each time
    while time.monotonic() < deadline and process.poll() is None:
        if any(step >= at_least for step in RunFolder(out).steps_saved()):
            time.sleep(random.uniform(0, 0.05))
            process.send_signal(signum)
            break
        time.sleep(0.002)
    process.wait(60)
    return process


def test_the_run_folder_holds_what_the_contract_names(never_killed):
    names = {p.name for p in never_killed.iterdir()}
    contract = {"config.yaml", "metrics.jsonl", "skipped.txt", "previews", "checkpoints", "model", "evaluation.json"}
    assert names >= contract
    assert {p.name for p in (never_killed / "model").iterdir()} == {"config.json", "weights.safetensors", "README.md"}
    assert (never_killed / "skipped.txt").read_text() == ""
    rows = [json.loads(line) for line in (never_killed / "metrics.jsonl").read_text().splitlines()]
    assert any({"generator", "discriminator", "augment"} <= row.keys() for row in rows)
    assert [r["step"] for r in rows if "heldout/fid" in r] == [11, 22, 33, 40]
    result = json.loads((never_killed / "evaluation.json").read_text())
    assert set(result["rows"]) == {"samples", "real held-out data"}
    assert len(RunFolder(never_killed).steps_saved()) == 2  # the last k are kept


def test_equal_seeds_give_equal_weights(tmp_path, never_killed):
    run(tmp_path / "again")
    assert_same(final_state(tmp_path / "again"), final_state(never_killed))
    model = "model/weights.safetensors"
    assert (tmp_path / "again" / model).read_bytes() == (never_killed / model).read_bytes()


def test_another_seed_gives_other_weights(tmp_path, never_killed):
    run(tmp_path / "other", settings=["train.seed=1"])
    a, b = final_state(tmp_path / "other"), final_state(never_killed)
    assert any(not torch.equal(a[k], b[k]) for k in a if k.startswith("family.generator"))


@pytest.mark.parametrize("recipe", TINY_OF)
def test_killed_with_sigkill_and_resumed_equals_never_killed(tmp_path, never_killed, recipe):
    out, whole = tmp_path / "run", never_killed
    if recipe != "gan-image":
        whole = tmp_path / "whole"
        run(whole, recipe=recipe)
    process = kill_after_checkpoint(out, signal.SIGKILL, recipe)
    if process.returncode == 0:
        pytest.skip("the run ended before the signal came")
    assert process.returncode == -signal.SIGKILL
    subprocess.run(command(out, recipe), check=True, capture_output=True)
    assert_same(final_state(out), final_state(whole))
    model = "model/weights.safetensors"
    assert (out / model).read_bytes() == (whole / model).read_bytes()
    assert (out / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_exit(tmp_path, never_killed, signum):
    out = tmp_path / "run"
    process = kill_after_checkpoint(out, signum)
    if process.returncode == 0:
        pytest.skip("the run ended before the signal came")
    assert process.returncode == 128 + signum
    assert process.stderr is not None
    assert "Stopped and saved at step" in process.stderr.read()
    subprocess.run(command(out), check=True, capture_output=True)
    assert_same(final_state(out), final_state(never_killed))


@pytest.mark.parametrize("stop_at", [1, 13, 23])
def test_stopped_at_any_step_and_resumed_equals_never_stopped(tmp_path, never_killed, monkeypatch, stop_at):
    with stopping_after(monkeypatch, stop_at, f"step {stop_at}"):
        run(tmp_path / "run")
    run(tmp_path / "run")
    assert_same(final_state(tmp_path / "run"), final_state(never_killed))


def test_adaptive_augmentation_survives_a_resume(tmp_path, monkeypatch):
    strong = ["augment.every=1", "augment.images=200", "augment.target=-9"]  # always upwards
    run(tmp_path / "whole", 12, strong)
    with stopping_after(monkeypatch, 5):
        run(tmp_path / "cut", 12, strong)
    run(tmp_path / "cut", 12, strong)
    assert_same(final_state(tmp_path / "cut", 12), final_state(tmp_path / "whole", 12))
    states = [json.loads((tmp_path / n / "checkpoints/step-00000012/state.json").read_text()) for n in ("whole", "cut")]
    assert states[0]["numbers"] == states[1]["numbers"]
    assert states[0]["numbers"]["augment"] == pytest.approx(0.8)  # 12 · 16 / 200, at most 0.8


def test_a_finished_run_is_left_alone_and_more_steps_go_on(tmp_path):
    run(tmp_path / "run", 10)
    before = final_state(tmp_path / "run", 10)
    run(tmp_path / "run", 10)
    assert_same(final_state(tmp_path / "run", 10), before)
    run(tmp_path / "run", 15)
    assert RunFolder(tmp_path / "run").steps_saved()[-1] == 15


def test_a_changed_setting_is_refused_by_name(tmp_path):
    run(tmp_path / "run", 5)
    with pytest.raises(UsageError, match=r"another train\.batch_size"):
        run(tmp_path / "run", 5, ["train.batch_size=8"])
    run(tmp_path / "run", 6, ["train.keep=3", "train.checkpoint_every=2"])  # these are safe


def test_changed_data_are_refused(tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (64, 8, 8), np.uint8)
    np.save(tmp_path / "x.npy", data)
    settings = [s for s in TINY]
    api.train("gan-image", str(tmp_path / "x.npy"), out=tmp_path / "run", steps=3, settings=settings)
    np.save(tmp_path / "x.npy", 255 - data)
    with pytest.raises(MorphogenError, match="data have changed"):
        api.train("gan-image", str(tmp_path / "x.npy"), out=tmp_path / "run", steps=5, settings=settings)


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(tmp_path, never_killed):
    out = tmp_path / "run"
    run(out)
    last = out / "checkpoints" / "step-00000040" / "state.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    run(out)
    assert_same(final_state(out), final_state(never_killed))


def test_a_full_disk_costs_the_file_and_not_the_run(tmp_path, never_killed, monkeypatch):
    from morphogen import run as run_module

    original, failures = run_module.save_tensors, []

    def full(tensors, path):
        if "state" in path.name and len(failures) < 3:
            failures.append(path)
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(run_module, "save_tensors", full)
    run(tmp_path / "run")
    assert len(failures) == 3
    assert_same(final_state(tmp_path / "run"), final_state(never_killed))
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_disk_still_full_at_the_end_is_one_sentence(tmp_path):
    """The kernel itself refuses to write more than 8 kB into any file: no checkpoint and no model fits."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    done = subprocess.run(command(tmp_path / "run"), capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert "make room and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run(command(tmp_path / "run"), check=True, capture_output=True)  # with room, it goes on
    assert RunFolder(tmp_path / "run").steps_saved()[-1] == 40


def test_an_absurd_learning_rate_is_rolled_back(tmp_path):
    notes: list[str] = []

    class Notes:
        def step(self, *_): ...
        def note(self, text):
            notes.append(text)

    settings = ["players.generator.lr=30", "players.discriminator.lr=30", "train.checkpoint_every=20"]
    run(tmp_path / "run", 60, settings, display=Notes())
    assert any("diverged" in n and "back to step" in n for n in notes)
    assert all(torch.isfinite(v).all() for v in final_state(tmp_path / "run", 60).values())


def test_checkpoints_that_are_all_damaged_are_not_trained_over(tmp_path):
    run(tmp_path / "run", 5)
    for file in (tmp_path / "run" / "checkpoints").glob("*/state.safetensors"):
        file.write_bytes(b"rubbish")
    with pytest.raises(MorphogenError, match="No checkpoint"):
        run(tmp_path / "run", 6)


def test_lazy_terms_are_logged(tmp_path):
    run(tmp_path / "run", 41)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "r1" in r and "r2" in r] == [1, 21, 41]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(tmp_path, loss):
    settings = [f"model.loss={loss}", "terms.gradient_penalty.weight=0.1", "players.generator.repeats=2"]
    result = run(tmp_path / loss, 6, settings)
    assert result.evaluation["rows"]["samples"]["fid"] > 0


def test_a_rare_label_is_never_held_out(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.array([0] * 30 + [1] * 30 + list(range(2, 22)))  # twenty values with one item each
    np.savez(tmp_path / "x.npz", images=rng.integers(0, 255, (80, 8, 8), np.uint8), labels=labels)
    settings = [*TINY, "data.label=label"]
    result = api.train("gan-image", str(tmp_path / "x.npz"), out=tmp_path / "run", steps=3, settings=settings)
    assert len(result.model().classes) == 22


def test_the_seeds_recipe_trains(tmp_path):
    small = ["evaluate.samples=64", "evaluate.final_samples=64", "evaluate.extractor=random", "train.epochs=0.05"]
    result = api.train("gan-seed", "builtin:digits", out=tmp_path / "run", settings=small)
    sizes = [m.out_features for m in result.model().family.generator.modules() if isinstance(m, torch.nn.Linear)]
    assert sizes == [128, 256, 512, 1024, 784]
    assert result.model().sample(2).shape == (2, 28, 28)


def test_differences_of_a_discriminator_with_dropout_are_refused(tmp_path):
    settings = [*TINY, "model.discriminator={kind: conv, width: 4, features: 8, dropout: 0.3}"]
    with pytest.raises(UsageError, match=r"model\.penalty=exact"):
        api.train("gan-image", "builtin:digits", out=tmp_path / "run", steps=2, settings=settings)


def test_single_bad_batches_are_skipped(tmp_path, monkeypatch):
    original, calls = Trainer._batch, []

    def poisoned(self, step, repeat):
        batch = original(self, step, repeat)
        if step == 6:
            calls.append(step)
            batch["a"] = batch["a"] * float("nan")
        return batch

    monkeypatch.setattr(Trainer, "_batch", poisoned)
    run(tmp_path / "run", 12, ["train.log_every=1"])
    assert calls
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert max(r.get("skipped_updates", 0) for r in rows) >= 1
    assert all(torch.isfinite(v).all() for k, v in final_state(tmp_path / "run", 12).items() if "generator" in k)


def test_a_processor_without_bfloat16_gets_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "processor_features", lambda: set())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = precision.choose()
    assert chosen.dtype == torch.float32
    assert "no bfloat16" in chosen.why
    result = run(tmp_path / "run", 6)
    assert result.evaluation["rows"]["samples"]["fid"] > 0


def test_a_processor_with_bfloat16_gets_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for unit in ("amx_bf16", "avx512_bf16"):
        monkeypatch.setattr(precision, "processor_features", lambda unit=unit: {unit})
        assert precision.choose().dtype == torch.bfloat16
    assert precision.choose("float32").dtype == torch.float32


def test_minutes_fix_the_steps_once(tmp_path):
    first = api.train("gan-image", "builtin:digits", out=tmp_path / "a", minutes=0.02, settings=TINY)
    steps = first.config.train.steps
    assert steps is not None and steps >= 20
    again = api.train("gan-image", "builtin:digits", out=tmp_path / "a", minutes=0.02, settings=TINY)
    assert again.config.train.steps == steps
    by_steps = api.train("gan-image", "builtin:digits", out=tmp_path / "b", steps=steps, settings=TINY)
    assert_same(final_state(tmp_path / "a", steps), final_state(tmp_path / "b", by_steps.config.train.steps or 0))


def test_epochs_become_steps(tmp_path):
    result = api.train("gan-image", "builtin:digits", out=tmp_path / "run", settings=[*TINY, "train.epochs=0.1"])
    assert result.config.train.steps == round(0.1 * 1617 / 16)


def test_init_starts_from_another_models_weights(tmp_path):
    run(tmp_path / "first", 8)
    run(tmp_path / "second", 1, ["train.seed=5"], init=tmp_path / "first")
    start = load_tensors(tmp_path / "second/checkpoints/step-00000000/state.safetensors")
    weights = load(tmp_path / "first").family.state_dict()
    assert torch.equal(start["family.generator.dense.weight"], weights["generator.dense.weight"])
    assert torch.equal(start["shown.generator.dense.weight"], weights["generator.dense.weight"])


def test_init_of_another_kind_is_refused(tmp_path):
    run(tmp_path / "first", 3)
    with pytest.raises(UsageError, match="No weight of"):
        api.train("gan-points", "builtin:ring", out=tmp_path / "b", steps=2, init=tmp_path / "first")


class OwnGenerator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 64)

    def forward(self, z, y=None):
        return self.linear(z).view(-1, 1, 8, 8)


def test_a_users_own_generator(tmp_path):
    own = OwnGenerator()
    api.train("gan-image", "builtin:digits", out=tmp_path / "r", steps=5, settings=TINY, networks={"generator": own})
    with pytest.raises(UsageError, match="own module"):
        load(tmp_path / "r")
    model = load(tmp_path / "r", networks={"generator": OwnGenerator()})
    assert model.sample(3).shape == (3, 8, 8)
    with pytest.raises(UsageError, match="no network 'critic'"):
        api.train("gan-image", "builtin:digits", out=tmp_path / "s", steps=1, settings=TINY, networks={"critic": own})


# ---- parts --------------------------------------------------------------------------------------------------------


def test_schedules_at_known_points():
    cosine, linear = TrainConfig(), TrainConfig(schedule="linear", decay_from=0.5, warmup=10)
    assert [lr_factor(s, 100, cosine) for s in (0, 50, 100)] == pytest.approx([1.0, 0.505, 0.01])
    assert [lr_factor(s, 100, linear) for s in (0, 9, 50, 75, 100)] == pytest.approx([0.1, 1, 1, 0.505, 0.01])
    assert lr_factor(99, 100, TrainConfig(schedule="constant")) == 1.0


def test_term_weights_at_known_points():
    lazy = TermConfig(weight=2, every=4)
    assert [term_weight(lazy, s, 100) for s in range(5)] == [8, 0, 0, 0, 8]
    assert [term_weight(TermConfig(warmup=4), s, 100) for s in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]
    late = TermConfig(start=4, warmup=2, every=2)
    assert [term_weight(late, s, 100) for s in (0, 2, 3, 4, 5, 6, 50)] == [0, 0, 0, 1, 0, 2, 2]
    assert [term_weight(TermConfig(until=3), s, 100) for s in (2, 3)] == [1, 0]
    assert [term_weight(TermConfig(weight=4, final=1), s, 100) for s in (0, 50, 100)] == pytest.approx([4, 2, 1])


def test_average_of_a_ramp():
    source, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    ema = Average({"m": average}, share=0.1, most=5)
    assert ema.decay(0) == 0  # the first weights are taken as they are
    assert ema.decay(20) == pytest.approx(0.5**0.5)
    assert ema.decay(10_000) == pytest.approx(0.5**0.2)
    expected = 0.0
    for step in range(60):
        source.weight.data.fill_(float(step))
        ema.update({"m": source}, step)
        expected = ema.decay(step) * expected + (1 - ema.decay(step)) * step
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_guard_skips_non_finite_and_exploding_updates_only():
    weight = torch.nn.Parameter(torch.ones(3))
    adam, guard = optimizer([weight], PlayerConfig(lr=0.1)), Guard(10.0, torch.device("cpu"))

    def step(gradient):
        before = weight.detach().clone()
        weight.grad = torch.tensor(gradient)
        guarded_step(adam, guard, None)
        return not torch.equal(before, weight)

    assert all(step([1.0, 2.0, 3.0]) for _ in range(102))
    assert not step([float("nan"), 1.0, 1.0])
    assert not step([float("inf"), 1.0, 1.0])
    assert not step([900.0, 1.0, 1.0])
    assert int(guard.state["streak"]) == 3
    assert step([2.0, 1.0, 1.0])
    assert int(guard.state["streak"]) == 0
    assert int(guard.state["skipped"]) == 3
    taken = next(i for i in range(1000) if step([900.0, 1.0, 1.0]))
    assert 0 < taken < 300  # a lasting change of scale is accepted in the end: no deadlock


def test_a_player_that_had_won_may_learn_again():
    guard = Guard(10.0, torch.device("cpu"))
    norms = [1.0] * 110 + [0.01] * 400 + [3.0]
    assert [float(guard.check(torch.tensor(norm))) for norm in norms] == [0.0] * len(norms)
    assert guard.check(torch.tensor(100.0))


def test_the_guard_forgets_the_first_slopes():
    guard = Guard(10.0, torch.device("cpu"))
    for step in range(1000):
        guard.check(torch.tensor(1e4 if step < 5 else 1.0))
    assert guard.check(torch.tensor(5000.0))


def test_clipping_bounds_the_gradient():
    weight = torch.nn.Parameter(torch.zeros(2))
    sgd = torch.optim.Adam([weight], 1.0, fused=True)
    weight.grad = torch.tensor([3.0, 4.0])
    norm = guarded_step(sgd, Guard(10.0, torch.device("cpu")), clip=1.0)
    assert norm.item() == pytest.approx(5.0)
    assert weight.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
