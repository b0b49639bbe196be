"""Modalities: the edge between raw items and the tensors that families work on."""

from morphogen.modalities.image import Image
from morphogen.modalities.points import Points

MODALITIES = {"image": Image, "points": Points}

__all__ = ["MODALITIES", "Image", "Points"]
