"""The variational objectives, priors and estimators against closed forms, numeric integrals and planted faults."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import TINY_OF
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    kl_divergence,
)
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import Normal as TorchNormal

from morphogen import api, posthoc
from morphogen.config import AugmentConfig, TermConfig
from morphogen.errors import UsageError
from morphogen.families.base import Turn
from morphogen.families.vae import VAE, VAEOptions
from morphogen.health import code_findings
from morphogen.modalities import Image, Points
from morphogen.model import load
from morphogen.nets import PRIORS, build_network, initialise
from morphogen.nets.priors import GaussianMixture, LocalKernels, chosen, most_alike
from morphogen.objectives import variational
from morphogen.objectives.likelihoods import LIKELIHOODS
from morphogen.objectives.variational import Normal, active_units, importance_bound, kl_term, mutual_information
from morphogen.optim import term_weight
from morphogen.posthoc import finer, fit_flow, fit_kernels, fit_local, fit_mixture

GREY = torch.arange(256) / 127.5 - 1  # the levels of an image, encoded


def test_normal_agrees_with_torch():
    torch.manual_seed(0)
    p, q = (Normal(torch.randn(4, 3), torch.randn(4, 3)) for _ in range(2))
    theirs = [TorchNormal(n.mean, n.log_std.exp()) for n in (p, q)]
    z = torch.randn(4, 3)
    assert torch.allclose(p.log_prob(z), theirs[0].log_prob(z), atol=1e-5)
    assert torch.allclose(p.kl(q), kl_divergence(*theirs), atol=1e-5, rtol=1e-5)
    assert torch.equal(p.rsample(torch.zeros(4, 3)), p.mean)


# ---- likelihoods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_discretized_logistic_is_a_probability_of_the_256_levels(components, spread):
    torch.manual_seed(1)
    cls = LIKELIHOODS["logistic"]
    output = (spread * torch.randn(1, cls.outputs(1, components), 1, 1)).expand(256, -1, 1, 1)
    p = cls(output, torch.tanh, torch.ones(()), components=components)
    total = p.log_prob(GREY.view(256, 1, 1, 1)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-4)


def test_discretized_logistic_stays_exact_for_sharp_components():
    """σ(a) − σ(b) is 0 in float32 here, far from the mean; its logarithm is the logistic's tail, linear in x."""
    output = torch.tensor([0.0, 0.0, -10.0]).view(1, 3, 1, 1)  # one component: weight, mean 0, log s = -7
    p = LIKELIHOODS["logistic"](output, torch.tanh, torch.ones(()), components=1)
    near, far = (p.log_prob(torch.full((1, 1, 1, 1), v)).item() for v in (0.5 + 1 / 255, 0.5 + 3 / 255))
    assert near - far == pytest.approx(2 / 255 * math.exp(7), rel=1e-3)


def test_discretized_logistic_samples_follow_its_probabilities():
    torch.manual_seed(2)
    output = torch.tensor([0.3, -0.4, 0.2, -0.5, 0.5, 0.1]).view(1, 6, 1, 1).expand(20_000, -1, 1, 1)
    p = LIKELIHOODS["logistic"](output, torch.tanh, torch.ones(()), components=2)
    x = p.sample(torch.Generator().manual_seed(0))
    level = ((x + 1) * 127.5).round()
    assert torch.allclose(level / 127.5 - 1, x, atol=1e-6)
    top = (level == 255).float().mean()  # the last bin reaches to infinity
    few = LIKELIHOODS["logistic"](output[:1], torch.tanh, torch.ones(()), components=2)
    assert top.item() == pytest.approx(few.log_prob(torch.ones(1, 1, 1, 1)).exp().item(), abs=0.01)


