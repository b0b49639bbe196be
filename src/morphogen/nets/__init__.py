"""Networks: blocks, and the roles that families ask for."""

from morphogen.nets.priors import PRIORS
from morphogen.nets.roles import (
    CRITICS,
    DECODERS,
    DISCRIMINATORS,
    ENCODERS,
    GENERATORS,
    GUESSES,
    PAIR_CRITICS,
    PATCH_CRITICS,
    build_network,
    initialise,
)
from morphogen.nets.translators import TRANSLATORS

__all__ = ["CRITICS", "DECODERS", "DISCRIMINATORS", "ENCODERS", "GENERATORS", "GUESSES", "PAIR_CRITICS",
           "PATCH_CRITICS", "PRIORS", "TRANSLATORS", "build_network", "initialise"]  # fmt: skip
