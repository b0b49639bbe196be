"""Priors fitted to the codes of a trained VAE, and the choice among them by held-out score.

A VAE's codes do not fill its prior: samples of the prior then fall between the codes and look like nothing. A density
fitted to the codes afterwards mends that (Ghosh et al. 2020; Dai & Wipf 2019). Which is best is measured, not guessed.

Shapes: N items · Z latent_dim · M components · K classes (0: no labels).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Fit
from torch import Tensor

from morphogen.families.base import chunks, seed_of
from morphogen.families.vae import VAE
from morphogen.nets.priors import NEAR, PRIORS, Flow, GaussianMixture, Kernels, LocalKernels, look

COMPONENTS = (1, 10, 20, 50, 100)  # of a mixture, for all labels together
ENOUGH = 5  # codes a component must have for each latent dimension
FLOW = {"depth": 8, "hidden": 128}
MOST_KERNELS, WIDTHS = 5000, (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FINER = (1.0, 0.7, 0.6, 0.5, 0.42, 0.35)
LOCAL_WIDTHS = (1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6)  # of local kernels
FLOW_STEPS, FLOW_BATCH, FLOW_CHECK = 4000, 512, 200


def fit_mixture(codes: Tensor, y: Tensor | None, heldout: Tensor, heldout_y: Tensor | None, classes: int) -> Any:
    """A mixture of normals with full covariances on codes (N, Z); the number of components by held-out likelihood."""
    best, score = None, -np.inf
    for each in dict.fromkeys(max(1, components // max(1, classes)) for components in COMPONENTS):
        if best is not None and each * codes.shape[1] * ENOUGH * max(1, classes) > len(codes):
            break
        mixture = _mixture_of(codes, y, classes, each)
        new = float(mixture.log_prob(heldout, heldout_y).mean())
        if new < score:  # more components fit the training codes only
            break
        best, score = mixture, new
    return best


def _mixture_of(codes: Tensor, y: Tensor | None, classes: int, components: int) -> GaussianMixture:
    """The mixture with so many components for each label."""
    mixture = GaussianMixture(codes.shape[1], (), classes, components=components)
    ridge = 1e-4 * float(codes.var(0).mean()) + 1e-8
    for group in range(max(1, classes)):
        part = codes if y is None or not classes else codes[y == group]
        part = (part if len(part) > 1 else codes).double().numpy()  # one item has no covariance: those of all labels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 30 rounds are near enough
            fit = Fit(min(components, len(part)), reg_covar=ridge, max_iter=30, random_state=0).fit(part)
        weights, means, covariances = (np.asarray(getattr(fit, k)) for k in ("weights_", "means_", "covariances_"))
        for m in range(components):  # with fewer codes than components the last ones stay empty
            mixture.weights[group, m] = float(weights[m]) if m < len(weights) else 0.0
            if m < len(weights):
                mixture.means[group, m] = torch.from_numpy(means[m])
                mixture.factors[group, m] = torch.from_numpy(np.linalg.cholesky(covariances[m]))
    return mixture


def fit_flow(codes: Tensor, y: Tensor | None, heldout: Tensor, heldout_y: Tensor | None, classes: int) -> Flow:
    """A flow on codes (N, Z) by maximum likelihood; the step with the best held-out likelihood counts."""
    from morphogen.nets import initialise

    flow = Flow(codes.shape[1], (), classes, **FLOW)
    initialise(flow, 0, "sampler")
    flow.mean.copy_(codes.mean(0))
    flow.std.copy_(codes.std(0).clamp_min(1e-6))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FLOW_STEPS)
    best, score = flow.state_dict(), -np.inf
    for step in range(1, FLOW_STEPS + 1):
        index = torch.randint(len(codes), (FLOW_BATCH,), generator=generator)
        loss = -flow.log_prob(codes[index], None if y is None else y[index]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % FLOW_CHECK == 0:
            with torch.no_grad():
                new = float(flow.log_prob(heldout, heldout_y).mean())
            if new > score:
                best, score = {k: v.clone() for k, v in flow.state_dict().items()}, new
    flow.load_state_dict(best)
    return flow


def fit_kernels(codes: Tensor, y: Tensor | None, heldout: Tensor, heldout_y: Tensor | None, classes: int) -> Kernels:
    """Kernels on codes (N, Z), at most `MOST_KERNELS` of them; the width by held-out likelihood."""
    some = spread_over(len(codes), MOST_KERNELS)
    prior = Kernels(codes.shape[1], (), classes, kernels=len(some))
    prior.set_codes(codes[some], None if y is None else y[some])
    return max(
        (of_width(prior, width) for width in WIDTHS),
        key=lambda one: float(one.log_prob(heldout, heldout_y).mean()),
    )


def fit_local(
    codes: Tensor, y: Tensor | None, views: Tensor, kinds: Tensor | None, classes: int
) -> LocalKernels:  # fmt: skip
    """Kernels on codes (N, Z), at most `MOST_KERNELS` of them, of the shape of the codes of items that look alike by
    their views (N, V), those of the same kind (N,) above all; of width 1."""
    some = spread_over(len(codes), MOST_KERNELS)
    prior = LocalKernels(codes.shape[1], (), classes, kernels=len(some), near=min(NEAR, len(some)))
    prior.set_codes(codes[some], None if y is None else y[some], views[some], None if kinds is None else kinds[some])
    return prior


@torch.no_grad()
def views_of(family: VAE, raw: Tensor, codes: Tensor) -> Tensor:
    """How raw items (N, *item) with codes (N, Z) `look` (N, V), a few at a time."""
    parts = chunks(raw, None, 500)
    return torch.cat([look(family.modality.encode(p), codes[k : k + len(p)]).cpu() for k, p, _ in parts])


def of_width(prior: Any, width: float) -> Any:
    """The same kernels, of another width."""
    options = {**options_of("", prior), "width": width}
    other = PRIORS[options.pop("kind")](prior.centres.shape[1], (), int(prior.labels is not None), **options)
    other.load_state_dict(prior.state_dict())
    return other


def spread_over(count: int, most: int) -> list[int]:
    """At most `most` rows out of `count`, evenly spread."""
    return [i * count // min(count, most) for i in range(min(count, most))]


def finer(prior: Any) -> Iterator[tuple[str, Any]]:
    """Kernels of several widths, by name: what is likely among codes need not look best. Whether they say the codes
    again is seen by their samples (`api.best_prior`)."""
    local = isinstance(prior, LocalKernels)
    for width in LOCAL_WIDTHS if local else [share * prior.width for share in FINER]:
        yield f"{'local ' * local}kernels {width:.2g}", of_width(prior, width)


FITS: dict[str, Callable[..., Any]] = {"gmm": fit_mixture, "flow": fit_flow, "kernels": fit_kernels, "local": fit_local}


def fit_domains(family: Any, train: Coded, heldout: Coded) -> dict[str, Any]:
    """Give a cycle VAE a flow that brings the codes of each domain to normal noise; returns what `model.flow` must say
    to build it again."""
    flow = fit_flow(*train, *heldout, family.classes)
    family.flow = flow.requires_grad_(False).eval().to(family.device)
    return options_of("flow", flow)


def options_of(name: str, prior: Any) -> dict[str, Any]:
    """What `model.sampler` must say to build a fitted prior again."""
    if isinstance(prior, LocalKernels):
        return {"kind": "local", "kernels": len(prior.centres), "width": prior.width, "near": prior.near.shape[1]}
    if isinstance(prior, Kernels):
        return {"kind": "kernels", "kernels": len(prior.centres), "width": prior.width}
    return {"kind": name} | (FLOW if name == "flow" else {"components": int(prior.weights.shape[1])})


Coded = tuple[Tensor, Tensor | None]
"""Top codes (N, Z) of items and their labels (N,) or None, on the processor."""


def candidates(
    family: VAE, train: Coded, heldout: Coded, likeness: tuple[Tensor, Tensor | None] | None, names: list[str]
) -> Iterator[tuple[str, dict[str, Any], Any]]:  # fmt: skip
    """(name, options, prior) of each prior that can make samples: the trained one (None), then those fitted here to
    the codes of training items, whose `views_of` and kinds (N,) 'local' needs."""
    if family.options.posterior == "normal" or not names:
        yield "trained", {}, None
    for name in names:
        beside = likeness if name == "local" else heldout
        assert beside is not None
        fitted = FITS[name](*train, *beside, family.code_classes)
        for called, prior in finer(fitted) if fitted.holds_codes else [(name, fitted)]:
            yield called, options_of(name, prior), prior.requires_grad_(False).eval().to(family.device)


@torch.no_grad()
def top_codes(family: VAE, raw: Tensor, y: Tensor | None, seed: int, sampled: bool = True) -> Coded:
    """One random code of the top layer, or the posterior's mean, for each raw item (N, *item), a few at a time."""
    parts = []
    for k, part, label in chunks(raw, y, 500):
        x = family.modality.encode(part)
        parts.append(family.encode(x, label, seed_of(seed, k), sampled)[:, : family.top_dim].cpu())
    return torch.cat(parts), None if y is None else y.cpu()