def test_quantiles_agree_with_torch_and_grain_is_the_way_from_mode_to_sample():
    output, u, scale = torch.randn(5, 2, 3, 3) / 3, 0.01 + 0.98 * torch.rand(5, 2, 3, 3), torch.tensor(0.1)
    theirs = {"gaussian": TorchNormal(output.tanh(), 0.1).icdf(u), "laplace": TorchLaplace(output.tanh(), 0.1).icdf(u)}
    for name, expected in theirs.items():
        p = LIKELIHOODS[name](output, torch.tanh, scale)
        assert torch.allclose(p.quantile(u), expected, atol=1e-4), name
        half = p.mode() + 0.5 * (expected - p.mode())
        assert torch.allclose(p.grainy(u, 0.5), half.clamp(-1, 1), atol=1e-4)
        assert torch.equal(p.grainy(u, 0.0), p.mode())


def test_samples_show_the_noise_of_the_likelihood_where_they_are_asked_to():
    """Item i is the same for every count, and reconstructions stay without."""
    family = image_vae().eval()
    codes = family.codes(5, 0)

    def items(count: int, grain: float) -> torch.Tensor:
        with family.drawn(grain=grain):
            return torch.cat(list(family.items_of(codes[:count], None)))

    mode, noisy = items(5, 0.0), items(5, 1.0)
    assert torch.allclose(mode, family.generate(codes, None), atol=1e-5)
    assert torch.equal(noisy[:3], items(3, 1.0))
    inside = (mode.abs() < 0.5) & (noisy.abs() < 1)
    assert (noisy - mode)[inside].std().item() == pytest.approx(float(family.scale), rel=0.4)


def test_a_vae_that_measured_its_texture_draws_it_and_each_row_is_its_own():
    family = image_vae().eval()
    x = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    codes = family.codes(5, 0)
    family.learn_texture(x, None, 0)
    mode = torch.cat(list(family.items_of(codes, None)))
    with family.drawn(grain=1.0):
        five, three = (torch.cat(list(family.items_of(codes[:n], None))) for n in (5, 3))
    assert torch.equal(five[:3], three)
    means = family.generate(family.encode(x, None, 0), None)
    assert (five - mode).std().item() == pytest.approx((x - means).square().mean().sqrt().item(), rel=0.2)
    assert not image_vae(likelihood="logistic").has_texture


def test_bernoulli_and_densities_agree_with_torch():
    torch.manual_seed(3)
    output, x, scale = torch.randn(5, 2, 3, 3), torch.rand(5, 2, 3, 3) * 2 - 1, torch.tensor(0.3)
    theirs = {
        "gaussian": TorchNormal(output.tanh(), 0.3).log_prob(x),
        "laplace": TorchLaplace(output.tanh(), 0.3).log_prob(x),
        "bernoulli": Bernoulli(logits=output).log_prob((x > 0).float()),
    }
    for name, expected in theirs.items():
        seen = (x > 0).float() * 2 - 1 if name == "bernoulli" else x
        found = LIKELIHOODS[name](output, torch.tanh, scale).log_prob(seen)
        assert torch.allclose(found, expected.flatten(1).sum(1), atol=1e-4), name


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_the_optimal_scale_is_where_the_likelihood_is_highest(name):
    torch.manual_seed(4)
    x = torch.randn(6, 1, 4, 4) * 0.2
    p = LIKELIHOODS[name](torch.zeros_like(x), torch.tanh, torch.ones(()))
    p.scale = best = p.optimal_scale(x)
    highest = p.log_prob(x).sum()
    for factor in (0.95, 1.05):
        p.scale = best * factor
        assert p.log_prob(x).sum() < highest


# ---- terms of the bound ------------------------------------------------------------------------------------------


def test_free_bits_and_target():
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
    assert torch.allclose(kl_term(kl), torch.tensor([2.1, 4.3]))
    assert kl_term(kl, free_bits=0.5).item() == pytest.approx(0.5 + 3.0)  # the first unit's mean is below 0.5
    assert kl_term(kl, target=5.0).item() == pytest.approx(abs(3.2 - 5.0))


def test_free_bits_give_no_gradient_to_a_unit_below_them():
    kl = torch.tensor([[0.1, 2.0]], requires_grad=True)
    kl_term(kl, free_bits=0.5).backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0.0, 1.0]]


