"""Networks: blocks, and the roles that families ask for."""

from morphogen.nets.priors import PRIORS
from morphogen.nets.roles import DECODERS, DISCRIMINATORS, ENCODERS, GENERATORS, build_network, initialise

__all__ = ["DECODERS", "DISCRIMINATORS", "ENCODERS", "GENERATORS", "PRIORS", "build_network", "initialise"]
