"""docs/*.md: every name, key and command in them exists, both languages agree, and the formulas are what the code
computes.

Each formula is written again here with torch and numpy alone, as the document prints it; `FORMULAS` names the function
beside which it stands. The objectives' own tests look at known values, limits and gradients instead.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import Tensor

from morphogen import api, config
from morphogen.cli import app
from morphogen.config import AugmentConfig, TermConfig
from morphogen.evaluation import conversion_scores, cycle_scores, likelihood_of
from morphogen.families import FAMILIES
from morphogen.families.base import Turn, seed_of
from morphogen.families.cycle_gan import CycleGAN, CycleGANOptions
from morphogen.families.cycle_vae import CycleVAE, CycleVAEOptions
from morphogen.families.gan import GAN, GANOptions
from morphogen.families.noise import NoiseOptions
from morphogen.families.vae import VAE, VAEOptions
from morphogen.health import cycle_findings
from morphogen.metrics.extractors import RandomFeatures
from morphogen.modalities import Audio, Image, Points
from morphogen.nets.ladder import Layer
from morphogen.nets.priors import PRIORS, Coupling, LastCodes, LocalKernels
from morphogen.nets.text import TEXT_DECODERS, TEXT_ENCODERS
from morphogen.nets.vocoder import InverseSTFT, mel_filters
from morphogen.nets.whitening import LEAST, WhitenedEncoder
from morphogen.objectives import adversarial, variational
from morphogen.objectives.likelihoods import LIKELIHOODS
from morphogen.objectives.spectral import multi_resolution_distance
from morphogen.objectives.variational import Normal
from morphogen.optim import term_weight
from morphogen.recipes import RECIPES
from morphogen.texts import _flat

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAIRS = {name: (name, f"{name}.zh-CN") for name in ("families", "audio", "text", "audit", "report", "health")}
TEXT = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for pair in PAIRS.values() for name in pair}
PACKAGES = (
    "objectives", "families", "nets", "optim", "posthoc", "health", "evaluation", "metrics", "modalities", "recipes",
    "loop", "api", "model.Model", "data.dataset", "data.audio", "data.builtin", "vocoding", "assessment", "judges",
    "domains", "description", "report", "watch",
)  # fmt: skip
SECTIONS = {
    "model": {
        **GANOptions.model_fields, **VAEOptions.model_fields, **CycleGANOptions.model_fields,
        **CycleVAEOptions.model_fields,
    },
    "augment": AugmentConfig.model_fields,
    "train": config.TrainConfig.model_fields, "evaluate": config.EvaluateConfig.model_fields,
    "data": config.DataConfig.model_fields, "data_b": config.DataConfig.model_fields,
    "sample": config.SampleConfig.model_fields, "vocoder": config.VocoderConfig.model_fields,
}  # fmt: skip


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def paths(text: str) -> set[str]:
    """The dotted paths below `morphogen.`."""
    dotted = {q for q in quoted(text) if re.fullmatch(r"\w+(\.\w+)+", q)}
    return {q for q in dotted if q.startswith(tuple(p + "." for p in PACKAGES))}


def keys(text: str) -> set[tuple[str, ...]]:
    """The config's keys, without their values."""
    sections = "|".join([*SECTIONS, "terms"])
    named = {q.removeprefix("--set ") for q in quoted(text)}
    dotted = {q.partition("=")[0] for q in named if re.match(rf"({sections})\.\w", q)} - paths(text)
    return {tuple(q.split(".")) for q in dotted}


def display(text: str) -> list[str]:
    return re.findall(r"^\$\$\n(.*?)\n\$\$$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", sorted(set().union(*map(paths, TEXT.values()))))
def test_every_path_exists(path):
    """As far as it is a module it is imported, what follows is looked up."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["morphogen", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return
    raise AssertionError(f"no module morphogen.{path}")


@pytest.mark.parametrize("name", PAIRS)
def test_every_config_key_exists(name):
    for section, *rest in keys(TEXT[name]):
        if section == "terms":
            name, key = rest
            assert name in {t for family in FAMILIES.values() for terms in family.terms.values() for t in terms}
            assert key in TermConfig.model_fields
        else:
            assert rest[0] in SECTIONS[section], f"{section}.{rest[0]}"


@pytest.mark.parametrize(
    ("pair", "fewest"),
    [
        (PAIRS["families"], 51),
        (PAIRS["audio"], 25),
        (PAIRS["text"], 0),
        (PAIRS["audit"], 5),
        (PAIRS["report"], 3),
        (PAIRS["health"], 8),
    ],
)
def test_both_languages_name_the_same_and_print_the_same_formulas(pair, fewest):
    one, two = (TEXT[name] for name in pair)
    assert paths(one) == paths(two)
    assert keys(one) == keys(two)
    assert display(one) == display(two)
    assert len(display(one)) == one.count("$$") // 2
    assert len(paths(one)) >= fewest
    assert commands(one) == commands(two)


def test_both_languages_of_text_quote_the_same():
    """It names no function and has no formula between dollars: so all that is quoted, its formula and its measured
    numbers are compared."""
    one, two = (TEXT[name] for name in PAIRS["text"])
    assert quoted(one) == quoted(two)
    formulas = [re.findall(r"^ {4}(\S+ = .*?) {2,}", text, re.MULTILINE) for text in (one, two)]
    assert formulas[0] == formulas[1] == ["p(x|z) = Π_t p(x_t | x_<t, z)"]
    tables = [re.findall(r"\| ([\d.]+(?: %)?) (?=\|)", text) for text in (one, two)]
    assert tables[0] == tables[1] != []
    measured = [
        sorted(re.findall(r"\d+\.\d+", text.partition(head)[2]))
        for text, head in ((one, "## Measured\n"), (two, "## 实测\n"))
    ]
    assert measured[0] == measured[1] != []
    assert len(commands(one)) == 13
    recipes = {q for q in quoted(one) if re.fullmatch(r"\w+-text", q)}
    assert recipes == {name for name in RECIPES if name.endswith("-text")}


def test_the_options_of_text_exist():
    """Those that the document names without their section."""
    text, decoder = TEXT["text"], inspect.signature(TEXT_DECODERS["gru"]).parameters
    assert {"model.decoder.blind", "word_dropout", "model.encoder.kind=silent", "kind: places"} <= quoted(text)
    assert {"blind", "word_dropout"} <= decoder.keys()
    assert "silent" in TEXT_ENCODERS
    assert "places" in TEXT_ENCODERS.keys() & TEXT_DECODERS.keys()
    assert {"codec: vae-text", "codec_settings", "--set codec=RUN"} <= quoted(text)
    assert {"codec", "codec_settings"} <= config.Config.model_fields.keys()
    assert RECIPES["gan-text"]().codec == "vae-text"


def commands(text: str) -> list[tuple[str, ...]]:
    """The command lines of the blocks of shell, fenced, or indented by four; lines indented by six go on."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    indented = re.findall(r"^ {4}((?:morphogen|python) .*(?:\n {6}.*)*)$", text, re.MULTILINE)
    lines = [*blocks.splitlines(), *(re.sub(r"\n +", " ", line) for line in indented)]
    lines = [re.sub(r"\s+#.*", "", line) for line in lines]  # within a word, # begins no comment
    return [tuple(shlex.split(line)) for line in lines if line.startswith(("morphogen ", "python "))]


@pytest.mark.parametrize(
    "words",
    [*commands(TEXT["audio"]), *commands(TEXT["text"]), *commands(TEXT["audit"]), *commands(TEXT["report"])],
    ids=" ".join,
)
def test_every_command_is_understood(words):
    """Its verb and its options are there, and a recipe takes its settings; nothing is run."""
    if words[0] == "python":  # a script, whose own first lines say how it is called
        usage = ast.get_docstring(ast.parse((DOCS.parent / words[1]).read_text(encoding="utf-8"))) or ""
        usages = re.findall(rf"^ +(python {re.escape(words[1])} {words[2]} .*?)(?: {{2,}}|$)", usage, re.MULTILINE)
        assert [len(usage.split()) for usage in usages] == [len(words)]
        return
    verb, rest = typer.main.get_command(app), list(words[1:])
    while hasattr(verb, "commands"):
        verb = verb.commands[rest.pop(0)]
    given = verb.make_context(verb.name, rest).params
    if verb.name == "train":
        found = api.resolve_config(given["recipe"], given["setting"] or [], **{k: given[k] for k in ("data", "data_b")})
        assert found.data.source == given["data"]
        if found.codec_settings:
            assert found.codec
            api.resolve_config(found.codec, _flat(found.codec_settings), data=given["data"])