def test_cyclical_annealing_rises_in_half_of_each_cycle():
    term = TermConfig(weight=2.0, cycle=8)
    weights = [term_weight(term, step, 100) for step in range(16)]
    assert weights == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0] * 2


def test_importance_bound_of_one_sample_is_the_elbo_and_pieces_agree():
    w = torch.randn(4, 6)
    assert torch.allclose(importance_bound(w[:, :1]), w[:, 0])
    assert torch.allclose(variational.streamed_bound(iter([w[:, :4], w[:, 4:]])), importance_bound(w), atol=1e-6)
    assert (importance_bound(w) >= w.mean(1)).all()  # Jensen


# ---- the estimator on a model whose evidence is known -------------------------------------------------------------


class Affine(nn.Module):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x, y=None):
        return x @ self.weight.T + self.bias


def linear_gaussian(sloppy: float):
    """p(z) = N(0, 1), p(x|z) = N(Wz, 0.5²) and an encoder whose spread is `sloppy` times that of the true posterior."""
    torch.manual_seed(5)
    w, sigma = torch.randn(4, 2), 0.5
    covariance = torch.linalg.inv(torch.eye(2) + w.T @ w / sigma**2)  # of the true posterior
    project = covariance @ w.T / sigma**2
    log_std = 0.5 * covariance.diagonal().log() + math.log(sloppy)
    clamp = 5 * torch.atanh(log_std / 5)  # the inverse of Normal.of's soft limit
    encoder = Affine(torch.cat([project, torch.zeros(2, 4)]), torch.cat([torch.zeros(2), clamp]))
    options = VAEOptions(latent_dim=2, likelihood="gaussian", scale=sigma)
    family = VAE(Points((4,)), options, networks={"encoder": encoder, "decoder": Affine(w, torch.zeros(4))}).eval()
    family.prepare(torch.randn(10, 4))
    evidence = MultivariateNormal(torch.zeros(4), w @ w.T + sigma**2 * torch.eye(4))
    return family, evidence, evidence.sample((400,))


def test_iw_nll_meets_the_known_evidence_within_three_standard_errors_and_tightens():
    family, evidence, x = linear_gaussian(sloppy=1.3)
    truth = -evidence.log_prob(x)
    error = {}
    for samples in (1, 10, 1000):
        with torch.no_grad():
            found = torch.cat(list(family.nll(x, None, samples)))
        error[samples] = (found - truth).double()
    assert error[1].mean() > error[10].mean() > error[1000].mean() - 1e-3  # a bound from above, tighter with more
    mean, standard_error = error[1000].mean(), error[1000].std() / 400**0.5
    assert abs(mean) < max(3 * standard_error, 2e-3)
    assert error[1].mean() > 0.05


def test_iw_nll_does_not_depend_on_how_samples_are_cut_into_passes():
    family, _, x = linear_gaussian(sloppy=1.3)
    with torch.no_grad():
        whole = torch.cat(list(family.nll(x[:100], None, 1, rows=100)))
        again = torch.cat(list(family.nll(x[:100], None, 1, rows=1000)))
    assert torch.equal(whole, again)


def test_the_score_of_an_item_is_its_own_whatever_comes_with_it():
    family, _, x = linear_gaussian(sloppy=1.3)
    assert torch.allclose(family.score(x[:130], None)[100:130], family.score(x, None)[100:130], atol=1e-5)


def test_measure_splits_the_elbo_as_the_closed_form_says():
    family, evidence, x = linear_gaussian(sloppy=1.0)
    scores = family.measure(x, None, seed=0)
    assert scores["nelbo"] == pytest.approx(scores["reconstruction"] + scores["kl"])
    assert scores["nelbo"] >= -evidence.log_prob(x).mean().item() - 0.2
    q = family.top(family.encoder(x))
    assert scores["kl"] == pytest.approx(q.kl(Normal.standard(q.mean)).sum(1).mean().item(), rel=1e-4)
    assert scores["active_units"] == 2


