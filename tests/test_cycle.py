"""The cyclic families: exactly the GAN without the cycle, the pool, translation there and back, and every use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image as Pillow
from test_cli import call

from morphogen import load, train
from morphogen.config import AugmentConfig
from morphogen.errors import UsageError
from morphogen.evaluation import cycle_scores
from morphogen.families.base import Turn
from morphogen.families.critic import as_frequent
from morphogen.families.cycle_gan import CycleGAN, CycleGANOptions
from morphogen.families.gan import GAN, GANOptions
from morphogen.health import cycle_findings
from morphogen.metrics.classifier import SIDE, train_classifier
from morphogen.modalities import Image
from morphogen.nets import initialise
from morphogen.nets.translators import InstanceNorm
from morphogen.run import load_tensors

SMALL = {"kind": "conv", "width": 8}
CRITIC = {**SMALL, "features": 16}


def against_noise(**options) -> CycleGAN:
    chosen = {"to_a": SMALL, "to_b": CRITIC, "critic_a": CRITIC, "critic_b": {"hidden": [16]}, **options}
    family = CycleGAN(Image((1, 16, 16)), CycleGANOptions(latent_dim=4, **chosen), augment=AugmentConfig())
    for name, module in family.named_children():
        initialise(module, 0, name)
    return family


def two_domains(space=(1, 16, 16), other=(1, 16, 16), **options) -> CycleGAN:
    chosen = {"to_a": {"width": 8, "blocks": 1}, "to_b": {"width": 8, "blocks": 1}}
    family = CycleGAN(Image(space), CycleGANOptions(**chosen, **options), augment=AugmentConfig(), other=Image(other))
    for name, module in family.named_children():
        initialise(module, 0, name)
    family.prepare(torch.rand(8, *space), torch.rand(8, *other))
    return family


@pytest.mark.parametrize("loss", ["relativistic", "leastsquares"])
def test_without_the_terms_of_the_encoder_it_is_exactly_the_gan(loss):
    """Same weights, same losses, same gradients, over several steps of both players, R1 and R2 included."""
    options = GANOptions(latent_dim=4, loss=loss, penalty="difference", generator=SMALL, discriminator=CRITIC)
    gan = GAN(Image((1, 16, 16)), options, augment=AugmentConfig(mode="fixed", probability=0.5))
    cycle = against_noise(loss=loss)
    cycle.augment, cycle.numbers["augment"] = gan.augment, gan.numbers["augment"]
    gan.generator.load_state_dict(cycle.to_a.state_dict())
    gan.discriminator.load_state_dict(cycle.critic_a.state_dict())
    x = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    gan.prepare(x)
    cycle.prepare(x)
    names = {"generator": {"generator": "adversarial_a"}, "discriminator": {"discriminator": "critic_a", "r1": "r1_a",
             "r2": "r2_a"}}  # fmt: skip
    optimizers = {f: torch.optim.Adam(f.parameters(), 1e-3) for f in (gan, cycle)}
    for step in range(3):
        caches: dict = {gan: {}, cycle: {}}
        for player, terms in names.items():
            losses = {}
            for family, wanted in ((gan, terms.keys()), (cycle, terms.values())):
                for module, names_of in ((m, n) for n, m in family.named_children()):
                    module.requires_grad_(names_of in family.players[player])
                turn = Turn(player, step, 5, dict.fromkeys(wanted, 0.1), cache=caches[family])
                found = family.losses(turn, {"a": x[16 * step : 16 * step + 16]})
                assert found.keys() == set(wanted)
                losses[family] = found
                optimizers[family].zero_grad()
                torch.stack([0.1 * v.mean() for v in found.values()]).sum().backward()
                optimizers[family].step()
            for name, its in terms.items():
                assert torch.equal(losses[gan][name], losses[cycle][its]), name
    for a, b in ((gan.generator, cycle.to_a), (gan.discriminator, cycle.critic_a)):
        for key, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[key]), key


def test_cycles_are_what_the_formulas_say():
    """‖to_a(to_b(a)) − a‖₁ and ‖to_b(to_a(b)) − b‖₁ as means over an item (Zhu et al. 2017, eq. 2)."""
    family = two_domains().eval()
    a, b = torch.rand(3, 1, 16, 16) * 2 - 1, torch.rand(3, 1, 16, 16) * 2 - 1
    weights = dict.fromkeys(family.terms["generator"], 1.0)
    terms = family.losses(Turn("generator", 0, 0, weights), {"a": a, "b": b})
    there = family.translate(family.translate(a, "b"), "a")
    assert torch.allclose(terms["cycle_a"], (there - a).abs().mean((1, 2, 3)), atol=1e-5)
    assert torch.allclose(terms["identity_b"], (family.translate(b, "b") - b).abs().mean((1, 2, 3)), atol=1e-5)


def test_the_pool_fills_swaps_half_and_is_saved():
    family = two_domains(pool=50)
    assert {"pool_a", "pool_b"} <= family.state_dict().keys()
    swapped = kept = 0
    for step in range(40):
        fake = torch.full((10, 1, 16, 16), float(step))
        out = family._pooled(Turn("discriminator", step, 0, {}), "a", fake)
        if step < 5:
            assert torch.equal(out, fake)  # the pool is filling
        else:
            new = int((out[:, 0, 0, 0] == step).sum())
            kept, swapped = kept + new, swapped + 10 - new
            assert int((family.pool_a[:, 0, 0, 0] == step).sum()) == 10 - new
    assert 0.4 < kept / (kept + swapped) < 0.6


def test_a_model_to_share_holds_no_pool(translator):
    names = load_tensors(translator / "model" / "weights.safetensors").keys()
    assert not [name for name in names if name.startswith("pool")]


def test_critics_judge_fakes_of_the_labels_they_were_made_for():
    family = against_noise()
    family.classes = 3
    seen: list = []
    family.critic_a.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    one, two = torch.tensor([1, 1]), torch.tensor([0, 2])
    cache: dict = {}
    x = torch.rand(2, 1, 16, 16)
    family.losses(Turn("generator", 0, 0, {"adversarial_a": 1.0}, 1, cache), {"a": x, "label": one})
    family.losses(Turn("discriminator", 0, 0, {"critic_a": 1.0}, 0, cache), {"a": x, "label": two})
    assert seen[-1].tolist() == [0, 2, 1, 1]


def test_noise_on_the_way_back_is_fresh_noise_of_the_asked_strength():
    family = two_domains(hide=0.1)
    x = torch.zeros(4, 1, 16, 16)
    one, two = (family._covered(Turn("generator", step, 0, {}), "b", x) for step in (0, 1))
    assert one.std().item() == pytest.approx(0.1, rel=0.1)
    assert (one != two).any()


def test_instance_norm_agrees_with_torch_and_keeps_channels_last():
    x = torch.randn(3, 5, 8, 8).contiguous(memory_format=torch.channels_last)
    norm = InstanceNorm(5)
    out = norm(x)
    assert torch.allclose(out, torch.nn.functional.instance_norm(x), atol=1e-4)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def translator(tmp_path_factory) -> Path:
    """A model between digits of 8x8 and coloured noise pictures of 12x10."""
    folder = tmp_path_factory.mktemp("cycle")
    items = np.random.default_rng(0).integers(0, 255, (90, 12, 10, 3), np.uint8)
    np.save(folder / "b.npy", items)
    settings = ["train.batch_size=8", "model.to_a={width: 8, blocks: 1}", "model.to_b={kind: unet, width: 8}",
                "evaluate.samples=64", "evaluate.final_samples=64", "evaluate.extractor=random"]  # fmt: skip
    call("train", "cyclegan-image", "--data", "builtin:digits", "--data-b", folder / "b.npy", "--steps", 20,
         "--out", folder / "run", *[part for s in settings for part in ("--set", s)])  # fmt: skip
    return folder / "run"


def test_translation_between_two_data_sets(translator, tmp_path, capsys):
    found = json.loads((translator / "evaluation.json").read_text())
    assert "not translated" in found["rows"]
    assert "not translated" in found["back"]["rows"]
    call("translate", translator, "builtin:digits#test", "--to", "b", "--out", tmp_path / "b.npy")
    there = np.load(tmp_path / "b.npy")
    assert there.shape[1:] == (12, 12, 3)  # the smallest multiple of 4 that fits
    call("translate", translator, tmp_path / "b.npy", "--to", "a", "--out", tmp_path / "back")
    assert len(list((tmp_path / "back").iterdir())) == len(there)
    model = load(translator)
    plain = model.translator("a", "b")
    items = np.random.default_rng(1).integers(0, 255, (4, 8, 8), np.uint8)
    made = plain(model.tensor(items))
    assert (model.family.other.array(model.family.other.decode(made)) == model.translate(items, "b")).all()
    call("sample", translator, "--out", tmp_path / "s.npy", code=2)
    assert "use translate" in capsys.readouterr().err


def test_data_against_noise_has_every_use_of_a_gan_and_of_an_encoder(tmp_path, capsys):
    run = tmp_path / "run"
    settings = [s for s in TINY if "model." not in s]
    settings += ["model.latent_dim=8", "model.to_a={width: 8}", "model.to_b={width: 8, features: 16}"]
    call("train", "cyclegan-image", "--data", "builtin:digits", "--steps", 20, "--out", run,
         *[part for s in settings for part in ("--set", s)])  # fmt: skip
    call("sample", run, "-n", 5, "--out", tmp_path / "s.npy")
    call("encode", run, tmp_path / "s.npy", "--out", tmp_path / "z.npy")
    call("reconstruct", run, tmp_path / "s.npy", "--out", tmp_path / "r.npy")
    call("interpolate", run, "--frames", 4, "--out", tmp_path / "i")
    assert np.load(tmp_path / "z.npy").shape == (5, 8)
    assert np.load(tmp_path / "r.npy").shape == (5, 8, 8)
    call("translate", run, tmp_path / "s.npy", "--to", "b", "--out", tmp_path / "t.npy", code=2)
    assert "cannot translate" in capsys.readouterr().err


def test_a_gan_is_not_given_a_second_domain(tmp_path, capsys):
    call("train", "gan-image", "--data", "builtin:digits", "--data-b", "builtin:digits", "--steps", 5,
         "--out", tmp_path / "run", code=2)  # fmt: skip
    assert "one domain" in capsys.readouterr().err


def turn(family: CycleGAN, player: str, *names: str, cache: dict | None = None) -> Turn:
    return Turn(player, 0, 0, dict.fromkeys(names, 1.0), 0, {} if cache is None else cache)


def test_styles_choose_among_outputs_and_are_read_back():
    """‖style_b(a, to_b(a, z)) − z‖² and the way back in the style that the item had (Almahairi et al. 2018, eq. 4)."""
    assert two_domains(style_dim=70).translate(torch.rand(2, 1, 16, 16), "b", torch.zeros(2, 70)).shape[0] == 2
    family = two_domains(style_dim=3)
    assert family.noise(4, 0).shape == (4, 3)
    a, b = torch.rand(4, 1, 16, 16) * 2 - 1, torch.rand(4, 1, 16, 16) * 2 - 1
    terms = family.losses(turn(family, "generator", "style_b", "cycle_a"), {"a": a, "b": b})
    z = Turn("generator", 0, 0, {}).normal("style b", 4, 3, device=a.device)
    fake = family.translate_b(a, None, z)
    seen = family.style_b(torch.cat([fake, a], 1), None)
    assert torch.allclose(terms["style_b"], (seen - z).square().mean(1), atol=1e-5)
    back = family.translate_a(fake, None, family.style_a(torch.cat([a, fake], 1), None))
    assert torch.allclose(terms["cycle_a"], (back - a).abs().mean((1, 2, 3)), atol=1e-5)
    family.eval()
    one, two = (family.translate(a, "b", family.noise(4, seed)) for seed in (0, 1))
    assert (one - two).abs().max() > 1e-3
    assert torch.equal(one, family.translate(a, "b", family.noise(4, 0)))


class Brightness(torch.nn.Module):
    """A classifier of two classes, dark and bright, with a layer that would misbehave in training mode."""

    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.9)

    def forward(self, x):
        return self.drop(torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1) * 5)


def test_the_teacher_holds_known_labels_one_way_and_its_own_view_the_other_way():
    """Labels of the labelled domain only: a batch without the other's is enough."""
    family = two_domains((1, 16, 16), (3, 12, 12))
    family.teach("a", Brightness())
    family.train()
    a, b = torch.rand(4, 1, 16, 16) * 2 - 1, torch.rand(4, 3, 12, 12) * 2 - 1
    y = torch.tensor([0, 1, 1, 0])
    terms = family.losses(turn(family, "generator", "semantic_a", "semantic_b"), {"a": a, "b": b, "label": y})
    logits = torch.stack([-(m := family.translate_b(a).mean(1, keepdim=True)).mean((1, 2, 3)), m.mean((1, 2, 3))], 1)
    expected = torch.nn.functional.cross_entropy(logits * 5, y, reduction="none")
    assert torch.allclose(terms["semantic_b"], expected, atol=0.05)  # but for the change of size
    seen = family.teacher(b).softmax(1)
    made = family.teacher(family.translate_a(b)).log_softmax(1)
    assert torch.allclose(terms["semantic_a"], -(seen * made).sum(1), atol=1e-5)
    assert not any(p.requires_grad for p in family.teacher.parameters())