@pytest.mark.parametrize("name", TEXT)
def test_github_can_render_it(name):
    """Lines fit, inline formulas stand free, and nothing in a formula is read as Markdown before it is read as TeX."""
    text = TEXT[name]
    assert max(map(len, text.splitlines())) <= 120
    inline = re.sub(r"^\$\$\n.*?\n\$\$$", "", text, flags=re.MULTILINE | re.DOTALL)
    formulas = re.findall(r"\$[^$\n]+\$", inline)
    assert inline.count("$") == 2 * len(formulas)  # none is broken over two lines
    for formula in [*formulas, *display(text)]:
        assert not re.search(r"\\[^a-zA-Z]|[<*#]", formula), formula
        assert not re.search(r"^\s*[-+=]\s", formula, re.MULTILINE) or formula in formulas, formula
    for found in re.finditer(r"\$[^$\n]+\$", inline):
        around = inline[found.start() - 1] + inline[found.end()]
        assert re.fullmatch(r"[\s(][\s.,;:)]", around), found.group()


# ---- formulas ----------------------------------------------------------------------------------------------------


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sig(t: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-t))


def softplus(t: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(t))


REAL, FAKE = normals(1, 7), normals(2, 7)
ZERO = torch.zeros(7)
X, MEAN = normals(3, 5, 2, 3, 3).clamp(-1, 1), normals(4, 5, 2, 3, 3) / 2
P = X[0].numel()
KL = normals(5, 6, 4).abs()
LOG_W = normals(6, 5, 8)
Q, PRIOR = (Normal(normals(s, 5, 3), normals(s + 1, 5, 3) / 2) for s in (7, 9))
SIGMA_Q, SIGMA_P = Q.log_std.exp(), PRIOR.log_std.exp()
A, SHIFT = torch.tensor([[2.0, 0.5], [0.5, -1.0]]), torch.tensor([0.3, -0.2])


class Quadratic(torch.nn.Module):
    """D(x) = ½ xᵀAx + sᵀx, whose slope is Ax + s."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return 0.5 * ((x @ A) * x).sum(1) + x @ SHIFT


class Noise(torch.nn.Module):
    """G(z) = 3z + 1."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.factor * z + 1


def slope(x: Tensor) -> Tensor:
    return x @ A + SHIFT


def gan(penalty: str = "exact", **augment) -> GAN:
    options = GANOptions(latent_dim=2, loss=augment.pop("loss", "relativistic"), penalty=penalty)
    networks = {"generator": Noise(), "discriminator": Quadratic()}
    return GAN(Points((2,)), options, augment=AugmentConfig(**augment), networks=networks)


def r1():
    family, x = gan(), normals(11, 9, 2) * torch.tensor([1.0, 4.0])
    family.prepare(x)
    spread = np.var(x.numpy(), axis=0, ddof=1).sum()
    turn = Turn("discriminator", 0, 0, {})
    return family._penalty(turn, "r1", x, None, None), spread * slope(x).square().sum(1)


def noised():
    x, e, s = normals(16, 9, 2), normals(17, 9, 2), torch.linspace(0.02, 2, 9)[:, None]
    place = 2 * (s / 0.02).log() / math.log(2 / 0.02) - 1
    return NoiseOptions(least=0.02, most=2).seen(x, s[:, 0], e), torch.cat([(x + s * e) / (1 + s**2) ** 0.5, place], 1)


def difference():
    x, e, h = normals(12, 9, 2), normals(13, 9, 2), 0.25
    d = Quadratic()
    return adversarial.squared_difference(d, x, e, h), ((d(x + h * e) - d(x - h * e)) / (2 * h)) ** 2


def of_one_label(x: Tensor, y: list[int]) -> Tensor:
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j and y[i] == y[j]]
    return sum(((x[i] - x[j]) ** 2).sum() for i, j in pairs) / (P * len(pairs))  # type: ignore[return-value]


def gradient_penalty():
    real, fake, u = normals(14, 9, 2), normals(15, 9, 2), torch.linspace(0, 1, 9)
    between = u[:, None] * real + (1 - u[:, None]) * fake
    return adversarial.unit_slope(Quadratic(), real, fake, u), (slope(between).norm(dim=1) - 1) ** 2


def gap():
    family, turn, heldout = gan(), Turn("discriminator", 0, 0, {}), normals(16, 7, 2)
    family._measure_gap(turn, {"heldout": heldout}, REAL + 3, FAKE, None)
    held = Quadratic()(heldout).mean()
    return turn.cache["gap"], ((REAL + 3).mean() - held) / max((REAL + 3).mean() - FAKE.mean(), 1e-3)


def adaptive():
    family, n, batch, images, found, expected = gan(mode="adaptive", images=4000, every=8), 8, 32, 4000, [], []
    smooth = p = 0.0
    for r in (1.5, 3.0, 0.8, -5.0, -2.0, -2.0):
        family.after_step(0, {"gap": r}, batch)
        found.append([family.numbers["gap"], family.numbers["augment"]])
        m = max(1 / 2, 1 - 4 * n * batch / images)
        smooth = m * smooth + (1 - m) * min(2, max(-2, r))
        p = min(0.8, max(0, p + (1 if smooth > 0.2 else -1) * n * batch / images))
        expected.append([smooth, p])
    return torch.tensor(found), torch.tensor(expected)


def score():
    family, x = gan(), normals(17, 5, 2) / 3
    fake = family.generate(family.noise(500, 0), None)
    relative, plain = family.score(x, None), gan(loss="nonsaturating").score(x, None)
    logit = Quadratic()(x)
    return torch.cat([relative, plain]), torch.cat([sig(logit - Quadratic()(fake).mean()), sig(logit)])


def likelihood(name: str, output: Tensor, scale: float = 1.0, **extra):
    return LIKELIHOODS[name](output, lambda mean: mean, torch.tensor(scale), **extra)


def bernoulli():
    t, pi = (X + 1) / 2, sig(MEAN)
    return likelihood("bernoulli", MEAN).log_prob(X), (t * pi.log() + (1 - t) * (1 - pi).log()).flatten(1).sum(1)


def gaussian():
    s = 0.3
    each = (X - MEAN) ** 2 / (2 * s**2) + math.log(s) + 0.5 * math.log(2 * math.pi)
    return likelihood("gaussian", MEAN, s).log_prob(X), -each.flatten(1).sum(1)


def best_sigma():
    """Its closed form, and the reconstruction term there."""
    p = likelihood("gaussian", MEAN)
    p.scale = p.optimal_scale(X)
    sigma = ((X - MEAN) ** 2).flatten(1).sum(1).sum().div(len(X) * P).sqrt()
    found = torch.stack([p.scale, -p.log_prob(X).mean()])
    return found, torch.stack([sigma, P * (sigma.log() + 0.5 * math.log(2 * math.pi * math.e))])


def laplace():
    b = 0.4
    return likelihood("laplace", MEAN, b).log_prob(X), -((X - MEAN).abs() / b + math.log(2 * b)).flatten(1).sum(1)