def test_dreg_has_no_gradient_at_the_exact_posterior_where_plain_iwae_has_noise():
    """With q = p(z|x) all weights are equal and the path through z is flat (Tucker et al. 2019, section 4)."""
    norms = {}
    for dreg in (False, True):
        torch.manual_seed(6)
        w = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # a diagonal posterior covariance, so that q can be exact
        covariance = torch.linalg.inv(torch.eye(2) + w.T @ w)
        log_std = 5 * torch.atanh(0.5 * covariance.diagonal().log() / 5)
        encoder = Affine(torch.cat([covariance @ w.T, torch.zeros(2, 2)]), torch.cat([torch.zeros(2), log_std]))
        options = VAEOptions(latent_dim=2, likelihood="gaussian", scale=1.0, importance_samples=5, dreg=dreg)
        networks = {"encoder": encoder, "decoder": Affine(w, torch.zeros(2))}
        family = VAE(Points((2,)), options, networks=networks)
        family.prepare(torch.randn(4, 2))
        turn = Turn("autoencoder", 0, 0, {"iwae": 1.0})
        family.losses(turn, {"a": torch.randn(64, 2)})["iwae"].mean().backward()
        assert encoder.bias.grad is not None
        norms[dreg] = encoder.bias.grad.norm().item()
    assert norms[True] < 1e-5
    assert norms[False] > 1e-2


def test_dreg_is_the_gradient_of_the_bound_on_average():
    """Far from the optimum the two estimators agree in expectation, for encoder and decoder."""
    found = {}
    for dreg in (False, True):
        family, _, _ = linear_gaussian(sloppy=1.5)
        family.options.importance_samples, family.options.dreg = 3, dreg
        x = torch.randn(1, 4, generator=torch.Generator().manual_seed(1)).expand(60_000, -1)
        family.losses(Turn("autoencoder", 0, 3, {"iwae": 1.0}), {"a": x})["iwae"].mean().backward()
        found[dreg] = torch.cat([p.grad.flatten() for p in family.parameters() if p.grad is not None])
    assert torch.allclose(found[True], found[False], atol=0.05 * found[False].abs().max().item())


# ---- collapse ----------------------------------------------------------------------------------------------------


def test_mutual_information_of_separate_and_of_equal_posteriors():
    n = 64
    apart = Normal(torch.arange(n).float()[:, None] * 100, torch.zeros(n, 1))
    same = Normal(torch.zeros(n, 1), torch.zeros(n, 1))
    assert mutual_information(apart, apart.mean) == pytest.approx(math.log(n), abs=1e-4)
    assert mutual_information(same, torch.randn(n, 1)) == pytest.approx(0, abs=1e-5)


def test_active_units_counts_the_dimensions_that_vary():
    means = torch.stack([torch.zeros(100), torch.linspace(-1, 1, 100), 0.05 * torch.linspace(-1, 1, 100)], 1)
    assert active_units(means) == 1


def test_collapse_is_named_in_words():
    healthy = {"kl": 20.0, "mutual_information": 6.0, "active_units": 10.0}
    assert code_findings(healthy) == []
    assert code_findings({"nelbo": 1.0, "kl": 0.0}) == []  # an autoencoder
    assert (
        code_findings({"kl": 30.0, "top_mutual_information": 0.1, "active_units": 40.0}) == []
    )  # a ladder's lower layers
    (said,) = code_findings({"kl": 0.01, "mutual_information": 0.01, "active_units": 0.0})
    assert said.what == "posterior collapse"
    assert "terms.kl.weight" in said.remedy


# ---- priors ------------------------------------------------------------------------------------------------------


def no_encoder(x, y):
    raise AssertionError("only the Vamp prior asks the encoder")


def a_prior(kind: str, classes: int = 0, **options):
    prior = build_network(PRIORS, {"kind": kind, **options}, latent_dim=2, space=(1, 8, 8), classes=classes)
    initialise(prior, 0, "prior")
    return prior


