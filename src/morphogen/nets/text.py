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
        return self._logits(self.states(context, x), context.unsqueeze(1).expand(-1, x.shape[1], -1))

    def states(self, context: Tensor, x: Tensor) -> Tensor:
        """The state (B, T, H) before every token of x (B, T): what is known of those before it."""
        before = F.pad(x[:, :-1], (1, 0), value=BLANK)  # the blank stands for the beginning, the end for a hidden token
        if self.training and self.word_dropout:
            hidden = torch.rand(before.shape, device=x.device) < self.word_dropout
            hidden[:, 0] = False
            before = before.masked_fill(hidden, END)
        steps = context.unsqueeze(1).expand(-1, x.shape[1], -1)
        return self.gru(torch.cat([self.dropout(self.embedding(before)), steps], 2), self._start(context))[0]

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


class Places(Block):
    """What a network over places begins with: each place's symbol, and where it is, as H numbers. Without the second
    half a convolution cannot know that a place is the third of its line.

    forward: x (B, V, L) → (B, H, L).
    """

    def __init__(self, space: Space, hidden: int, kernel: int):
        super().__init__()
        self.symbols = nn.Conv1d(space[0], hidden, kernel, padding=kernel // 2)
        self.where = nn.Parameter(torch.zeros(hidden, space[1]))

    def reset_own_parameters(self) -> None:
        nn.init.normal_(self.where, std=0.5)
        nn.init.normal_(self.symbols.weight, std=self.symbols.kernel_size[0] ** -0.5)  # its input is one-hot

    def forward(self, x: Tensor) -> Tensor:
        return self.symbols(x) + self.where


class PlacesBlock(Block):
    """Two layers at each place beside a shortcut; the last one starts at zero."""

    def __init__(self, hidden: int):
        super().__init__()
        self.first = nn.Conv1d(hidden, hidden, 1)
        self.second = nn.Conv1d(hidden, hidden, 1)

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))


def body(space: Space, hidden: int, blocks: int, kernel: int) -> nn.Sequential:
    """What stands at `kernel` places and where, then residual blocks: (B, V, L) → (B, H, L)."""
    return nn.Sequential(Places(space, hidden, kernel), *(PlacesBlock(hidden) for _ in range(blocks)))


class PlacesTranslator(Role):
    """Symbol by symbol, by what it is and where it stands, with as many neighbours as `kernel` shows (Gomez et al.
    2018, CipherGAN, section 4)."""

    ranks = (2,)

    def __init__(self, space: Space, space_out: Space, *, hidden: int = 64, blocks: int = 1, kernel: int = 1):
        super().__init__()
        self.body = body(space, hidden, blocks, kernel)
        self.last = nn.Conv1d(hidden, space_out[0], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.leaky_relu(self.body(x), 0.2))


class PlacesCritic(Role):
    """A logit for each place, of the symbols around it: (B, L)."""

    ranks = (2,)

    def __init__(self, space: Space, classes: int = 0, *, hidden: int = 64, blocks: int = 1, kernel: int = 5):
        super().__init__()
        self.label = nn.Embedding(classes, hidden) if classes else None
        self.body = body(space, hidden, blocks, kernel)
        self.last = nn.Conv1d(hidden, 1, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.body[0](x)
        h = h if self.label is None else h * self.label(y).unsqueeze(2)  # to each class its own features
        h = F.leaky_relu(self.body[1:](h), 0.2)
        with torch.autocast(h.device.type, enabled=False):
            return self.last(h.float()).squeeze(1)


class PlacesEncoder(Role):
    """A code that keeps the places: of each item's latent variables, those of place 1, 2, … lie in turn, as many for
    each as are needed. What the item is made of, the share of each symbol, opens and shuts the features of its places:
    so the same symbol need not have the same code in an item of another kind. By how much an item differs from the
    others is what counts, hence the normalisation; without it every symbol begins with one code for all domains, and a
    decoder that copies it is hard to leave."""

    ranks = (2,)

    def __init__(
        self, space: Space, outputs: int, classes: int = 0, *, hidden: int = 64, blocks: int = 1, kernel: int = 5
    ):
        super().__init__()
        self.latent_dim = outputs // 2
        self.label = nn.Embedding(classes, hidden) if classes else None
        self.first, self.shares = body(space, hidden, blocks, kernel), nn.Linear(space[0] - 1, hidden, bias=False)
        self.normal = nn.BatchNorm1d(hidden)
        self.last = nn.Sequential(PlacesBlock(hidden), nn.Conv1d(hidden, 2 * depth_of(self.latent_dim, space), 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.first(x)
        h = h if self.label is None else h + self.label(y).unsqueeze(2)
        blank, symbols = x[:, BLANK : BLANK + 1], x[:, BLANK + 1 :]
        gate = (2 * self.normal(self.shares(F.normalize(symbols.sum(2), p=1.0)))).tanh().unsqueeze(2)
        both = self.last(h * torch.lerp(gate, torch.ones_like(gate), blank))  # (B, 2·C, L); a blank is none of a kind
        return torch.cat([part.flatten(1)[:, : self.latent_dim] for part in both.float().chunk(2, 1)], 1)


class PlacesDecoder(Block, Role):
    """The way back from a code that keeps the places, place by place: logits (B, V, L). Each domain weighs the features
    in its own way from the beginning, so that what is learned of one is no copy in another."""

    ranks = (2,)

    def __init__(self, space: Space, latent_dim: int, classes: int = 0, *, hidden: int = 64, blocks: int = 1):
        super().__init__()
        self.depth, self.places = depth_of(latent_dim, space), space[1]
        self.noise = ConditionedNoise(latent_dim, classes)  # its embedding is the domain's code
        self.label = nn.Linear(self.noise.out_dim - latent_dim, hidden, bias=False) if classes else None
        self.body = body((self.depth, space[1]), hidden, blocks, 1)
        self.last = nn.Conv1d(hidden, space[0], 1)

    def reset_own_parameters(self) -> None:
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=self.label.in_features**-0.5)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        code = F.pad(z, (0, self.depth * self.places - z.shape[1])).view(len(z), self.depth, self.places)
        h = self.body[0](code)
        if self.label is not None and self.noise.embedding is not None:
            h = h * self.label(self.noise.embedding(y)).unsqueeze(2)
        return self.last(F.leaky_relu(self.body[1:](h), 0.2))


def depth_of(latent_dim: int, space: Space) -> int:
    """Latent variables for each of the places."""
    return -(-latent_dim // space[1])


TEXT_ENCODERS: dict[str, Any] = {"gru": GRUEncoder, "silent": SilentEncoder, "places": PlacesEncoder}
TEXT_DECODERS: dict[str, Any] = {"gru": GRUDecoder, "places": PlacesDecoder}