def logistic():
    """Three components, two channels, levels from end to end; the code reads log s = max(output − 2, −7)."""
    output, h = normals(20, 4, 15, 3, 3), 1 / 255
    x = torch.linspace(0, 255, 4 * 2 * 9).round().view(4, 2, 3, 3) / 127.5 - 1
    o, v = output.double(), x.double()
    pi = o[:, :3].exp() / o[:, :3].exp().sum(1, keepdim=True)
    mu, s = o[:, 3:9].view(4, 3, 2, 3, 3), (o[:, 9:].view(4, 3, 2, 3, 3) - 2).exp()
    upper, lower = ((v[:, None] - mu + sign * h) / s for sign in (1, -1))
    top, bottom = torch.where(v[:, None] > 1 - h, 1.0, sig(upper)), torch.where(v[:, None] < -1 + h, 0.0, sig(lower))
    places = (pi * (top - bottom).prod(2)).sum(1)
    return likelihood("logistic", output, components=3).log_prob(x), places.log().flatten(1).sum(1)


def annealing():
    """All factors together, and each alone."""
    w, final, warm, cycle, total = 2.0, 0.1, 50, 30, 120
    terms = [
        TermConfig(weight=w, final=final, warmup=warm, cycle=cycle), TermConfig(weight=w, final=final),
        TermConfig(weight=w, warmup=warm), TermConfig(weight=w, every=4, until=100),
    ]  # fmt: skip
    found, expected = [], []
    for t in range(0, 160, 3):
        found.append([term_weight(term, t, total) for term in terms])
        way, rise = (final / w) ** min(1, t / total), min(1, (t + 1) / warm)
        again = min(1, 2 * (t % cycle + 1) / cycle)
        expected.append([w * way * rise * again, w * way, w * rise, 4 * w if t % 4 == 0 and t < 100 else 0])
    return torch.tensor(found), torch.tensor(expected)


def dreg():
    """log w of z = μ + σε is quadratic here: its slope in z is known, and ∂z/∂(μ, log σ) = (1, σε)."""
    mean, log_std, e = normals(21, 3, 1).requires_grad_(), normals(22, 3, 1).requires_grad_(), normals(23, 3, 4)
    z = (mean + log_std.exp() * e).reshape(-1, 1)
    log_w = -0.7 * (z - 0.4).square().view(3, 4)
    variational.doubly_reparameterized(log_w, z).sum().backward()
    with torch.no_grad():
        zs = z.view(3, 4)
        share = log_w.exp() / log_w.exp().sum(1, keepdim=True)
        each = share**2 * (-1.4 * (zs - 0.4))
        expected = torch.stack([each.sum(1), (each * log_std.exp() * e).sum(1)])
    return torch.stack([mean.grad.squeeze(1), log_std.grad.squeeze(1)]), expected


def ladder_posterior():
    torch.manual_seed(0)
    layer = Layer(8, 2)
    for p in layer.correct.parameters():
        p.data.normal_(std=0.2)
    h, prior = normals(24, 3, 8, 4, 4), Normal(normals(25, 3, 2, 4, 4), normals(26, 3, 2, 4, 4) / 3)
    with torch.no_grad():
        q = layer.posterior(h, prior, features := normals(27, 3, 8, 4, 4))
        shift, change = layer.correct(h + layer.look(features)).chunk(2, 1)
    delta = 5 * torch.tanh(change / 5)
    found = torch.stack([q.mean, q.log_std.exp(), q.kl(prior)])
    kl = 0.5 * (shift**2 + torch.exp(2 * delta) - 1 - 2 * delta)
    sigma = prior.log_std.exp()
    return found, torch.stack([prior.mean + sigma * shift, sigma * delta.exp(), kl])