@pytest.mark.parametrize("kind", ["normal", "mixture", "flow", "gmm", "kernels", "local"])
@pytest.mark.parametrize("classes", [0, 2])
def test_every_prior_integrates_to_one_and_draws_what_it_says(kind, classes):
    torch.manual_seed(7)
    prior = a_prior(kind, classes, **({"kernels": 300} if kind in ("kernels", "local") else {}))
    if kind == "local":
        codes, kinds = torch.randn(300, 2) * torch.tensor([1.0, 0.4]) + 1, torch.arange(300) % 2
        prior.set_codes(codes, kinds, codes, kinds)
    for tensor in prior.parameters():
        tensor.data += (0.04 if kind == "flow" else 0.2) * torch.randn_like(tensor)
    side = torch.linspace(-9, 9, 201)
    grid = torch.cartesian_prod(side, side)
    y = torch.ones(len(grid), dtype=torch.long) if classes else None
    with torch.no_grad():
        density = prior.log_prob(grid, y, no_encoder).exp()
        area = (side[1] - side[0]) ** 2
        assert (density.sum() * area).item() == pytest.approx(1, abs=0.02)
        n = 20_000
        z = prior.draw(torch.randn(n, 2), torch.rand(n), y[:1].expand(n) if y is not None else None, no_encoder)
    expected = (grid * density[:, None]).sum(0) * area
    assert torch.allclose(z.mean(0), expected, atol=0.05)


def test_the_vamp_prior_is_the_mixture_of_its_items_posteriors():
    prior = a_prior("vamp", components=3)
    encode = lambda x, y: Normal(x.flatten(1)[:, :2], torch.zeros(len(x), 2))
    z = torch.randn(5, 2)
    parts = Independent(TorchNormal(prior.items.detach().flatten(1)[:, :2], 1.0), 1)
    expected = MixtureSameFamily(Categorical(logits=prior.logits.detach()), parts).log_prob(z)
    assert torch.allclose(prior.log_prob(z, None, encode), expected, atol=1e-5)


def test_flow_and_its_inverse_undo_each_other():
    flow = a_prior("flow")
    for p in flow.parameters():
        p.data += 0.1 * torch.randn_like(p)
    noise = torch.randn(9, 2)
    with torch.no_grad():
        z = flow.draw(noise, torch.rand(9), None, no_encoder)
        v = (z - flow.mean) / flow.std
        for coupling, rotation in zip(flow.couplings, flow.rotations, strict=True):
            v, _ = coupling.to_noise(v @ rotation, None)
    assert torch.allclose(v, noise, atol=1e-4)


def test_chosen_gives_each_component_its_share():
    weights = torch.tensor([0.5, 0.0, 0.3, 0.2])
    index = chosen(weights, torch.arange(1000) / 1000 + 5e-4)
    assert torch.bincount(index, minlength=4).tolist() == [500, 0, 300, 200]


def two_blobs(n: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, n) * 8 - 4
    return torch.from_numpy(rng.normal(size=(n, 2)) * [0.3, 1.0] + np.stack([side, np.zeros(n)], 1)).float()


def local_by_codes(codes, y, heldout, heldout_y, classes):
    return fit_local(codes, y, codes, None, classes)


@pytest.mark.parametrize("fit", [fit_mixture, fit_flow, fit_kernels, local_by_codes])
def test_fitted_priors_come_near_the_true_density(fit, monkeypatch):
    monkeypatch.setattr(posthoc, "FLOW_STEPS", 800)  # of 4,000, and a smaller one: near enough here
    monkeypatch.setattr(posthoc, "FLOW", {"depth": 6, "hidden": 32})
    codes, heldout = two_blobs(4000, 0), two_blobs(1000, 1)
    prior = fit(codes, None, heldout, None, 0)
    parts = Independent(TorchNormal(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]), torch.tensor([0.3, 1.0])), 1)
    truth = MixtureSameFamily(Categorical(torch.ones(2)), parts).log_prob(heldout).mean().item()
    assert prior.log_prob(heldout, None, no_encoder).mean().item() > truth - (0.05 if fit is fit_mixture else 0.4)


