"""From a user's files to one uint8 array with names and labels: open_source → prepare → split → batch_indices."""

from morphogen.data.check import check_source
from morphogen.data.dataset import Dataset, prepare, split
from morphogen.data.images import BadItem
from morphogen.data.sampler import batch_indices
from morphogen.data.sources import Source, open_source

__all__ = ["BadItem", "Dataset", "Source", "batch_indices", "check_source", "open_source", "prepare", "split"]