def test_critics_see_classes_as_frequent_as_the_other_domain_has_them():
    """A quarter of a is bright, three quarters of what the teacher reads in b: translations of bright items are shown
    three times as often as they come, dark ones a third as often, and the real a of critic_a likewise."""
    family = two_domains((1, 16, 16), (1, 16, 16), match_labels=True)
    family.teach("a", Brightness())
    y = torch.tensor([1, 0, 0, 0] * 16)
    sure = torch.eye(2)[torch.tensor([1, 1, 1, 0] * 16)] * 50
    for _ in range(1000):
        family.teacher.count(y, sure)
    assert torch.allclose(family.teacher.shares, torch.tensor([[0.75, 0.25], [0.25, 0.75]]), atol=1e-3)
    marked = y.float()[:, None, None, None].expand(64, 1, 16, 16)
    for player in ("generator", "discriminator"):
        now = turn(family, player)
        real, fake = family._as_frequent(now, {"label": y}, "b", marked, marked)
        assert real is marked and int(fake[:, 0, 0, 0].sum()) == 48
        real, fake = family._as_frequent(now, {"label": y}, "a", marked, marked)
        assert fake is marked and int(real[:, 0, 0, 0].sum()) == 48
    family.options.match_labels = False
    assert family._as_frequent(now, {"label": y}, "b", marked, marked)[1] is marked


