"""Shared fixtures: caches go to a temporary folder, trainings are tiny, absent real data are a skip with a reason."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from morphogen.loop import Stopped, Trainer
from morphogen.run import load_tensors

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _own_cache_and_few_steps(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("MORPHOGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr("morphogen.posthoc.FLOW_STEPS", 200)  # of 4,000: tests of the fit itself set more
    yield
    patch.undo()


@pytest.fixture(scope="session")
def mnist() -> str:
    """SRC of real MNIST training digits."""
    if not (SHARED / "mnist").exists():
        pytest.skip("real data absent: ../shared/data/mnist")
    return f"{SHARED / 'mnist'}#train"


TINY = [
    "model.generator={kind: conv, width: 8}", "model.discriminator={kind: conv, width: 8, features: 32}",
    "model.latent_dim=8", "train.batch_size=16", "evaluate.samples=64", "evaluate.final_samples=128",
    "evaluate.extractor=random", "evaluate.report=false",
]  # fmt: skip
"""Settings under which gan-image trains in milliseconds a step."""

_TINY_VAE = [
    "model.latent_dim=4", "train.batch_size=16", "evaluate.samples=64", "evaluate.final_samples=128",
    "evaluate.extractor=random", "evaluate.likelihood_items=20", "evaluate.importance_samples=5",
    "evaluate.samplers=[gmm]", "evaluate.report=false",
]  # fmt: skip
TINY_OF = {
    "gan-image": TINY,
    "vae-image": [
        *_TINY_VAE, "model.encoder={kind: conv, width: 8, features: 32}", "model.decoder={kind: conv, width: 8}",
        "model.prior={kind: vamp, components: 8}",
    ],
    "vae-binary": [
        *_TINY_VAE, "model.encoder={kind: ladder, width: 8, features: 32}",
        "model.decoder={kind: ladder, width: 8, layers: 1, latent_channels: 2}",
    ],
    "cyclevae-image": [
        *_TINY_VAE, "model.encoder={kind: conv, width: 8, features: 32}", "model.decoder={kind: conv, width: 8}",
        "model.critic={kind: conv, width: 8, features: 32}", "data.label=label", "model.guess=null",
    ],
    "cyclegan-image": [
        "train.batch_size=16", "evaluate.samples=64", "evaluate.final_samples=128", "evaluate.extractor=random",
        "model.to_a={width: 8, blocks: 1}", "model.to_b={width: 8, blocks: 1}", "model.pool=20",
        "data_b={source: 'builtin:digits#label=3|5'}", "evaluate.report=false",
    ],
}  # fmt: skip
"""The same for every recipe on pictures."""


def final_state(out: Path, step: int = 40) -> dict[str, torch.Tensor]:
    """Everything that the checkpoint of a run at a step holds."""
    return load_tensors(out / "checkpoints" / f"step-{step:08d}" / "state.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@contextmanager
def stopping_after(monkeypatch, step: int, told: str | None = None):
    """Within it a training is sent SIGTERM after this step, as it is expected to say."""
    original = Trainer.train_step

    def stopping(self):
        values = original(self)
        self.stop_signal = signal.SIGTERM if self.step == step else None
        return values

    with monkeypatch.context() as within:
        within.setattr(Trainer, "train_step", stopping)
        with pytest.raises(Stopped, match=told):
            yield