def test_kernels_keep_mean_and_covariance_and_narrower_ones_come_nearer_to_the_codes():
    codes, rng = two_blobs(3000, 0), torch.Generator().manual_seed(0)
    noise, pick = torch.randn(20_000, 2, generator=rng), torch.rand(20_000, generator=rng)
    nearest = []
    for _, prior in finer(fit_kernels(codes, None, two_blobs(500, 1), None, 0)):
        z = prior.draw(noise, pick, None, no_encoder)
        assert torch.allclose(z.mean(0), codes.mean(0), atol=0.1)
        assert torch.allclose(torch.cov(z.T), torch.cov(codes.T), atol=0.2)
        nearest.append(float(torch.cdist(z[:500], codes).amin(1).median()))
    assert nearest[0] > nearest[1] > nearest[2] > 0


def test_local_kernels_reach_along_the_codes_and_not_across():
    """Codes on two long thin lines far apart: the shape of all reaches across, that of neighbourhoods does not."""
    generator = torch.Generator().manual_seed(0)
    along, side = 3 * torch.randn(3000, generator=generator), torch.arange(3000) % 2 * 8.0 - 4
    codes = torch.stack([along, side + 0.05 * torch.randn(3000, generator=generator)], 1)
    noise, pick = torch.randn(5000, 2, generator=generator), torch.rand(5000, generator=generator)
    off = {}
    for fit in (fit_kernels, local_by_codes):
        prior = fit(codes[:2000], None, codes[2000:], None, 0)
        z = prior.draw(noise, pick, None, no_encoder)
        off[fit] = float((z[:, 1].abs() - 4).abs().mean())
    assert off[local_by_codes] < 0.15 < off[fit_kernels]


def test_a_local_kernel_has_the_shape_of_the_codes_of_items_that_look_alike():
    """Codes in one heap, items in two kinds: the kernel of an item is as wide as the codes of its own kind, of its own
    label only, and no wider than it is said to be."""
    codes, kinds = torch.randn(400, 3), torch.arange(400) % 2
    codes[kinds == 0] *= torch.tensor([3.0, 0.1, 1.0])
    prior = LocalKernels(3, (), 0, kernels=400, width=0.5, near=200)
    prior.set_codes(codes, None, kinds[:, None].float(), None)
    assert prior.near[:, 0].tolist() == list(range(400))  # itself first, though many look the same
    root = prior._roots(torch.tensor([0, 2]))
    expected = 0.25 * torch.cov(codes[kinds == 0].T) + prior.thin * torch.eye(3)
    assert torch.allclose(root @ root.mT, expected.expand(2, 3, 3), atol=1e-4)
    z = prior.draw(torch.randn(4000, 3), torch.full((4000,), 2.5 / 400), None)
    assert torch.allclose(z.mean(0), codes[2], atol=0.1)
    assert torch.allclose(torch.cov(z.T), expected, atol=0.1, rtol=0.1)
    near = most_alike(kinds[:5, None].float(), torch.tensor([0, 1, 0, 1, 2]), 3)
    assert [row[0] for row in near.tolist()] == [0, 1, 2, 3, 4]
    assert [set(row[:2]) for row in near.tolist()[:4]] == [{0, 2}, {1, 3}, {0, 2}, {1, 3}]  # then others fill up
    assert all(len(set(row)) == 3 for row in near.tolist())


def test_a_prior_that_says_the_codes_again_is_not_the_best():
    scores = {"trained": {"kid": 3.0}, "wide": {"kid": 1.0, "copies": False}, "narrow": {"kid": 0.1, "copies": True}}
    assert api.best_prior(scores, "kid") == "wide"
    assert api.best_prior({"narrow": scores["narrow"]}, "kid") == "narrow"  # there is no other


