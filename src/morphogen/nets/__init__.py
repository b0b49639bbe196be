"""Networks: blocks, and the roles that families ask for."""

from morphogen.nets.roles import DISCRIMINATORS, GENERATORS, build_network, initialise

__all__ = ["DISCRIMINATORS", "GENERATORS", "build_network", "initialise"]