def density(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """N(z; mean, std²) over the last axis, by its formula."""
    return (torch.exp(-((z - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))).prod(-1)


def mixture_prior(kind: str, means: Tensor, log_stds: Tensor):
    prior = PRIORS[kind](3, (3,), components=4)
    prior.logits.data = normals(28, 4)
    encode = None
    if kind == "mixture":
        prior.means.data, prior.log_stds.data = means, 5 * torch.atanh(log_stds / 5)
    else:  # an encoder that knows the pseudo-items' posteriors
        prior.items.data = normals(29, 4, 3)
        encode = lambda x, y: Normal(means + 0 * x, log_stds)
    z, pi = normals(30, 6, 3), prior.logits.exp() / prior.logits.exp().sum()
    expected = (pi * density(z[:, None], means[None], log_stds.exp()[None])).sum(1).log()
    return prior.log_prob(z, None, encode).detach(), expected.detach()


def flow():
    """The change of variables, with the Jacobian of the map to noise taken numerically exact by autograd."""
    torch.manual_seed(0)
    prior, z = PRIORS["flow"](3, (3,), depth=3, hidden=8), normals(31, 3)
    prior.mean.copy_(normals(32, 3))
    prior.std.copy_(normals(33, 3).exp())

    def to_noise(v: Tensor) -> Tensor:
        v = ((v - prior.mean) / prior.std)[None]
        for coupling, rotation in zip(prior.couplings, prior.rotations, strict=True):
            v = coupling.to_noise(v @ rotation, None)[0]
        return v[0]

    jacobian = torch.autograd.functional.jacobian(to_noise, z)
    noise = to_noise(z).detach()
    expected = density(noise, ZERO[:3], torch.ones(3)).log() + jacobian.det().abs().log()
    return prior.log_prob(z[None], None).detach(), expected[None]


def coupling():
    torch.manual_seed(0)
    part, z = Coupling(4, 0, 8, False), normals(34, 5, 4)
    with torch.no_grad():
        shift, raw = part.net(z[:, :2]).chunk(2, 1)
        s = 2 * torch.tanh(raw / 2)
        v, log_det = part.to_noise(z, None)
    return torch.cat([v, log_det[:, None]], 1), torch.cat(
        [z[:, :2], (z[:, 2:] - shift) * torch.exp(-s), -s.sum(1, keepdim=True)], 1
    )


def mutual_information():
    q, z = Normal(normals(35, 12, 2), normals(36, 12, 2) / 2), normals(37, 12, 2)
    own = density(z, q.mean, q.log_std.exp())
    all_of_them = density(z[:, None], q.mean[None], q.log_std.exp()[None]).mean(1)
    found = variational.mutual_information(q, z)
    n = 20  # posteriors far from each other: log N
    apart = Normal(50.0 * torch.arange(n)[:, None].repeat(1, 2), torch.zeros(n, 2))
    most = variational.mutual_information(apart, apart.mean + normals(38, n, 2))
    return torch.tensor([found, most]), torch.stack([(own.log() - all_of_them.log()).mean(), torch.tensor(n).log()])


def active_units():
    means = normals(39, 200, 5) * torch.tensor([0.05, 0.09, 0.11, 0.2, 1.0])
    count = (np.var(means.numpy(), axis=0, ddof=1) >= 0.01).sum()
    return torch.tensor(variational.active_units(means)), torch.tensor(int(count))


class Linear(torch.nn.Module):
    """x → x W in another shape, for encoders, decoders, translators and critics."""

    def __init__(self, weight: Tensor, *shape: int):
        super().__init__()
        self.weight, self.shape = torch.nn.Parameter(weight), shape

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return (x.flatten(1) @ self.weight).view(-1, *(self.shape or (self.weight.shape[1],)))


SIZE = (1, 2, 3)


def vae(outputs: int = 6, **options) -> VAE:
    networks = {"encoder": Linear(normals(40, 6, outputs) / 4), "decoder": Linear(normals(41, outputs // 2, 6), *SIZE)}
    options = {"latent_dim": outputs // 2, "likelihood": "bernoulli", "binarize": True, **options}
    return VAE(Image(SIZE), VAEOptions(**options), networks=networks).eval()


def black_or_white(seed: int, count: int) -> Tensor:
    return (normals(seed, count, *SIZE) > 0).float() * 2 - 1


def bits_per_dim():
    x = black_or_white(42, 40)
    found = likelihood_of(vae(), x, None, 5, 0)
    return torch.tensor(found["bits_per_dim"]), torch.tensor(found["iw_nll"] / (6 * math.log(2)))


def nll():
    """With a weight of its own for each of the samples: the estimate from its definition, on the same draws."""
    family, x, k = vae(), black_or_white(43, 4), 9
    with torch.no_grad():
        weights = torch.cat(list(family._log_weights(x, None, family.encoder(x), k, 7, 8)), 1)
        found = variational.streamed_bound(family._log_weights(x, None, family.encoder(x), k, 7, 8))
    return -found, -(weights.exp().mean(1)).log()


def elbo():
    """Both terms at the noise of the turn, with a prior of closed form."""
    family, x = vae(), black_or_white(44, 5)
    turn = Turn("autoencoder", 3, 0, {"reconstruction": 1.0, "kl": 1.0})
    with torch.no_grad():
        terms = family.losses(turn, {"a": x})
        mean, h = family.encoder(x).chunk(2, 1)
        std = torch.exp(5 * torch.tanh(h / 5))
        z = mean + std * turn.normal("z", 5, 3, device=x.device)
        pi, t = sig(family.decoder(z).double()), (x + 1) / 2
    error = -(t * pi.log() + (1 - t) * (1 - pi).log()).flatten(1).sum(1)
    kl = 0.5 * (std**2 + mean**2 - 1 - torch.log(std**2)).sum(1)
    return torch.stack([terms["reconstruction"], terms["kl"]]), torch.stack([error, kl])


def point():
    family, x = vae(outputs=6, posterior="point", latent_dim=6), black_or_white(45, 5)
    family.decoder = Linear(normals(46, 6, 6), *SIZE)
    with torch.no_grad():
        terms = family.losses(Turn("autoencoder", 0, 0, {"kl": 1.0}), {"a": x})
        return terms["kl"], 0.5 * family.encoder(x).square().sum(1)


def stored_scale():
    family, x = vae(likelihood="gaussian", binarize=False), normals(47, 5, *SIZE)
    family.prepare(normals(48, 9, *SIZE))
    before, output = family.scale.clone(), normals(49, 5, *SIZE)
    best = family.likelihood(output, x).scale
    return family.scale, 0.98 * before + 0.02 * best


def cycle(noise: bool = False, more: dict[str, torch.nn.Module] | None = None, **options) -> CycleGAN:
    """Two networks and two critics without layers; the critics of two data sets judge four patches."""
    seeds = {"to_a": 60, "to_b": 61, "critic_a": 62, "critic_b": 63}
    to_a, to_b, critic_a, critic_b = (normals(s, 6, 6) / 2 for s in seeds.values())
    if noise:  # Z = 4
        made = Linear(to_a[:4], *SIZE), Linear(to_b[:, :4]), Linear(critic_a[:, :1]), Linear(critic_b[:4, :1])
    else:
        made = *(Linear(w, *SIZE) for w in (to_a, to_b)), *(Linear(w[:, :4], 2, 2) for w in (critic_a, critic_b))
    networks = dict(zip(seeds, made, strict=True)) | (more or {})
    family = CycleGAN(
        Image(SIZE), CycleGANOptions(latent_dim=4, **options), networks=networks,
        augment=AugmentConfig(mode="off"), other=None if noise else Image(SIZE),
    )  # fmt: skip
    family.prepare(normals(64, 9, *SIZE), None if noise else 2 * normals(65, 9, *SIZE))
    return family


def translated(weight: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(x.flatten(1) @ weight).view(-1, *SIZE)


def cycle_of_two_data_sets():
    """All terms of the generators, least squares on patches, with noise of strength 0.3 before the way back."""
    family = cycle(hide=0.3)
    a, b = normals(66, 5, *SIZE).tanh(), normals(67, 5, *SIZE).tanh()
    turn = Turn("generator", 2, 0, dict.fromkeys(family.terms["generator"], 1.0))
    noise = {s: turn.normal("hide " + s, 5, *SIZE, device=a.device) for s in "ab"}
    with torch.no_grad():
        terms = family.losses(turn, {"a": a, "b": b})
        to_a, to_b, d_a, d_b = (m.weight for m in (family.to_a, family.to_b, family.critic_a, family.critic_b))
        fake_a, fake_b = translated(to_a, b), translated(to_b, a)
        error = lambda x, y: (x - y).abs().flatten(1).mean(1)
        expected = {
            "adversarial_a": 0.5 * (fake_a.flatten(1) @ d_a - 1).square().mean(1),
            "adversarial_b": 0.5 * (fake_b.flatten(1) @ d_b - 1).square().mean(1),
            "cycle_a": error(translated(to_a, fake_b + 0.3 * noise["b"]), a),
            "cycle_b": error(translated(to_b, fake_a + 0.3 * noise["a"]), b),
            "identity_a": error(translated(to_a, a), a),
            "identity_b": error(translated(to_b, b), b),
        }
    assert terms.keys() == expected.keys()
    return torch.stack([terms[k] for k in expected]), torch.stack(list(expected.values()))


def cycle_with_noise():
    """Both cycles, without identity: the spaces differ."""
    family, x = cycle(noise=True), normals(68, 5, *SIZE).tanh()
    turn = Turn("generator", 2, 0, dict.fromkeys(("cycle_a", "cycle_b", "identity_a", "identity_b"), 1.0))
    with torch.no_grad():
        terms = family.losses(turn, {"a": x})
        z, back = turn.normal("z", 5, 4, device=x.device), family.to_b.weight
        errors = (translated(family.to_a.weight, z).flatten(1) @ back - z).square().sum(1) / 4
        picture = (translated(family.to_a.weight, x.flatten(1) @ back) - x).abs().flatten(1).sum(1) / 6
    assert terms.keys() == {"cycle_a", "cycle_b"}
    return torch.stack([terms["cycle_a"], terms["cycle_b"]]), torch.stack([picture, errors])


def critics():
    """Least squares and R1 on each side: one squared slope of the mean over patches, in units of the side's spread."""
    family = cycle(penalty="exact")
    batch = {"a": normals(69, 5, *SIZE).tanh(), "b": normals(70, 5, *SIZE).tanh()}
    turn = Turn("discriminator", 0, 0, dict.fromkeys(("critic_a", "critic_b", "r1_a", "r1_b"), 1.0))
    terms, expected = family.losses(turn, batch), []
    spreads = [np.var(v.flatten(1).numpy(), axis=0, ddof=1).sum() for v in
               (normals(64, 9, *SIZE), 2 * normals(65, 9, *SIZE))]  # fmt: skip
    for side, other, way, spread in (("a", "b", family.to_a, spreads[0]), ("b", "a", family.to_b, spreads[1])):
        weight = getattr(family, f"critic_{side}").weight.detach()
        real, fake = (v.flatten(1) @ weight for v in (batch[side], translated(way.weight.detach(), batch[other])))
        expected.append((0.5 * (real - 1) ** 2 + 0.5 * fake**2).mean(1))
        expected.append(spread * weight.mean(1).square().sum().repeat(5))
    assert family.spreads.tolist() == pytest.approx(spreads) and cycle(noise=True).spreads[1] == 4
    return torch.stack([terms[k] for k in ("critic_a", "r1_a", "critic_b", "r1_b")]), torch.stack(expected)


def cycle_ways():
    """T_a of two data sets, and with noise the generator and the encoder, which has no tanh."""
    two, one = cycle(), cycle(noise=True)
    x, z = normals(71, 5, *SIZE), normals(72, 5, 4)
    with torch.no_grad():
        found = [two.translate_a(x), two.translate_b(x), one.translate_a(z)]
        expected = [translated(f.weight, v) for f, v in ((two.to_a, x), (two.to_b, x), (one.to_a, z))]
        assert torch.allclose(one.translate_b(x), x.flatten(1) @ one.to_b.weight)
    return torch.stack(found), torch.stack(expected)


def cycle_score():
    """The mean logit over the patches."""
    family, x = cycle(), normals(73, 5, *SIZE)
    return family.score(x, None), (x.flatten(1) @ family.critic_a.weight).mean(1)


def in_style(weight: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """A translation whose style's numbers are further channels."""
    return translated(weight, torch.cat([x, s[:, :, None, None].expand(-1, -1, *SIZE[1:])], 1))


def styled(**options) -> CycleGAN:
    """Y = 2."""
    ways = {k: Linear(normals(s, 18, 6) / 2, *SIZE) for k, s in (("to_a", 80), ("to_b", 81))}
    styles = {k: Linear(normals(s, 12, 2) / 2) for k, s in (("style_a", 82), ("style_b", 83))}
    return cycle(more=ways | styles, style_dim=2, **options)


def styles():
    """Both sides, and the identity terms in the style 0."""
    family, a, b = styled(), normals(84, 5, *SIZE).tanh(), normals(85, 5, *SIZE).tanh()
    names = ("style_a", "style_b", "cycle_a", "cycle_b", "identity_a", "identity_b")
    turn, zero = Turn("generator", 2, 0, dict.fromkeys(names, 1.0)), torch.zeros(5, 2)
    to_a, to_b, of_a, of_b = (m.weight for m in (family.to_a, family.to_b, family.style_a, family.style_b))
    drawn = {s: turn.normal(f"style{s}", 5, 2, device=a.device) for s in ("", " b")}
    read = lambda weight, item, source: torch.cat([item, source], 1).flatten(1) @ weight
    error = lambda x, y: (x - y).abs().flatten(1).sum(1) / 6
    with torch.no_grad():
        terms = family.losses(turn, {"a": a, "b": b})
        fake_a, fake_b = in_style(to_a, b, drawn[""]), in_style(to_b, a, drawn[" b"])
        expected = [
            (read(of_a, fake_a, b) - drawn[""]).square().sum(1) / 2,
            (read(of_b, fake_b, a) - drawn[" b"]).square().sum(1) / 2,
            error(in_style(to_a, fake_b, read(of_a, a, fake_b)), a),
            error(in_style(to_b, fake_a, read(of_b, b, fake_a)), b),
            error(in_style(to_a, a, zero), a),
            error(in_style(to_b, b, zero), b),
        ]
    return torch.stack([terms[name] for name in names]), torch.stack(expected)


def semantic():
    """With labels of one domain, then of the other; the constant factor has no gradient."""
    found, expected, names, y = [], [], ("semantic_a", "semantic_b"), torch.tensor([0, 2, 1, 1, 0])
    for side, other, label in (("a", "b", "label"), ("b", "a", "label_b")):
        family, weight = cycle(), normals(86, 6, 3) / 2
        family.teach(side, Linear(weight.clone()))
        x = {side: normals(87, 5, *SIZE).tanh(), other: normals(88, 5, *SIZE).tanh()}
        terms = family.losses(Turn("generator", 0, 0, dict.fromkeys(names, 1.0)), x | {label: y})
        assert not any(p.requires_grad for p in family.teacher.parameters())
        ways = {"a": family.to_a.weight.detach(), "b": family.to_b.weight.detach()}
        f = lambda v, weight=weight: (e := (v.flatten(1) @ weight).exp()) / e.sum(1, keepdim=True)
        found += [terms[f"semantic_{other}"], terms[f"semantic_{side}"]]
        expected.append(-f(translated(ways[other], x[side]))[torch.arange(5), y].log())
        expected.append(-(f(x[other]) * f(translated(ways[side], x[other])).log()).sum(1))
    return torch.stack(found), torch.stack(expected)


class Pair(torch.nn.Module):
    """J(x, z) = xᵀu + xᵀMz, whose slope in x is u + Mz."""

    def __init__(self):
        super().__init__()
        self.u, self.m = torch.nn.Parameter(normals(89, 6) / 2), torch.nn.Parameter(normals(90, 6, 4) / 2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x.flatten(1) @ self.u + ((x.flatten(1) @ self.m) * z).sum(1)


def pairs():
    """The same pairs in both turns of a step; the code beside the item does not count for the slope."""
    family = cycle(True, {"critic_joint": Pair()}, critic_joint={}, penalty="exact")
    x, cache = normals(91, 5, *SIZE), {}
    turn = Turn("generator", 1, 0, {"adversarial_joint": 1.0}, 0, cache)
    judges = Turn("discriminator", 1, 0, {"critic_joint": 1.0, "r1_joint": 1.0}, 0, cache)
    made = family.losses(turn, {"a": x})
    judged = family.losses(judges, {"a": x})
    joint, z = family.critic_joint, turn.normal("z", 5, 4, device=x.device)
    code, spread = x.flatten(1) @ family.to_b.weight, np.var(normals(64, 9, *SIZE).flatten(1).numpy(), axis=0, ddof=1)
    real, fake = joint(x, code), joint(translated(family.to_a.weight, z), z)
    slopes = spread.sum() * (joint.u + code @ joint.m.T).square().sum(1)
    found = [made["adversarial_joint"], judged["critic_joint"], judged["r1_joint"]]
    return torch.stack(found), torch.stack([softplus(real - fake), softplus(fake - real), slopes])


def honesty():
    """All scores of side a, with styles; noise of 3 of 255 grey levels, where black and white are 2 apart."""
    family, x = styled(), normals(92, 30, *SIZE).tanh()
    found, back = cycle_scores(family, "a", x, Image(SIZE), 0)
    to_a, to_b, of_a = (m.weight.detach() for m in (family.to_a, family.to_b, family.style_a))
    there = in_style(to_b, x, torch.zeros(30, 2))
    come = lambda y: in_style(to_a, y, torch.cat([x, y], 1).flatten(1) @ of_a)
    noise = torch.randn(there.shape, generator=torch.Generator().manual_seed(seed_of(0, "honesty", "a")))
    rounded = ((there + 1) / 2 * 255).round() / 255 * 2 - 1
    ends = {"cycle": come(there), "cycle_quantised": come(rounded), "cycle_noisy": come(there + 3 * 2 / 255 * noise)}
    expected = {name: (end - x).abs().mean() for name, end in ends.items()}
    assert torch.allclose(back, ends["cycle"], atol=1e-5)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed_of(0, "partners")))
    before, l1 = torch.empty_like(order).scatter(0, order, order.roll(1)), lambda v: v.abs().sum()
    assert (before != torch.arange(30)).all()
    expected["copy"] = 1 - l1(there - x) / l1(there - x[before])
    apart = (ends["cycle"].flatten(1)[:, None] - x.flatten(1)[None]).square().sum(2)
    expected["content_kept"] = (apart.argmin(1) == torch.arange(30)).float().mean()
    one, another = (in_style(to_b, x, family.noise(30, seed_of(k, "style"))[:, :2]) for k in (0, 1))
    expected["diversity"] = l1(one - another) / l1(one - one[before])
    found = {name: value for name, value in found.items() if not name.endswith("_error")}
    assert found.keys() == expected.keys()
    assert cycle_scores(cycle(), "a", x, Image(SIZE), 0)[0]["diversity"] == 0
    return torch.tensor(list(found.values())), torch.stack([expected[name] for name in found])


def warned():
    """Just below each threshold, and just above it."""
    well = {"cycle": 0.1, "cycle_noisy": 0.1, "cycle_quantised": 0.1, "copy": 0.95, "content_kept": 1.0}
    cases = [(well | {name: 1.5 * 0.1 + 0.025 + e}, 0.1, "information hiding", e > 0)
             for name in ("cycle_noisy", "cycle_quantised") for e in (-1e-4, 1e-4)]  # fmt: skip
    cases += [(well | {"content_kept": 0.5 + e}, 0.1, "content lost", e < 0) for e in (-1e-4, 1e-4)]
    cases += [(well | {"copy": 0.9 + e}, 0.3, "copied input", e > 0) for e in (-1e-4, 1e-4)]
    cases += [(well, 0.2 + e, "copied input", e > 0) for e in (-1e-4, 1e-4)]
    found = []
    for scores, kid, name, _ in cases:
        said = cycle_findings({"cycle": scores, "rows": {"samples": {"kid": kid}, "not translated": {"kid": 0.4}}})
        assert all(finding.what == name for finding in said)
        found.append(len(said))
    return torch.tensor(found), torch.tensor([int(case[-1]) for case in cases])


class Told(Linear):
    """Linear, and a shift for each domain."""

    def __init__(self, weight: Tensor, shifts: Tensor, *shape: int):
        super().__init__(weight, *shape)
        self.shifts = torch.nn.Parameter(shifts)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        out = super().forward(x)
        return out if y is None else out + self.shifts[y].view(-1, *out.shape[1:])


class Verdict(Told):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x, y)[:, 0]


def whitened() -> tuple[Tensor, Tensor]:
    """Three domains, by eigenvectors."""
    encoder = WhitenedEncoder(torch.nn.Identity(), torch.nn.Identity(), 4, 3)
    mixing, h, share = normals(130, 3, 4, 4), normals(131, 6, 4), normals(132, 6, 3).softmax(1)
    covariance, mean, gain = mixing @ mixing.mT, normals(133, 3, 4), normals(134, 4).exp()
    encoder.covariance.copy_(covariance)
    encoder.mean.copy_(mean)
    encoder.gain.data.copy_(gain)
    least = LEAST * covariance.double().diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    values, vectors = torch.linalg.eigh(covariance.double() + least * torch.eye(4).double())
    roots = (vectors / values.sqrt()[:, None] @ vectors.mT).float()
    parts = [share[:, k, None] * ((h - mean[k]) @ roots[k]) for k in range(3)]
    return encoder.whitened(h, share), gain * sum(parts)


def named() -> tuple[Tensor, Tensor]:
    """Three domains; nothing is changed before the guess."""
    dense = {"kind": "dense", "hidden": [8]}
    options = CycleVAEOptions(latent_dim=2, encoder=dense, decoder=dense, guess=dense)
    family = CycleVAE(Image(SIZE), options, 3, AugmentConfig(mode="off", policy=[]))
    y, domain = normals(138, 6, *SIZE), torch.tensor([0, 1, 2, 0, 1, 2])
    shares = family.encoder.guess(y, None).exp()
    expected = -(shares[range(6), domain] / shares.sum(1)).log()
    return family._named(Turn("autoencoder", 0, 0, {}), y, domain), expected


def content() -> tuple[Tensor, Tensor]:
    """Three domains, an item at a time."""
    dense = {"kind": "dense", "hidden": [8]}
    options = {"encoder": dense, "decoder": dense, "guess": dense, "flow": {"kind": "flow", "depth": 2, "hidden": 8}}
    family = CycleVAE(Image(SIZE), CycleVAEOptions(latent_dim=2, **options), 3).eval()
    for k, parameter in enumerate(family.flow.parameters()):
        parameter.data.copy_(normals(140 + k, *parameter.shape) / 3)
    x, made = normals(139, 6, *SIZE), []
    for item in x.split(1):
        domain = int(family.encoder.guess(item, None)[0].argmax())
        mean = family.encoder(item, None)[:, :2]
        made.append(family.flow.to_noise(mean, torch.tensor([domain]))[0])
    return family.encode(x, None, 0), torch.cat(made)


def cycle_vae(domains: int = 0, **options) -> CycleVAE:
    """Z = 3; without domains the decoder is told none."""
    networks = {
        "encoder": Linear(normals(100, 6, 6) / 3), "decoder": Told(normals(101, 3, 6), normals(102, 3, 6), *SIZE),
        "critic": Verdict(normals(103, 6, 1), normals(104, 3, 1)), "probe": Linear(normals(105, 3, 3)),
    }  # fmt: skip
    family = CycleVAE(
        Image(SIZE), CycleVAEOptions(latent_dim=3, **options), domains, AugmentConfig(mode="off"), networks
    )
    family.prepare(normals(106, 9, *SIZE))
    return family


class By:
    """The same, by hand: posteriors (μ, σ), their KL, the likelihood at a scale, and items decoded in a domain."""

    def __init__(self, family: CycleVAE):
        self.scale, self.encoder = family.scale, family.encoder.weight
        self.decoder, self.shifts = family.decoder.weight, family.decoder.shifts

    def q(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, h = (x.flatten(1) @ self.encoder).chunk(2, 1)
        return mean, torch.exp(5 * torch.tanh(h / 5))

    def m(self, z: Tensor, d: Tensor | None = None) -> Tensor:
        return torch.tanh((z @ self.decoder + (0 if d is None else self.shifts[d])).view(-1, *SIZE))

    def error(self, x: Tensor, mean: Tensor) -> Tensor:
        each = (x - mean) ** 2 / (2 * self.scale**2) + self.scale.log() + 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    @staticmethod
    def kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
        (mean, std), (mean_p, std_p) = q, p
        each = 0.5 * ((std**2 + (mean - mean_p) ** 2) / std_p**2 - 1 - torch.log(std**2 / std_p**2))
        return each.sum(1)


PRIOR_OF_CODES = torch.zeros(3), torch.ones(3)
ROUND = ("cycle", "cycle_kl", "consistency")


def rounds(domains: int):
    """N = 3, with the posteriors' own noise at each encoding; the stored scale has followed the first term."""
    family, x = cycle_vae(domains, cycles=3), normals(107, 5, *SIZE).tanh()
    turn = Turn("autoencoder", 2, 0, dict.fromkeys(("reconstruction", "kl", *ROUND), 1.0))
    y = torch.tensor([0, 1, 2, 0, 1]) if domains else None
    with torch.no_grad():
        terms = family.losses(turn, {"a": x, "label": y} if domains else {"a": x})
        by, sums = By(family), torch.zeros(3, 5)

        def encoded(x: Tensor, name: str) -> tuple[tuple[Tensor, Tensor], Tensor]:
            q = by.q(x)
            return q, q[0] + q[1] * turn.normal(name, 5, 3, device=x.device)

        q, z = encoded(x, "z")
        for n in range(3 if domains else 2):
            before = q
            if domains:
                there = family._other_domain(turn, y, n)
                assert (there != y).all()
                q, z = encoded(by.m(z, there), f"z' {n}")
                sums += torch.stack([by.error(x, by.m(z, y)), by.kl(q, PRIOR_OF_CODES), by.kl(q, before)])
            if n < 2:
                q, z = encoded(by.m(z, y), f"z {n + 1}")
                far = torch.zeros(5) if domains else by.kl(q, before)
                sums += torch.stack([by.error(x, by.m(z, y)), by.kl(q, PRIOR_OF_CODES), far])
    return torch.stack([terms[name] for name in ROUND]), sums


def goes_round():
    """One data set, then domains."""
    (one, its), (many, theirs) = rounds(0), rounds(3)
    return torch.cat([one, many]), torch.cat([its, theirs])


def cycle_once():
    """N = 1 on one data set: the VAE's terms, and no others."""
    family, x = cycle_vae(cycles=1), normals(108, 5, *SIZE).tanh()
    turn = Turn("autoencoder", 2, 0, dict.fromkeys(("reconstruction", "kl", *ROUND), 1.0))
    with torch.no_grad():
        terms, by = family.losses(turn, {"a": x}), By(family)
        mean, std = by.q(x)
        decoded = by.m(mean + std * turn.normal("z", 5, 3, device=x.device))
        by.scale = (x - decoded).square().mean().sqrt()
    assert terms.keys() == {"reconstruction", "kl"}
    expected = [by.error(x, decoded), by.kl((mean, std), PRIOR_OF_CODES)]
    return torch.stack(list(terms.values())), torch.stack(expected)


def read_back():
    """Codes of the prior in domains at random."""
    family, turn = cycle_vae(3), Turn("autoencoder", 4, 0, {"codes": 1.0})
    with torch.no_grad():
        found, by = family.losses(turn, {"a": normals(109, 5, *SIZE), "label": torch.zeros(5).long()}), By(family)
        z = turn.normal("codes", 5, 3, device=by.scale.device)
        d = (3 * turn.uniform("any domain", 5, device=by.scale.device)).long()
        expected = -density(z, *by.q(by.m(z, d))).log()
    return found["codes"], expected


def other_domain():
    """Each of the others for one half of the items, up to chance."""
    family, y = cycle_vae(3), torch.arange(3).repeat(4000)
    drawn = family._other_domain(Turn("autoencoder", 0, 0, {}), y, 0)
    shares = torch.tensor([[((y == i) & (drawn == j)).sum() / 4000 for j in range(3)] for i in range(3)])
    return (shares / 0.05).round() * 0.05, (1 - torch.eye(3)) / 2


def critic_and_probe():
    """Both sides of the relativistic game on pairs of item and domain, the probe's game in the first step, R1, R2."""
    family, x, cache = cycle_vae(3, penalty="exact"), normals(110, 5, *SIZE).tanh(), {}
    y = torch.tensor([0, 1, 2, 0, 1])
    makes = dict.fromkeys(("reconstruction", "adversarial", "blind"), 1.0)
    judges, probes = dict.fromkeys(("critic", "r1", "r2"), 1.0), {"probe": 1.0}
    turn, probing = Turn("autoencoder", 0, 0, makes, 0, cache), Turn("probe", 0, 0, probes, 0, cache)
    turns = turn, Turn("discriminator", 0, 0, judges, 0, cache), probing
    terms = {name: term for one in turns for name, term in family.losses(one, {"a": x, "label": y}).items()}
    with torch.no_grad():
        by, there, weight = By(family), family._other_domain(turn, y, 0), family.critic.weight[:, 0]
        mean, std = by.q(x)
        made = by.m(mean + std * turn.normal("z", 5, 3, device=x.device), there)
        real, fake = (v.flatten(1) @ weight + family.critic.shifts[d, 0] for v, d in ((x, y), (made, there)))
        h = (e := (mean @ family.probe.weight).exp()) / e.sum(1, keepdim=True)
        spread = np.var(normals(106, 9, *SIZE).flatten(1).numpy(), axis=0, ddof=1).sum()
        drawn = (5 * probing.uniform("pool", 1024, device=x.device)).long()
        expected = {
            "adversarial": softplus(real - fake), "critic": softplus(fake - real), "blind": -h.log().sum(1) / 3,
            "probe": -(0.9 * h[drawn, y[drawn]].log() + 0.1 * h[drawn].log().mean(1)).mean(),
            "r1": spread * weight.square().sum(), "r2": spread * weight.square().sum(),
        }  # fmt: skip
    assert len(drawn.unique()) == 5
    return (torch.stack([v[name].expand(5) for name in expected]) for v in (terms, expected))


def converts():
    """The posterior's mean in another domain."""
    family, x, to = cycle_vae(3), normals(111, 5, *SIZE).tanh(), torch.tensor([2, 1, 0, 0, 1])
    with torch.no_grad():
        by = By(family)
        return family.convert(x, to), by.m(by.q(x)[0], to)


def conversions():
    """Two domains, so that the other one is known; items of one are bright, which a probe must see."""
    family, y = cycle_vae(2), torch.arange(60) % 3 % 2
    x = normals(112, 60, *SIZE) / 10 + (y * 2 - 1).view(-1, 1, 1, 1) * 0.8
    found = conversion_scores(family, x, y, ["dark", "bright"], RandomFeatures(), 0)
    with torch.no_grad():
        by, to = By(family), 1 - y
        codes = by.q(x)[0]
        again = by.q(by.m(codes, to))[0]
        variance = torch.from_numpy(np.var(codes.numpy(), axis=0, ddof=1))
        expected = {
            "back": (by.m(again, y) - x).abs().mean(), "domain_in_code": torch.tensor(1.0),
            "chance": y[1::2].float().mean().maximum(1 - y[1::2].float().mean()),
            "code_moved": ((again - codes).square().mean(0) / variance).mean(),
        }  # fmt: skip
    found = {name: value for name, value in found.items() if not name.endswith("_error")}
    assert found.keys() == expected.keys()  # without a classifier of the domains there is no domain_right
    return torch.tensor([found[name] for name in expected]), torch.stack(list(expected.values()))


RATE, N_FFT, MELS = 8000, 256, 64
WAVE = normals(120, 2, 4096) / 10


def hz() -> np.ndarray:
    """f₀ … f_{M+1}."""
    mel = lambda f: 2595 * np.log10(1 + f / 700)
    return 700 * (10 ** (np.linspace(mel(40), mel(RATE / 2), MELS + 2) / 2595) - 1)


def filters():
    f, bin_width, expected = hz(), RATE / N_FFT, np.zeros((MELS, N_FFT // 2 + 1))
    for j in range(1, MELS + 1):
        for k in range(N_FFT // 2 + 1):
            nu = k * RATE / N_FFT
            fall = max((f[j] - nu) / max(f[j] - f[j - 1], bin_width), (nu - f[j]) / max(f[j + 1] - f[j], bin_width))
            expected[j - 1, k] = max(0, 1 - fall)
    return mel_filters(RATE, N_FFT, MELS), torch.from_numpy(expected)


def transform(wave: np.ndarray, n: int, hop: int) -> np.ndarray:
    """The plain short-time transform of a wave (T,), (F, N/2 + 1), without anything at the ends."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    return np.stack([np.fft.rfft(hann * wave[t : t + n]) for t in range(0, len(wave) - n + 1, hop)])


def levels():
    """Numbers in [-1, 1], before and after they are rounded; frames lie in the middle of their hop."""
    audio, hop = Audio((1, MELS, 32), RATE, 4096, N_FFT, N_FFT // 2, loudest=3.0), N_FFT // 2
    raw = (WAVE * 32767).round().to(torch.int16)[:, None].numpy()
    found, side = audio.picture(torch.from_numpy(raw) / 32767).clamp(0, 255), (N_FFT - hop) // 2
    assert torch.equal(torch.from_numpy(audio.stored(raw)), found.round().byte())
    w, expected = filters()[1].numpy(), []
    for wave in raw[:, 0] / 32767:
        x = transform(np.pad(wave, (side, N_FFT - hop - side)), N_FFT, hop).T
        log_mel = np.log(np.maximum(1e-4, w @ np.abs(x)))
        expected.append(np.clip(255 * (log_mel - (3.0 - 9)) / 9, 0, 255) / 127.5 - 1)
    return audio.encode(found)[:, 0], torch.from_numpy(np.stack(expected))


def overlap_added():
    """Away from the ends, where frames that are not there would count."""
    n, hop, frames = 64, 16, 20
    s = torch.complex(normals(121, frames, n // 2 + 1), normals(122, frames, n // 2 + 1))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    above, below = np.zeros((2, n + hop * (frames - 1)))
    for t in range(frames):
        above[t * hop : t * hop + n] += hann * np.fft.irfft(s[t].numpy())
        below[t * hop : t * hop + n] += hann**2
    start = (n - hop) // 2
    found = InverseSTFT(n, hop)(s.real[None], s.imag[None])[0]
    expected = torch.from_numpy(above / np.maximum(below, 1e-8))[start : start + frames * hop]
    return found[n:-n], expected[n:-n]


def spectral_distance():
    made, wanted, each = WAVE.double(), (WAVE + normals(123, 2, 4096) / 20).double(), []
    for n in (128, 256, 512):
        a, b = (
            np.abs(np.stack([transform(np.pad(w, n // 2, mode="reflect"), n, n // 4) for w in waves.numpy()]))
            for waves in (made, wanted)
        )
        each.append(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()) + 0.5 * np.abs(np.log(a) - np.log(b)).mean())
    return multi_resolution_distance(made.float(), wanted.float(), (128, 256, 512)), torch.tensor(np.mean(each))


adv, var, cvae = "objectives.adversarial.", "objectives.variational.", "families.cycle_vae.CycleVAE."


def local_kernels():
    """Six codes in two kinds of three that look alike; a mean over six normal densities."""
    codes, kinds = torch.randn(6, 2, generator=torch.Generator().manual_seed(5)), torch.arange(6) % 2
    prior = LocalKernels(2, (), 0, kernels=6, width=0.7, near=3)
    prior.set_codes(codes, None, kinds[:, None].float(), None)
    spread = [0.49 * torch.cov(codes[kinds == k].T) + prior.thin * torch.eye(2) for k in (0, 1)]
    parts = [torch.distributions.MultivariateNormal(z, spread[k]) for z, k in zip(codes, kinds, strict=True)]
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(6))
    return prior.log_prob(z, None), torch.stack([part.log_prob(z).exp() for part in parts]).mean(0).log()


def moved_codes():
    """Five codes whose items all look different: 0 and the two most alike make its kernel."""
    codes, noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(7)), torch.randn(4, 3)
    last = LastCodes(3, (1, 4, 4), kernels=5, width=0.7)
    last.keep(codes, None, torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 4, 4), 0)
    about = codes[:3] - codes[:3].mean(0)
    return last.draw(noise, torch.zeros(4), None), codes[0] + 0.7 * noise @ about / 2**0.5


FORMULAS = {
    adv + "relativistic_discriminator": lambda f: (f(REAL, FAKE), softplus(FAKE - REAL)),
    adv + "relativistic_generator": lambda f: (f(REAL, FAKE), softplus(REAL - FAKE)),
    adv + "nonsaturating_discriminator": lambda f: (f(REAL, FAKE), -sig(REAL).log() - (1 - sig(FAKE)).log()),
    adv + "nonsaturating_generator": lambda f: (f(ZERO, FAKE), -sig(FAKE).log()),
    adv + "hinge_discriminator": lambda f: (f(REAL, FAKE), (1 - REAL).clamp(0) + (1 + FAKE).clamp(0)),
    adv + "linear_generator": lambda f: (f(ZERO, FAKE), -FAKE),
    adv + "leastsquares_discriminator": lambda f: (f(REAL, FAKE), 0.5 * (REAL - 1) ** 2 + 0.5 * FAKE**2),
    adv + "leastsquares_generator": lambda f: (f(ZERO, FAKE), 0.5 * (FAKE - 1) ** 2),
    adv + "wasserstein_discriminator": lambda f: (f(REAL, FAKE), FAKE - REAL),
    adv + "squared_slope": lambda f: (f(Quadratic(), X[:, 0, 0, :2]), slope(X[:, 0, 0, :2]).square().sum(1)),
    adv + "squared_difference": lambda _: difference(),
    adv + "unit_slope": lambda _: gradient_penalty(),
    adv + "pair_distance": lambda f: (f(X, torch.tensor([0, 1, 0, 1, 1])), of_one_label(X, [0, 1, 0, 1, 1])),
    adv + "lack_of_diversity": lambda f: (f(FAKE.exp(), REAL.exp()), (1 - (FAKE - REAL).exp()).clamp(0) ** 2),
    "families.gan.GAN._penalty": lambda _: r1(),
    "families.noise.NoiseOptions.seen": lambda _: noised(),
    "families.gan.GAN._measure_gap": lambda _: gap(),
    "families.gan.GAN.after_step": lambda _: adaptive(),
    "families.gan.GAN.score": lambda _: score(),
    "families.cycle_gan.CycleGAN.translate_a": lambda _: cycle_ways(),
    "families.cycle_gan.CycleGAN._generator_losses": lambda _: cycle_of_two_data_sets(),
    "families.cycle_gan.CycleGAN._domain_b": lambda _: cycle_with_noise(),
    "families.cycle_gan.CycleGAN._critic_losses": lambda _: critics(),
    "families.cycle_gan.CycleGAN.score": lambda _: cycle_score(),
    "families.cycle_gan.CycleGAN._style": lambda _: styles(),
    "families.cycle_gan.CycleGAN._semantic": lambda _: semantic(),
    "families.cycle_gan.CycleGAN._judge_pairs": lambda _: pairs(),
    "evaluation.cycle_scores": lambda _: honesty(),
    "health.cycle_findings": lambda _: warned(),
    cvae + "losses": lambda _: cycle_once(),
    cvae + "_go_round": lambda _: goes_round(),
    cvae + "_drawn": lambda _: read_back(),
    cvae + "_other_domain": lambda _: other_domain(),
    cvae + "_critic_losses": lambda _: critic_and_probe(),
    cvae + "convert": lambda _: converts(),
    "evaluation.conversion_scores": lambda _: conversions(),
    "families.vae.VAE.losses": lambda _: elbo(),
    "families.vae.VAE.explain": lambda _: point(),
    "families.vae.VAE.likelihood": lambda _: stored_scale(),
    "families.vae.VAE.nll": lambda _: nll(),
    var + "Normal.kl": lambda _: (
        Q.kl(PRIOR),
        0.5 * ((SIGMA_Q**2 + (Q.mean - PRIOR.mean) ** 2) / SIGMA_P**2 - 1 - torch.log(SIGMA_Q**2 / SIGMA_P**2)),
    ),
    var + "kl_term": lambda f: (
        torch.stack([f(KL, free_bits=0.9), f(KL, target=2.0), f(KL, free_bits=0.9, target=2.0)]),
        torch.stack([KL.mean(0).clamp(0.9).sum(), *[(KL.sum(1).mean() - 2.0).abs()] * 2]),
    ),
    var + "importance_bound": lambda f: (f(LOG_W), LOG_W.exp().mean(1).log()),
    var + "doubly_reparameterized": lambda _: dreg(),
    var + "active_units": lambda _: active_units(),
    var + "mutual_information": lambda _: mutual_information(),
    "objectives.likelihoods.Bernoulli.log_prob": lambda _: bernoulli(),
    "objectives.likelihoods.Gaussian.log_prob": lambda _: gaussian(),
    "objectives.likelihoods.Gaussian.optimal_scale": lambda _: best_sigma(),
    "objectives.likelihoods.Laplace.log_prob": lambda _: laplace(),
    "objectives.likelihoods.Laplace.optimal_scale": lambda _: (
        likelihood("laplace", MEAN).optimal_scale(X),
        (X - MEAN).abs().sum() / (len(X) * P),
    ),
    "objectives.likelihoods.DiscretizedLogistic.log_prob": lambda _: logistic(),
    "optim.term_weight": lambda _: annealing(),
    "nets.ladder.Layer.posterior": lambda _: ladder_posterior(),
    "nets.priors.StandardNormal.log_prob": lambda _: (
        PRIORS["normal"](3, (3,)).log_prob(Q.mean, None),
        density(Q.mean, torch.zeros(3), torch.ones(3)).log(),
    ),
    "nets.priors.Mixture.log_prob": lambda _: mixture_prior("mixture", normals(50, 4, 3), normals(51, 4, 3) / 2),
    "nets.priors.Vamp.components": lambda _: mixture_prior("vamp", normals(52, 4, 3), normals(53, 4, 3) / 2),
    "nets.priors.Flow.log_prob": lambda _: flow(),
    "nets.priors.LocalKernels.log_prob": lambda _: local_kernels(),
    "nets.priors.LastCodes.draw": lambda _: moved_codes(),
    "nets.priors.Coupling.to_noise": lambda _: coupling(),
    "nets.whitening.WhitenedEncoder.whitened": lambda _: whitened(),
    "families.cycle_vae.CycleVAE.content": lambda _: content(),
    "families.cycle_vae.CycleVAE._named": lambda _: named(),
    "evaluation.likelihood_of": lambda _: bits_per_dim(),
    "nets.vocoder.mel_filters": lambda _: filters(),
    "modalities.audio.Audio.stored": lambda _: levels(),
    "nets.vocoder.InverseSTFT": lambda _: overlap_added(),
    "objectives.spectral.multi_resolution_distance": lambda _: spectral_distance(),
}


@pytest.mark.parametrize("path", FORMULAS)
def test_the_formula_is_what_the_code_computes(path):
    assert any(path in paths(text) for text in TEXT.values()), "the documents no longer print it"
    module, _, name = path.rpartition(".")
    function = getattr(adversarial if "adversarial" in module else variational, name, None)
    found, expected = (v.detach().double() for v in FORMULAS[path](function))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=2e-4, atol=2e-5), (found, expected)
