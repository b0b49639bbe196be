"""Families: who plays, what each player minimises, and how a sample is made."""

from morphogen.families.base import Family, Turn
from morphogen.families.cycle_gan import CycleGAN
from morphogen.families.cycle_vae import CycleVAE
from morphogen.families.gan import GAN
from morphogen.families.vae import VAE

FAMILIES: dict[str, type[Family]] = {"gan": GAN, "vae": VAE, "cycle_gan": CycleGAN, "cycle_vae": CycleVAE}

__all__ = ["FAMILIES", "CycleGAN", "CycleVAE", "Family", "Turn"]
