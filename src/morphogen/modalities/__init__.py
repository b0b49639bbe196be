"""Modalities: the edge between raw items and the tensors that families work on."""

from morphogen.modalities.codes import Codes
from morphogen.modalities.image import Image
from morphogen.modalities.points import Points
from morphogen.modalities.text import Text

MODALITIES = {"image": Image, "points": Points, "text": Text}  # codes are made of another model: see `Codes`

__all__ = ["MODALITIES", "Codes", "Image", "Points", "Text"]
