"""A VAE whose decoder a critic sharpens: the encoder rests, codes are moved along those of items alike."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import TINY_OF, assert_same, final_state, stopping_after

from morphogen import api, load
from morphogen.config import AugmentConfig
from morphogen.errors import UsageError
from morphogen.families import Turn
from morphogen.families.vae import VAE, VAEOptions
from morphogen.modalities import Image
from morphogen.nets.priors import LastCodes, look
from morphogen.run import load_tensors

SPACE = (1, 16, 16)
WEIGHTS = {"reconstruction": 1.0, "kl": 1.0, "adversarial": 5.0}
SHARPENED = [
    *TINY_OF["vae-image"], "model.prior={kind: mixture, components: 8}",
    "model.critic={kind: conv, width: 8, features: 16}", "model.pool=64",
    "terms.adversarial={weight: 100, start: 6, warmup: 2}", "terms.critic={start: 6}",
    "terms.r1={weight: 0.0001, every: 2, start: 6}", "players.discriminator={lr: 0.001}", "train.evaluate_every=12",
]  # fmt: skip


def a_vae(**options) -> VAE:
    networks = {
        "encoder": {"width": 8, "features": 16},
        "decoder": {"width": 8},
        "critic": {"width": 8, "features": 16},
    }
    family = VAE(Image(SPACE), VAEOptions(latent_dim=4, pool=100, **networks, **options), 0, AugmentConfig(mode="off"))
    family.prepare(torch.rand(50, *SPACE) * 2 - 1)
    return family


def two_kinds(count: int, seed: int = 0) -> torch.Tensor:
    """Pictures, dark ones and bright ones in turn, no two alike."""
    noise = 0.1 * torch.randn(count, *SPACE, generator=torch.Generator().manual_seed(seed))
    return noise + (torch.arange(count) % 2 - 0.5).view(-1, 1, 1, 1)


def test_last_codes_move_along_the_codes_of_items_alike():
    """What is drawn has the covariance of the code and those of the items that look most alike, by definition."""
    x, codes = two_kinds(40), torch.randn(40, 5)
    codes[::2] *= torch.tensor([3.0, 0.1, 1.0, 0.0, 1.0])
    last = LastCodes(5, SPACE, kernels=40, width=0.5)
    assert last.keep(codes, None, x, 0) == 40
    apart = torch.cdist(look(x, codes)[:1].double(), look(x, codes).double())[0]
    near = codes[apart.argsort()[: last.near]]
    assert (apart.argsort()[: last.near] % 2 == 0).all()  # its own kind
    z = last.draw(torch.randn(20_000, 5), torch.full((20_000,), 0.5 / 40), None)
    assert torch.allclose(z.mean(0), codes[0], atol=0.05)
    assert torch.allclose(torch.cov(z.T), 0.25 * torch.cov(near.T), atol=0.03, rtol=0.05)


def test_the_oldest_codes_make_room_and_an_item_is_not_its_own_neighbour():
    x, codes = two_kinds(6), torch.arange(6.0)[:, None].expand(6, 4).contiguous()
    last = LastCodes(4, SPACE, kernels=10, width=1.0)
    seen = last.keep(codes, None, x, 0)
    assert last.centres[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]  # the first ones fill it
    seen = last.keep(codes[:3] + 10, None, two_kinds(3, 1), seen)
    assert seen == 9
    assert last.centres[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 3]
    assert last.keep(torch.arange(25.0)[:, None].expand(25, 4), None, two_kinds(25, 2), seen) == 34
    twice = LastCodes(4, SPACE, kernels=12, width=1.0)
    twice.keep(codes, None, x, 0)  # each stands there twice: its other self must not hold it in place
    z = twice.draw(torch.randn(500, 4), torch.full((500,), 0.5 / 12), None)
    assert z.std(0).min() > 0.5


def test_last_codes_stay_with_their_label():
    y = torch.arange(60) % 3
    codes = 10.0 * y[:, None] + torch.randn(60, 4)
    last = LastCodes(4, SPACE, 3, kernels=60, width=1.0)
    last.keep(codes, y, two_kinds(60), 0)
    wanted = torch.randint(3, (200,))
    z = last.draw(torch.randn(200, 4), torch.rand(200), wanted)
    assert (z.mean(1) - 10 * wanted).abs().max() < 5


def test_the_encoder_rests_while_the_critic_teaches():
    family, x = a_vae(), torch.rand(20, *SPACE) * 2 - 1
    before = Turn("autoencoder", 0, 0, {k: v for k, v in WEIGHTS.items() if k != "adversarial"})
    assert "adversarial" not in family.losses(before, {"a": x})
    assert family.numbers["pooled"] == 0
    turn = Turn("autoencoder", 1, 0, WEIGHTS)
    terms = family.losses(turn, {"a": x})
    sum((WEIGHTS[name] * term.mean() for name, term in terms.items()), torch.zeros(())).backward()
    assert all(p.grad is None for p in family.encoder.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in family.decoder.parameters())
    assert family.numbers["pooled"] == 20
    assert family.last is not None
    assert torch.equal(family.last.views[:20], look(x, x))
    fake, _ = turn.cache["fake"]
    assert not fake.requires_grad
    family.critic.zero_grad()
    learning = Turn("discriminator", 1, 0, {"critic": 1.0, "r1": 1.0}, cache=turn.cache)
    terms = family.losses(learning, {"a": x})
    assert set(terms) == {"critic", "r1"}
    assert "fake" not in turn.cache
    again = family.losses(learning, {"a": x})["critic"]  # a further turn of the step makes its own
    assert again.shape == terms["critic"].shape == (20,)
    terms["critic"].mean().backward()
    assert all(p.grad is not None for p in family.critic.parameters())


def test_while_it_learns_samples_are_of_moved_codes_and_the_bound_does_not_choose():
    family = a_vae()
    assert family.criterion == "fid"
    plain = VAE(Image(SPACE), VAEOptions(latent_dim=4))
    assert plain.criterion == "nelbo"
    assert "discriminator" not in plain.players
    noise, pick = torch.zeros(5, 4), torch.full((5,), 0.31)
    assert torch.equal(family.draw(noise, pick, None), noise)  # the trained prior's
    x = torch.rand(20, *SPACE) * 2 - 1
    family.losses(Turn("autoencoder", 1, 0, WEIGHTS), {"a": x})
    assert family.last is not None
    assert torch.equal(family.draw(noise, pick, None), family.last.centres[31].expand(5, 4))


@pytest.mark.parametrize(
    "options",
    [
        {"posterior": "point"},
        {"latent_dim": 1},
        {"prior": {"kind": "vamp"}},
        {"encoder": {"kind": "ladder"}, "decoder": {"kind": "ladder"}},
    ],
)
def test_what_a_critic_cannot_go_with_is_said(options):
    with pytest.raises(UsageError, match=r"model\.(critic=null|prior\.kind)"):
        VAE(Image(SPACE), VAEOptions(**{"latent_dim": 4, "critic": {}, **options}))


def test_a_vae_of_text_has_no_critic(tmp_path):
    with pytest.raises(UsageError, match=r"model\.critic=null"):
        api.train("vae-text", "builtin:words", out=tmp_path / "run", steps=1, settings=["model.critic={}"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("terms.adversarial.start=0", "set terms.adversarial.start"),
        ("terms.adversarial.every=2", "neither every nor until"),
        ("terms.critic.start=12", "past the last step"),
    ],
)
def test_a_critic_that_would_freeze_the_encoder_or_never_come_is_refused(tmp_path, setting, said):
    with pytest.raises(UsageError, match=said):
        api.train("vae-image", "builtin:digits", out=tmp_path / "run", steps=12, settings=[*SHARPENED, setting])


def test_minutes_do_not_go_with_a_step_to_start_at(tmp_path):
    with pytest.raises(UsageError, match="give --steps"):
        api.train("vae-image", "builtin:digits", out=tmp_path / "run", minutes=1, settings=SHARPENED)


def test_a_critic_without_its_term_is_refused(tmp_path):
    settings = [s for s in SHARPENED if not s.startswith("terms.adversarial")]
    with pytest.raises(UsageError, match=r"terms\.adversarial"):
        api.train("vae-image", "builtin:digits", out=tmp_path / "run", steps=12, settings=settings)


@pytest.mark.parametrize("label", [[], ["data.label=label"]])
def test_stopped_in_the_critics_phase_and_resumed_equals_never_stopped(tmp_path, monkeypatch, label):
    begin = lambda name: api.train(
        "vae-image", "builtin:digits", out=tmp_path / name, steps=12, settings=[*SHARPENED, *label]
    )
    begin("whole")
    with stopping_after(monkeypatch, 9):
        begin("cut")
    begin("cut")
    whole = final_state(tmp_path / "whole", 12)
    assert_same(final_state(tmp_path / "cut", 12), whole)
    assert whole["family.last.centres"].abs().sum() > 0
    kept = load_tensors(tmp_path / "whole" / "model" / "weights.safetensors")
    assert not [key for key in kept if key.startswith(("critic", "last"))]
    model = load(tmp_path / "whole")
    assert model.sample(3).std() > 0
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert any("health/told/critic" in row for row in rows)


def test_a_vaes_critic_can_see_by_a_classifier_of_an_attribute_the_model_is_not_told(tmp_path):
    settings = [*SHARPENED, "model.critic={kind: projected, width: 8, features: 16, heads: 4, side: 64}",
                "evaluate.content=label"]  # fmt: skip
    run = api.train("vae-image", "builtin:digits", out=tmp_path / "run", steps=8, settings=settings)
    state = final_state(run.path, 8)
    assert [key for key, value in state.items() if "critic.seen.weight_0" in key and value.abs().sum() > 0]
