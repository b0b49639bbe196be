"""The cycle VAE: exactly the VAE without the cycle, what goes round by hand, conversion, and every use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from test_cli import call

from morphogen import load, posthoc
from morphogen.errors import UsageError
from morphogen.families.base import Turn
from morphogen.families.cycle_vae import CycleVAE, CycleVAEOptions
from morphogen.families.vae import VAE, VAEOptions
from morphogen.modalities import Image
from morphogen.nets import initialise
from morphogen.nets.whitening import MOST, WhitenedEncoder

NETS = {"encoder": {"kind": "conv", "width": 8, "features": 16}, "decoder": {"kind": "conv", "width": 8}}
CRITIC = {"critic": {"kind": "conv", "width": 8, "features": 16}, "probe": {"hidden": [16]}}


def build(cls, options, classes: int = 0):
    family = cls(Image((1, 16, 16)), options, classes)
    for name, module in family.named_children():
        initialise(module, 0, name)
    family.prepare(torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    return family


def cyclic(classes: int = 0, **options) -> CycleVAE:
    return build(CycleVAE, CycleVAEOptions(latent_dim=4, **NETS, **(CRITIC if classes else {}), **options), classes)


def turn(player: str, *names: str, step: int = 0, cache: dict | None = None) -> Turn:
    return Turn(player, step, 0, dict.fromkeys(names, 1.0), 0, {} if cache is None else cache)


def test_encoded_once_and_without_further_terms_it_is_the_vae_bit_for_bit():
    vae, cycle = build(VAE, VAEOptions(latent_dim=4, **NETS)), cyclic(cycles=1)
    optimizers = [torch.optim.Adam(f.parameters(), 1e-3) for f in (vae, cycle)]
    x = torch.rand(32, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for step in range(4):
        losses = []
        for family, adam in zip((vae, cycle), optimizers, strict=True):
            terms = family.losses(turn("autoencoder", "reconstruction", "kl", step=step), {"a": x})
            losses.append(terms["reconstruction"].mean() + terms["kl"].mean())
            adam.zero_grad()
            losses[-1].backward()
            adam.step()
        assert torch.equal(*losses)
    for key, value in vae.state_dict().items():
        assert torch.equal(value, cycle.state_dict()[key]), key


def test_of_one_data_set_every_encoding_of_what_was_decoded_explains_the_item():
    """Σ_{n=2..3} −log p(x|z_n) and KL(q(z_n|x_{n−1}) ‖ p), and KL(q(z|x_n) ‖ q(z|x_{n−1}))."""
    family = cyclic(cycles=3)
    x = torch.rand(5, 1, 16, 16) * 2 - 1
    terms = family.losses(turn("autoencoder", "reconstruction", "kl", "cycle", "cycle_kl", "consistency"), {"a": x})
    draw = Turn("autoencoder", 0, 0, {}).normal
    q = family.top(family.encoder(x, None))
    output = family.decoder(q.rsample(draw("z", 5, 4, device=x.device)), None)
    errors, kls, distances = torch.zeros(5), torch.zeros(5), torch.zeros(5)
    for n in (1, 2):
        before, q = q, family.top(family.encoder(output.tanh(), None))
        output = family.decoder(q.rsample(draw(f"z {n}", 5, 4, device=x.device)), None)
        errors -= family.likelihood(output).log_prob(x)
        kls += 0.5 * (q.mean.square() + (2 * q.log_std).exp() - 1 - 2 * q.log_std).sum(1)
        distances += q.kl(before).sum(1)
    assert torch.allclose(terms["cycle"], errors, rtol=1e-4)
    assert torch.allclose(terms["cycle_kl"], kls, rtol=1e-4)
    assert torch.allclose(terms["consistency"], distances, rtol=1e-3, atol=1e-5)


def test_between_domains_the_converted_item_must_lead_back():
    family = cyclic(classes=3, cycles=1)
    x, y, cache = torch.rand(5, 1, 16, 16) * 2 - 1, torch.tensor([0, 1, 2, 0, 1]), {}
    terms = family.losses(turn("autoencoder", "reconstruction", "cycle", cache=cache), {"a": x, "label": y})
    converted, to = cache["fake"]
    assert (to != y).all()
    draw = Turn("autoencoder", 0, 0, {}).normal
    z = family.top(family.encoder(x, None)).rsample(draw("z", 5, 4, device=x.device))
    assert torch.allclose(converted, family.decoder(z, to).tanh(), atol=1e-5)
    again = family.top(family.encoder(converted, None)).rsample(draw("z' 0", 5, 4, device=x.device))
    assert torch.allclose(terms["cycle"], -family.likelihood(family.decoder(again, y)).log_prob(x), rtol=1e-4)


def test_every_other_domain_is_as_likely():
    family, y = cyclic(classes=4), torch.arange(4).repeat(500)
    found = torch.stack([family._other_domain(Turn("autoencoder", step, 0, {}), y, 0) for step in range(3)])
    counts = torch.stack([torch.bincount(found[:, y == k].flatten(), minlength=4) for k in range(4)])
    assert (counts.diagonal() == 0).all()
    assert ((counts[~torch.eye(4, dtype=torch.bool)] / 500 - 1).abs() < 0.2).all()


@pytest.mark.parametrize(
    ("player", "names", "moved"),
    [
        ("autoencoder", ("codes",), {"encoder"}),
        ("autoencoder", ("blind",), {"encoder"}),
        ("autoencoder", ("cycle", "adversarial"), {"encoder", "decoder"}),
        ("discriminator", ("critic", "r1", "r2"), {"critic"}),
        ("probe", ("probe",), {"probe"}),
    ],
)
def test_every_term_teaches_whom_it_should(player, names, moved):
    family = cyclic(classes=3)
    for name, module in family.named_children():
        module.requires_grad_(name in family.players[player])
    batch = {"a": torch.rand(6, 1, 16, 16), "label": torch.arange(6) % 3}
    more = ("reconstruction",) if "cycle" in names else ()
    terms = family.losses(turn(player, *names, *more), batch)
    torch.stack([terms[name].mean() for name in names]).sum().backward()
    reached = {k.split(".")[0] for k, p in family.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == moved


def test_the_probe_learns_from_the_last_codes_and_their_own_labels():
    family = cyclic(classes=3, pool=20)
    for step in range(7):  # 8 codes a step, each row holding its step and its label
        y = torch.arange(8) % 3
        codes = torch.stack([torch.full((8,), float(step)), y.float(), y.float(), y.float()], 1)
        drawn, labels = family._pooled(turn("probe", "probe", step=step), codes, y)
        assert (drawn[:, 1].long() == labels).all()
        assert drawn[:, 0].min() >= step - 2  # 20 codes are those of three steps at most
        assert {float(step)} <= set(drawn[:, 0].tolist())


class Part(torch.nn.Module):
    """Gives back some numbers of an item as they are."""

    def __init__(self, start, end):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x, y=None):
        return x[:, self.start : self.end]


@pytest.mark.parametrize("latent_dim", [3, 100])
def test_in_every_domain_a_whitened_code_has_mean_0_and_variance_1(latent_dim):
    """Two domains of known mean and covariance; labels teach the statistics only, and only while it trains."""
    torch.manual_seed(0)
    y = torch.arange(2).repeat(8000)
    mixing = torch.eye(latent_dim).repeat(2, 1, 1)
    mixing[1, 0, 1] = 1.0  # in domain 1 the first two variables go together
    x = torch.einsum("bij,bj->bi", mixing[y], torch.randn(len(y), latent_dim)) + torch.tensor([-2.0, 5.0])[y][:, None]
    items = torch.cat([x, x, torch.nn.functional.one_hot(y, 2) * 50.0], 1)
    end = 2 * latent_dim
    encoder = WhitenedEncoder(Part(0, end), Part(end, end + 2), latent_dim, 2)
    encoder.eval()(items, y)
    assert encoder.mean.abs().max() == 0
    encoder.train()
    for _ in range(3):
        encoder(items, y)
    code, other = encoder.eval()(items).chunk(2, 1)
    assert torch.equal(other, x)
    for domain in (0, 1):
        part = code[y == domain]
        covariance = torch.cov(part.T) if latent_dim <= MOST else torch.diag(part.var(0))
        assert part.mean(0).abs().max() < 0.02
        assert (covariance - torch.eye(latent_dim)).abs().max() < 0.05
    if latent_dim <= MOST:  # ZCA: of domain 1 the root of its covariance's inverse, which is symmetric
        expected = torch.linalg.inv(mixing[1] @ mixing[1].T)
        root = torch.linalg.lstsq(x[y == 1] - 5.0, code[y == 1]).solution
        assert torch.allclose(root @ root, expected, atol=0.1) and torch.allclose(root, root.T, atol=0.1)


def test_a_code_of_few_directions_is_whitened_in_bfloat16_too():
    """Six variables that are three: the covariance is singular, and its root must stay finite, in small steps."""
    torch.manual_seed(0)
    encoder = WhitenedEncoder(Part(0, 12), Part(12, 14), 6, 2).train()
    mixing = torch.randn(3, 6)
    for _ in range(1500):
        h, y = torch.randn(16, 3) @ mixing * 10, torch.arange(16) % 2
        items = torch.cat([h, h, torch.nn.functional.one_hot(y, 2) * 50.0], 1)
        with torch.autocast("cpu", torch.bfloat16):
            code = encoder(items, y)[:, :6]
    assert 0.5 < code.var(0).mean() < 2


def test_a_flow_of_each_domain_takes_what_whitening_leaves_out_of_the_code(monkeypatch):
    """Two domains of mean 0 and covariance 1, one bent and one normal: a probe tells them before, and not after."""
    monkeypatch.setattr(posthoc, "FLOW_STEPS", 400)
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(6000, 2, generator=generator), torch.arange(6000) % 2
    z[::2, 1] = (0.3 * z[::2, 1] + z[::2, 0] ** 2 - 1) / (0.3**2 + 2) ** 0.5
    flow = posthoc.fit_flow(z[:4000], y[:4000], z[4000:5000], y[4000:5000], 2)
    with torch.no_grad():
        content = flow.to_noise(z, y)[0]
        assert torch.allclose(flow.to_code(content, y), z, atol=1e-3)

    def told(codes):
        probe = MLPClassifier((64,), max_iter=30, random_state=0).fit(codes[:4000], y[:4000])
        return probe.score(codes[5000:], y[5000:])

    assert told(z) > 0.8
    assert told(content) < 0.56


def test_with_the_flow_a_code_is_noise_that_every_domain_makes_its_own_of():
    """encode = flow⁻¹ of the domain that is guessed; generate = the decoder of the flow of the domain that is asked."""
    family = cyclic(3, guess={"width": 8, "features": 16}, flow={"kind": "flow", "depth": 2, "hidden": 8}).eval()
    assert family.wants_flow
    x, y = torch.rand(12, 1, 16, 16), torch.arange(12) % 3
    with torch.no_grad():
        for parameter in family.flow.parameters():
            parameter.normal_(std=0.3)
        z, guessed = family.top(family.encoder(x, None)).mean, family.encoder.guess(x, None).argmax(1)
        content = family.encode(x, None, 0)
        assert torch.allclose(content, family.flow.to_noise(z, guessed)[0])
        same, plain = family.generate(content, guessed), family.modality.squash(family.decoder(z, guessed))
        assert torch.allclose(same, plain, atol=1e-3)
        other = (guessed + 1) % 3
        moved = family.flow.to_code(content, other)
        assert torch.allclose(family.convert(x, other), family.modality.squash(family.decoder(moved, other)))
        noise = torch.randn(12, 4)
        assert torch.equal(family.draw(noise, torch.rand(12), y), noise)


def test_a_converted_item_is_named_by_a_network_that_does_not_learn_from_it():
    family = cyclic(3, guess={"width": 8, "features": 16})
    x = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.arange(12) % 3
    terms = family.losses(turn("autoencoder", "domain"), {"a": x, "label": y})
    terms["domain"].sum().backward()
    assert all(parameter.grad is None for parameter in family.encoder.guess.parameters())
    assert max(float(parameter.grad.abs().max()) for parameter in family.decoder.parameters()) > 0


def test_what_a_code_cannot_be_whitened_with_is_said():
    options = CycleVAEOptions(guess={"kind": "ladder"})
    with pytest.raises(UsageError, match="ladder"):
        CycleVAE(Image((1, 8, 8)), options, 2)
    with pytest.raises(UsageError, match="built-in encoders"):
        CycleVAE(Image((1, 8, 8)), CycleVAEOptions(guess={}), 2, networks={"encoder": torch.nn.Identity()})


def test_a_ladder_is_refused_between_domains():
    ladder = {"kind": "ladder", "width": 8}
    with pytest.raises(UsageError, match="ladder"):
        CycleVAE(Image((1, 16, 16)), CycleVAEOptions(latent_dim=4, encoder=ladder, decoder=ladder), 3)


@pytest.fixture(scope="module")
def converter(tmp_path_factory) -> Path:
    """A cycle VAE between the ten digits, its code whitened, with a flow of each digit."""
    folder = tmp_path_factory.mktemp("cyclevae")
    settings = ["train.batch_size=16", "model.latent_dim=4", "evaluate.samples=64", "evaluate.final_samples=64",
                "evaluate.likelihood_items=60", "evaluate.importance_samples=5", "evaluate.samplers=[gmm]",
                "data.label=label", "model.encoder={width: 8, features: 16}", "model.decoder={width: 8}",
                "model.critic={width: 8, features: 16}", "model.guess={width: 8, features: 16}"]  # fmt: skip
    call("train", "cyclevae-image", "--data", "builtin:digits", "--steps", 20, "--out", folder / "run",
         *[part for s in settings for part in ("--set", s)])  # fmt: skip
    return folder / "run"


def test_a_model_of_many_domains_converts_encodes_and_samples(converter, tmp_path, capsys):
    found = json.loads((converter / "evaluation.json").read_text())["conversions"]
    known = {"back", "domain_in_code", "chance", "domain_right", "code_moved"}
    assert known == {name.removesuffix("_error") for name in found}
    call("sample", converter, "-n", 5, "--domain", "7", "--out", tmp_path / "s.npy")
    call("translate", converter, tmp_path / "s.npy", "--to", "3", "--out", tmp_path / "t.npy")
    items, made = np.load(tmp_path / "s.npy"), np.load(tmp_path / "t.npy")
    model = load(converter)
    assert (made == model.decode(model.encode(items), "3")).all()
    call("encode", converter, tmp_path / "s.npy", "--out", tmp_path / "z.npy")  # no label is needed
    call("encode", converter, "builtin:digits#test", "--out", tmp_path / "z.npz")
    codes = np.load(tmp_path / "z.npz")
    assert codes["content"].shape == (len(codes["domain"]), 4)
    assert len({tuple(row) for row in codes["domain"].tolist()}) == 10
    call("encode", converter, tmp_path / "s.npy", "--label", "7", "--out", tmp_path / "y.npz")
    assert np.load(tmp_path / "y.npz")["domain"].shape == (5, 32)
    call("reconstruct", converter, "builtin:digits#test", "--out", tmp_path / "r.npy")
    with pytest.raises(UsageError, match="conditional"):
        model.decode(model.encode(items))
    with pytest.raises(UsageError, match="no domain"):
        model.interpolate(4, ends=model.encode(items[:2]))
    call("translate", converter, tmp_path / "s.npy", "--to", "x", "--out", tmp_path / "u.npy", code=2)
    assert "domains 0, 1, 2" in capsys.readouterr().err
    names = (converter / "model" / "config.json").read_text()
    assert '"critic"' in names  # its options stay, its weights do not
    from morphogen.run import load_tensors

    assert not [k for k in load_tensors(converter / "model" / "weights.safetensors") if k.startswith(("critic", "pro"))]


def test_two_sources_are_two_domains(tmp_path):
    items = np.random.default_rng(0).integers(0, 255, (90, 12, 12, 3), np.uint8)
    np.save(tmp_path / "b.npy", items)
    settings = ["train.batch_size=16", "model.latent_dim=4", "evaluate.samples=64", "evaluate.final_samples=64",
                "evaluate.likelihood_items=60", "evaluate.importance_samples=5", "evaluate.samplers=[]",
                "model.encoder={width: 8, features: 16}", "model.decoder={width: 8}", "evaluate.extractor=random",
                "model.critic={width: 8, features: 16}"]  # fmt: skip
    call("train", "cyclevae-image", "--data", "builtin:digits", "--data-b", tmp_path / "b.npy", "--steps", 20,
         "--out", tmp_path / "run", *[part for s in settings for part in ("--set", s)])  # fmt: skip
    call("translate", tmp_path / "run", "builtin:digits#test", "--to", "b", "--out", tmp_path / "t.npy")
    call("translate", tmp_path / "run", tmp_path / "b.npy", "--to", "a", "--out", tmp_path / "u.npy")
    assert np.load(tmp_path / "u.npy").shape == (90, 8, 8)
    call("evaluate", tmp_path / "run")


def test_one_data_set_needs_no_domain(tmp_path):
    settings = ["train.batch_size=16", "model.latent_dim=4", "evaluate.samples=64", "evaluate.final_samples=64",
                "evaluate.likelihood_items=60", "evaluate.importance_samples=5", "evaluate.samplers=[]",
                "model.encoder={width: 8, features: 16}", "model.decoder={width: 8}", "evaluate.extractor=random",
]  # fmt: skip
    call("train", "cyclevae-image", "--data", "builtin:digits", "--steps", 20, "--out", tmp_path / "run",
         *[part for s in settings for part in ("--set", s)])  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"cycle", "consistency", "codes"} <= rows[0].keys()
    assert "critic" not in rows[0]
    call("sample", tmp_path / "run", "-n", 3, "--out", tmp_path / "s.npy")