def test_held_out_translations_are_compared_where_classes_are_as_frequent():
    """Those of labelled items by their labels; those of the others by what the teacher sees in them, the other way."""
    family = two_domains((1, 16, 16), (1, 16, 16), match_labels=True)
    family.teach("a", Brightness())
    family.teacher.shares.copy_(torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    y = torch.tensor([1, 0, 0, 0] * 16)
    marked = (2 * y.float() - 1)[:, None, None, None].expand(64, 1, 16, 16)
    assert int(y[family.comparable("a", marked, y)].sum()) == 48
    bright = -marked  # three quarters
    assert int((bright[family.comparable("b", bright, None)] > 0)[:, 0, 0, 0].sum()) == 16
    family.options.match_labels = False
    assert family.comparable("a", marked, y) is None


def test_the_shares_of_classes_are_counted_where_translations_are_read_and_come_back_with_the_checkpoint():
    family = two_domains((1, 16, 16), (1, 16, 16), match_labels=True)
    family.teach("a", Brightness())
    batch = {"a": torch.rand(4, 1, 16, 16), "b": torch.rand(4, 1, 16, 16), "label": torch.tensor([0, 1, 1, 1])}
    family.losses(turn(family, "generator", "semantic_b"), batch)
    assert torch.equal(family.teacher.shares, torch.full((2, 2), 0.5))  # nothing of b was read
    family.losses(turn(family, "generator", "semantic_a"), batch)
    assert torch.allclose(family.teacher.shares[0], torch.tensor([0.4975, 0.5025]))
    read = family.teacher(family.translate_a(batch["b"])).softmax(1).mean(0)
    assert torch.allclose(family.teacher.shares[1], 0.495 + 0.01 * read, atol=1e-5)
    assert any(name.endswith("teacher.shares") for name in family.state_dict())


def test_the_teacher_sees_large_items_as_small_as_it_was_trained_on():
    """As the scores see them: 64 pixels a side become 32, in which it knows its classes."""
    generator = np.random.default_rng(0)
    y = np.arange(400) % 2
    items = np.clip(generator.normal(60 + 120 * y[:, None, None, None], 20, (400, 1, 8, 8)), 0, 255).astype(np.uint8)
    items = items.repeat(8, 2).repeat(8, 3)
    classifier = train_classifier(items, y, items[:50], y[:50], fingerprint="two greys", seed=3)
    family = two_domains((1, 64, 64), (1, 64, 64))
    family.teach("a", classifier.net, SIDE)
    seen = family.teacher(family.modality.encode(torch.from_numpy(items[:50]))).softmax(1).detach().numpy()
    assert abs(seen - classifier.probabilities(items[:50])).max() < 0.05


def test_of_two_data_sets_one_may_have_labels_and_the_other_ones_are_never_read(tmp_path):
    items = np.random.default_rng(0).integers(0, 255, (90, 12, 12), np.uint8)
    (tmp_path / "b").mkdir()
    for k, item in enumerate(items):
        Pillow.fromarray(item).save(tmp_path / "b" / f"{k:03d}.png")
    (tmp_path / "b" / "broken.png").write_bytes(b"no picture")
    settings = ["train.batch_size=8", "model.to_a={width: 8, blocks: 1}", "model.to_b={width: 8, blocks: 1}",
                "evaluate.samples=64", "evaluate.final_samples=64", "data.label=label",
                "model.match_labels=true"]  # fmt: skip
    call("train", "cyclegan-image", "--data", "builtin:digits", "--data-b", tmp_path / "b", "--steps", 20,
         "--out", tmp_path / "run", *[part for s in settings for part in ("--set", s)])  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"semantic_a", "semantic_b"} <= rows[0].keys()
    assert "broken.png" in (tmp_path / "run" / "skipped.txt").read_text()
    assert "Labels of domain a hold the meaning" in (tmp_path / "run" / "model" / "README.md").read_text()
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "of the other domain" in found["extractor"]
    assert {"label_kept", "kid_matched", "kid_matched_error"} <= found["cycle"].keys()
    assert "label_kept" not in found["back"]["cycle"]
    assert not [k for k in load_tensors(tmp_path / "run" / "model" / "weights.safetensors") if k.startswith("teacher")]