def test_kernels_and_grain_are_measured_at_the_end_and_loaded_again(tmp_path):
    settings = [*TINY_OF["vae-image"], "evaluate.samplers=[local]", "train.evaluate_every=20", "sample.grain=1"]
    api.train("vae-image", "builtin:digits", out=tmp_path / "run", steps=20, settings=settings)
    priors = json.loads((tmp_path / "run" / "evaluation.json").read_text())["priors"]
    kernels = {name: found for name, found in priors.items() if name.startswith("local kernels ")}
    assert len(kernels) == len(posthoc.LOCAL_WIDTHS)
    assert all(type(found["copies"]) is bool for found in kernels.values())
    assert "copies" not in priors["trained"]
    options = load(tmp_path / "run").description.options["sampler"]
    assert options == {} or options["kind"] == "local"
    model = load(tmp_path / "run")
    assert model.description.options["texture"] is True
    texture = model.family.texture
    assert texture.sizes.min() > 0
    assert texture.kernel.norm().item() == pytest.approx(1, abs=1e-5)
    grainy = model.sample(3)
    model.description.sample["grain"] = 0.0
    assert (grainy != model.sample(3)).mean() > 0.3


def test_a_label_with_a_single_item_gets_the_mixture_of_all():
    codes, labels = two_blobs(50, 0), torch.zeros(50, dtype=torch.long)
    labels[0] = 1
    prior = fit_mixture(codes, labels, codes, labels, 3)  # and the third has none
    z = prior.draw(torch.randn(20, 2), torch.rand(20), torch.tensor([1, 2] * 10), no_encoder)
    assert torch.isfinite(z).all()


def test_a_flow_keeps_float32_under_autocast():
    flow, z = a_prior("flow"), torch.randn(9, 2)
    for p in flow.parameters():
        p.data += 0.1 * torch.randn_like(p)
    exact = flow.log_prob(z, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow.log_prob(z, None), exact)


def test_a_fitted_mixture_keeps_labels_apart():
    codes, labels = two_blobs(2000, 0), None
    labels = (codes[:, 0] > 0).long()
    prior = fit_mixture(codes, labels, codes, labels, 2)
    assert isinstance(prior, GaussianMixture)
    z = prior.draw(torch.randn(200, 2), torch.rand(200), torch.ones(200, dtype=torch.long), no_encoder)
    assert (z[:, 0] > 0).all()


# ---- the family --------------------------------------------------------------------------------------------------


def image_vae(classes: int = 0, space=(1, 16, 16), **options) -> VAE:
    small = {"encoder": {"kind": "conv", "width": 8, "features": 16}, "decoder": {"kind": "conv", "width": 8}}
    ladder = {
        "encoder": {"kind": "ladder", "width": 8, "features": 16},
        "decoder": {"kind": "ladder", "width": 8, "layers": 2, "latent_channels": 2},
    }
    chosen_networks = ladder if options.pop("ladder", False) else small
    family = VAE(Image(space), VAEOptions(latent_dim=4, **{**chosen_networks, **options}), classes)
    for name, module in family.named_children():
        initialise(module, 0, name)
    family.prepare(torch.rand(20, *space) * 2 - 1)
    return family.eval()


@pytest.mark.parametrize("ladder", [False, True])
def test_a_code_gives_back_what_its_explanation_decoded(ladder):
    """A ladder's code is noise below the top; decoded again it must walk the same way."""
    family = image_vae(ladder=ladder)
    with torch.no_grad():
        for p in family.parameters():
            p += 0.05 * torch.randn_like(p)  # so that the ladder's heads, zero at first, have something to say
        x = torch.rand(3, 1, 16, 16) * 2 - 1
        found = family.explain(family.encoder(x, None), None, torch.randn(3, family.latent_dim))
        again = family.decoder(found.code, None)
    assert found.code.shape == (3, family.latent_dim)
    assert torch.allclose(again, found.output, atol=1e-4)


