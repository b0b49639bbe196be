"""Families: who plays, what each player minimises, and how a sample is made."""

from morphogen.families.base import Family, Turn
from morphogen.families.gan import GAN

FAMILIES: dict[str, type[Family]] = {"gan": GAN}

__all__ = ["FAMILIES", "Family", "Turn"]