@pytest.mark.parametrize("settings", [[], ["data.label=label", "terms.semantic_a.weight=0"]])
def test_classes_that_nobody_reads_cannot_be_matched(tmp_path, settings):
    with pytest.raises(UsageError, match=r"model\.match_labels needs two data sets, labels of one"):
        train("cyclegan-image", "builtin:digits", data_b="builtin:digits", out=tmp_path, steps=1,
              settings=["model.match_labels=true", *settings])  # fmt: skip


def test_a_shared_trunk_learns_to_encode_in_the_generators_turn_and_to_judge_in_its_own():
    def gradients(player: str, *names: str) -> set[str]:
        family = against_noise(encoder="shared", to_b={})
        for name, module in family.named_children():
            module.requires_grad_(name in family.players[player])
        x = torch.rand(4, 1, 16, 16)
        torch.stack([v.mean() for v in family.losses(turn(family, player, *names), {"a": x}).values()]).sum().backward()
        return {k.split(".")[0] + "." + k.split(".")[1] for k, p in family.named_parameters()
                if p.grad is not None and p.grad.abs().sum() > 0}  # fmt: skip

    adversarial = gradients("generator", "adversarial_a")
    assert not [k for k in adversarial if k.startswith("critic_a")]
    assert {"critic_a.body", "to_b.linear", "to_a.last"} <= (cycle := gradients("generator", "cycle_b"))
    assert "critic_a.verdict" not in cycle
    assert {"critic_a.body", "critic_a.verdict"} <= gradients("discriminator", "critic_a")


