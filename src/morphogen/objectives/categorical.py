"""Likelihoods of text, made from a decoder's output; see `likelihoods`.

Shapes: B batch · V vocabulary · L places · T ≤ L places that a batch needs. Token 0 is the blank after the end, token 1
the end. Both are probabilities of the data's own symbols: they sum to one over all items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

BLANK, END = 0, 1


def straight_through(logits: Tensor) -> Tensor:
    """A sample of the softmax of logits (B, V, L), one-hot, whose gradient is that of the probabilities (Jang et al.
    2017, section 2.2): a critic cannot tell it from text by its being neither this symbol nor that, and a network that
    is undecided goes on trying."""
    noise = -torch.log(-torch.log(torch.rand_like(logits, dtype=torch.float32).clamp(1e-9, 1 - 1e-7)))
    p = (logits.float() + noise).softmax(1)
    return F.one_hot(p.argmax(1), p.shape[1]).transpose(1, 2).float() - p.detach() + p


class Categorical:
    """Independent places, for relaxed text: p(x|z) = Π_t softmax(output)_t[x_t]; the mode are the probabilities
    themselves."""

    discrete: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, output: Tensor, squash: Callable[[Tensor], Tensor], scale: Tensor):
        self.logits = output  # (B, V, L)

    @staticmethod
    def outputs(channels: int, components: int) -> int:
        return channels

    def log_prob(self, x: Tensor) -> Tensor:
        """x (B, V, L), one-hot or probabilities, → (B,)."""
        return (x * self.logits.log_softmax(1)).flatten(1).sum(1)

    def mode(self) -> Tensor:
        return self.logits.softmax(1)

    def relax(self) -> Tensor:
        """A differentiable sample (B, V, L)."""
        return straight_through(self.logits)

    def sample(self, generator: torch.Generator) -> Tensor:
        gumbel = -torch.log(-torch.log(torch.rand(self.logits.shape, generator=generator, device=self.logits.device)))
        tokens = (self.logits + gumbel).argmax(1)
        return F.one_hot(tokens, self.logits.shape[1]).transpose(1, 2).float()


class Autoregressive:
    """p(x|z) = Π_t p(x_t | x_<t, z) up to the end, which must come at the last place if not before.

    decoder: answers `read(context, x) → logits (B, T, V)` and `step(context, token, state) → (logits, state)`.
    Items are token numbers (B, L). There is no cheap `relax()`: a sample carries no gradient.
    """

    discrete: ClassVar[bool] = True
    carries_gradient: ClassVar[bool] = False  # of what a critic says of a sample
    ranks: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, decoder: Any, context: Tensor):
        self.decoder, self.context = decoder, context

    @staticmethod
    def outputs(channels: int, components: int) -> int:
        return channels

    def log_prob(self, x: Tensor) -> Tensor:
        """x (B, L) → (B,)."""
        places = x.shape[1]
        x = x[:, : int((x != BLANK).sum(1).max())]
        logits = _possible(self.decoder.read(self.context, x).float())
        each = logits.log_softmax(2).gather(2, x.unsqueeze(2)).squeeze(2)
        counts = x != BLANK
        if x.shape[1] == places:  # nothing but the end can stand at the last place
            counts = counts & (torch.arange(places, device=x.device) < places - 1)
        return torch.where(counts, each, 0.0).sum(1)

    @torch.no_grad()
    def mode(self) -> Tensor:
        """The likeliest token at each place, given those before (B, L)."""
        return self._unrolled(lambda logits, _: logits.argmax(1))

    @torch.no_grad()
    def sample(self, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
        """Tokens (B, L) drawn by numbers `uniform` (B, L) between 0 and 1; temperature: of the logits; top_p: only the
        likeliest tokens that hold so much probability (Holtzman et al. 2020, section 3.1)."""

        def draw(logits: Tensor, place: int) -> Tensor:
            p = (logits / temperature).softmax(1)
            if top_p < 1:
                likely, order = p.sort(1, descending=True)
                p = p.scatter(1, order, torch.where(likely.cumsum(1) - likely < top_p, likely, 0.0))
            total = p.cumsum(1)
            chosen = torch.searchsorted(total, uniform[:, place, None] * total[:, -1:], right=True)
            return chosen.squeeze(1).clamp_max(p.shape[1] - 1)  # where rounding has made of u · total the total

        return self._unrolled(draw)

    def _unrolled(self, choose: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Tokens (B, L), one place after the other."""
        batch, places = len(self.context), self.decoder.places
        tokens = torch.zeros(batch, places, dtype=torch.long, device=self.context.device)
        going = torch.ones(batch, dtype=torch.bool, device=self.context.device)
        state, last = None, tokens[:, 0]
        for place in range(places):
            logits, state = self.decoder.step(self.context, last, state)
            last = choose(_possible(logits.float()), place)
            if place == places - 1:
                last = torch.full_like(last, END)
            tokens[:, place] = torch.where(going, last, BLANK)
            going = going & (last != END)
            if not going.any():
                break
        return tokens


def _possible(logits: Tensor) -> Tensor:
    """Logits (…, V) in which a blank, which stands after the end only, cannot be."""
    mask = torch.zeros(logits.shape[-1], device=logits.device)
    mask[BLANK] = -torch.inf
    return logits + mask
