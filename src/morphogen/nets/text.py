"""Networks for text, by kind: recurrent ones for tokens, convolutions over the places for relaxed text.

    encoder   x (B, L) token numbers, or (B, V, L) probabilities, → (B, outputs)
    decoder   z (B, Z) → what its likelihood needs; `gru` → context (B, Z'), `places` → logits (B, V, L)
    translator, critic, generator over places   x (B, V, L) → (B, V', L), (B, L'), from z (B, Z) → (B, V, L)

Shapes: B batch · V vocabulary · L places · T places in use · E embedding · H hidden · K classes (0: no labels)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from morphogen.nets.blocks import Block, ConditionedNoise, Role, Space, Summary
from morphogen.objectives.categorical import BLANK, END, Autoregressive


class GRUEncoder(Role):
    """A bidirectional GRU; the largest value of each of its units over the places tells of the item."""

    ranks = (2,)

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, hidden: int = 128, embed: int = 128, dropout: float = 0.2
    ):
        super().__init__()
        self.embedding = nn.Embedding(space[0], embed)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(embed, hidden, batch_first=True, bidirectional=True)
        self.summary = Summary(2 * hidden, outputs, classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        tokens = x if x.dim() == 2 else x.argmax(1)
        used = int((tokens != BLANK).sum(1).max().clamp_min(1))
        x = self.embedding(x[:, :used]) if x.dim() == 2 else x[:, :, :used].transpose(1, 2) @ self.embedding.weight
        states, _ = self.gru(self.dropout(x))  # (B, T, 2H)
        blank = (tokens[:, :used] == BLANK).unsqueeze(2)
        return self.summary(states.float().masked_fill(blank, -1.0).amax(1), y)  # a GRU's states lie above −1


class SilentEncoder(Role):
    """Says nothing: every posterior is the standard normal prior. With a blind decoder it makes a language model of a
    VAE: the KL is 0 and the bound is the likelihood itself."""

    ranks = (2,)

    def __init__(self, space: Space, outputs: int, classes: int = 0):
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.zeros(len(x), self.outputs, device=x.device)


class GRUDecoder(Block, Role):
    """An autoregressive GRU that sees z at every step; the likelihood is `Autoregressive`.

    word_dropout: share of the tokens it is not shown while training (Bowman et al. 2016, section 3.2).
    blind: it does not see z: a language model of the same size.
    """

    ranks = (2,)

    def __init__(
        self, space: Space, latent_dim: int, classes: int = 0, *, hidden: int = 256, embed: int = 128, layers: int = 1,
        dropout: float = 0.2, word_dropout: float = 0.1, blind: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.places, self.word_dropout, self.blind = space[1], word_dropout, blind
        self.noise = ConditionedNoise(latent_dim, classes)
        self.embedding = nn.Embedding(space[0], embed)
        self.dropout = nn.Dropout(dropout)
        self.start = nn.Linear(self.noise.out_dim, layers * hidden)
        self.gru = nn.GRU(embed + self.noise.out_dim, hidden, layers, batch_first=True, dropout=dropout * (layers > 1))
        self.last = nn.Linear(hidden + self.noise.out_dim, embed)
        self.bias = nn.Parameter(torch.zeros(space[0]))

    def reset_own_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)  # it makes the logits, too
        nn.init.zeros_(self.bias)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.noise(0 * z if self.blind else z, y)

    def likelihood(self, output: Tensor) -> Autoregressive:
        """p(x|z) of what `forward` gave."""
        return Autoregressive(self, output)

    def read(self, context: Tensor, x: Tensor) -> Tensor:
        """The logits (B, T, V) of every token of x (B, T) given those before it."""
        before = F.pad(x[:, :-1], (1, 0), value=BLANK)  # the blank stands for the beginning, the end for a hidden token
        if self.training and self.word_dropout:
            hidden = torch.rand(before.shape, device=x.device) < self.word_dropout
            hidden[:, 0] = False
            before = before.masked_fill(hidden, END)
        steps = context.unsqueeze(1).expand(-1, x.shape[1], -1)
        states, _ = self.gru(torch.cat([self.dropout(self.embedding(before)), steps], 2), self._start(context))
        return self._logits(states, steps)

    def step(self, context: Tensor, token: Tensor, state: Tensor | None) -> tuple[Tensor, Any]:
        """The logits (B, V) of the token after `token` (B,), and the state after it."""
        state = self._start(context) if state is None else state
        seen = torch.cat([self.embedding(token), context], 1).unsqueeze(1)
        states, state = self.gru(seen, state)
        return self._logits(states, context.unsqueeze(1)).squeeze(1), state

    def _start(self, context: Tensor) -> Tensor:
        start = self.start(context).tanh().view(len(context), self.gru.num_layers, -1)
        return start.transpose(0, 1).contiguous()

    def _logits(self, states: Tensor, steps: Tensor) -> Tensor:
        features = self.dropout(self.last(torch.cat([self.dropout(states), steps], 2)))
        return F.linear(features, self.embedding.weight, self.bias)


TEXT_ENCODERS: dict[str, Any] = {"gru": GRUEncoder, "silent": SilentEncoder}
TEXT_DECODERS: dict[str, Any] = {"gru": GRUDecoder}