def test_the_joint_critic_pairs_items_with_codes():
    """ζ(D(x, E(x)) − D(G(z), z)) for the makers and its mirror image for the critic (Donahue et al. 2017, eq. 2)."""
    family = against_noise(critic_joint={"width": 8, "features": 16, "hidden": 16})
    x, cache = torch.rand(4, 1, 16, 16), {}
    made = family.losses(turn(family, "generator", "adversarial_joint", cache=cache), {"a": x})
    z = Turn("generator", 0, 0, {}).normal("z", 4, 4, device=x.device)
    gap = family.critic_joint(x, family.translate_b(x)) - family.critic_joint(family.translate_a(z), z)
    assert torch.allclose(made["adversarial_joint"], torch.nn.functional.softplus(gap), atol=1e-5)
    other = {"a": torch.rand(4, 1, 16, 16)}  # as after several turns of the generators: pairs stay pairs
    judged = family.losses(turn(family, "discriminator", "critic_joint", "r1_joint", cache=cache), other)
    assert torch.allclose(judged["critic_joint"], torch.nn.functional.softplus(-gap), atol=1e-5)
    assert judged["r1_joint"].shape == (4,)


class Liar:
    """A cycle with a planted fault: translations are grey but for what is hidden in their last bits, or copies."""

    device, latent_dim = torch.device("cpu"), 1
    noise = CycleGAN.noise

    def __init__(self, hidden: float, shift: float = 0.0):
        self.hidden, self.shift = hidden, shift

    def translate(self, x, to, noise=None):
        return self.hidden * x + self.shift

    def there_and_back(self, x, side, spoil):
        there = self.translate(x, "b")
        return there, ((spoil(there) - self.shift) / self.hidden).clamp(-1, 1)


