"""Families: who plays, what each player minimises, and how a sample is made."""

from morphogen.families.base import Family, Turn
from morphogen.families.gan import GAN
from morphogen.families.vae import VAE

FAMILIES: dict[str, type[Family]] = {"gan": GAN, "vae": VAE}

__all__ = ["FAMILIES", "Family", "Turn"]
