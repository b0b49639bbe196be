"""Modalities: the edge between raw items and the tensors that families work on."""

from morphogen.modalities.audio import Audio
from morphogen.modalities.codes import Codes
from morphogen.modalities.image import Image
from morphogen.modalities.points import Points
from morphogen.modalities.text import Text

MODALITIES = {"audio": Audio, "image": Image, "points": Points, "text": Text}  # codes are another model's: see `Codes`

__all__ = ["MODALITIES", "Audio", "Codes", "Image", "Points", "Text"]