@pytest.mark.parametrize(("hidden", "said"), [(0.01, "information hiding"), (1.0, "copied input"), (-1.0, None)])
def test_hiding_and_copying_are_called_out_and_an_honest_cycle_is_not(hidden, said):
    x = torch.rand(200, 1, 8, 8) * 2 - 1
    scores, _ = cycle_scores(Liar(hidden), "a", x, Image((1, 8, 8)), 0)
    rows = {"samples": {"kid": 0.5}, "not translated": {"kid": 0.5}}
    findings = cycle_findings({"cycle": scores, "rows": rows})
    assert [f.what for f in findings] == ([said] if said else [])
    assert scores["diversity"] == 0


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.99])
def test_redrawn_items_have_the_wanted_shares_of_classes_and_each_item_its_due(chance):
    """A class of share 0.8 that is to have 0.5, one of 0.2 that is to have 0.5: weights 5/8 and 5/2, sum 100 x 1."""
    labels = torch.tensor([0, 0, 1, 0, 0] * 20)
    rows = as_frequent(labels, torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]), chance)
    assert len(rows) == 100
    assert abs(int(labels[rows].sum()) - 50) <= 1
    times = torch.bincount(rows, minlength=100)
    assert set(times[labels == 0].tolist()) <= {0, 1}
    assert set(times[labels == 1].tolist()) <= {2, 3}


def test_nothing_is_redrawn_where_the_shares_agree_and_no_weight_is_above_ten():
    labels, shares = torch.arange(50) % 5, torch.full((5,), 0.2)
    assert torch.equal(as_frequent(labels, shares, shares).sort().values, torch.arange(50))
    few = torch.tensor([0] * 1 + [1] * 99)
    rows = as_frequent(few, torch.tensor([0.001, 0.999]), torch.tensor([0.9, 0.1]))
    weight = 10 / (10 + 99 * max(0.1, 0.1 / 0.999))
    assert abs((few[rows] == 0).float().mean() - weight) <= 0.01