def test_the_kl_of_a_ladder_is_the_mean_of_its_log_ratio():
    torch.manual_seed(8)
    family = image_vae(ladder=True)
    with torch.no_grad():
        for p in family.parameters():
            p += 0.05 * torch.randn_like(p)
        x = (torch.rand(1, 1, 16, 16) * 2 - 1).expand(4000, -1, -1, -1)
        found = family.explain(family.encoder(x, None), None, torch.randn(4000, family.latent_dim))
    kl, ratio = found.kl.sum(1), found.log_ratio
    assert found.kl.shape[1] == 1 + 2 * 2  # the top, and two layers at each of two sizes
    assert kl.mean().item() == pytest.approx(ratio.mean().item(), abs=4 * ratio.std().item() / 4000**0.5)


def test_a_point_posterior_has_no_randomness_and_half_the_squared_code_as_its_kl():
    family = image_vae(posterior="point")
    x = torch.rand(3, 1, 16, 16) * 2 - 1
    encoded = family.encoder(x, None)
    one, two = (family.explain(encoded, None, torch.randn(3, 4)) for _ in range(2))
    assert torch.equal(one.output, two.output)
    assert torch.allclose(one.kl.sum(1), 0.5 * one.code.square().sum(1))


@pytest.mark.parametrize(
    "options",
    [{"likelihood": "bernoulli"}, {"free_bits": 0.1, "target_kl": 5.0}, {"dreg": True, "ladder": True},
     {"encoder": {"kind": "ladder"}, "decoder": {"kind": "ladder", "width": 8}},
     {"posterior": "point", "prior": {"kind": "flow"}}, {"prior": {"kind": "gmm"}}, {"encoder": {"kind": "ladder"}}],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options):
    with pytest.raises(UsageError):
        if options.get("likelihood"):
            VAE(Points((2,)), VAEOptions(encoder={"kind": "dense"}, decoder={"kind": "dense"}, **options))
        else:
            image_vae(**options)


def test_binarize_draws_black_or_white_with_the_grey_levels_probabilities():
    family = image_vae(binarize=True, likelihood="bernoulli")
    x = torch.full((50, 1, 16, 16), 0.5)  # grey level 0.75
    seen = family.observe(x, torch.Generator().manual_seed(0))
    assert set(seen.unique().tolist()) == {-1.0, 1.0}
    assert (seen > 0).float().mean().item() == pytest.approx(0.75, abs=0.02)


def test_the_decoder_is_asked_once_for_the_samples_of_one_encoding():
    """The encoder runs once per item, however many importance samples there are."""
    family = image_vae()
    calls = []
    family.encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    x = torch.rand(150, 1, 16, 16) * 2 - 1
    list(family.nll(x, None, 20))
    assert sum(calls) == 150


def test_a_vae_learns_from_changed_items_only_where_it_is_told_to():
    x, turn = torch.rand(40, 1, 16, 16) * 2 - 1, Turn("autoencoder", 3, 0, {"reconstruction": 1.0})
    batch, family = {"a": x, "label": torch.arange(40)}, image_vae()
    for mode, changed in (("off", False), ("adaptive", False), ("fixed", True)):
        family.augment = AugmentConfig(mode=mode, policy=["gain", "shift"], probability=0.5)
        seen = family._varied(turn, batch)
        assert seen["label"] is batch["label"]
        assert torch.equal(seen["a"], x) is not changed
        assert torch.equal(seen["a"], family._varied(turn, batch)["a"])  # a function of the step
    moved = (seen["a"] != x).flatten(1).any(1).float().mean().item()
    assert 0.5 < moved < 0.95  # each kind on half of them
    assert seen["a"].abs().max() <= 1
    points = {"a": torch.randn(40, 5) * 9}
    assert family._varied(turn, points) is points


def test_the_stored_scale_follows_the_optimal_one():
    family = image_vae().train()
    x = torch.rand(32, 1, 16, 16) * 2 - 1
    for step in range(300):
        family.losses(Turn("autoencoder", step, 0, {"reconstruction": 1.0}), {"a": x})
    with torch.no_grad():
        p = family.likelihood(family.explain(family.encoder(x, None), None, torch.randn(32, 4)).output)
        assert family.scale.item() == pytest.approx(p.optimal_scale(x).item(), rel=0.1)
