"""What every image extractor does to items before its network sees them.

Shapes:  N items · C channels · H, W height and width · d features; items are uint8 (N, C, H, W)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from morphogen.errors import MorphogenError


def check_images(items: np.ndarray) -> np.ndarray:
    """The items themselves, or `MorphogenError` when they are not uint8 (N, C, H, W) with N ≥ 1 and H, W ≥ 4."""
    if items.dtype != np.uint8 or items.ndim != 4 or len(items) == 0 or min(items.shape[2:]) < 4:
        raise MorphogenError(
            f"Image features need at least one uint8 item of shape (N, C, H, W) with sides of 4 pixels or more, "
            f"not {items.dtype} {items.shape}; convert the items first."
        )
    return items


def batched(
    function: Callable[[Tensor], Tensor], items: np.ndarray, device: str = "cpu", size: int = 256
) -> np.ndarray:
    """Apply `function` to uint8 batches of the images without gradients: float32 (N, d)."""
    check_images(items)
    with torch.inference_mode():
        chunks = (torch.from_numpy(np.array(items[i : i + size])) for i in range(0, len(items), size))
        return torch.cat([function(chunk.to(device)).float().cpu() for chunk in chunks]).numpy()


def shrink(x: Tensor, longest: int) -> Tensor:
    """Images whose longer side exceeds `longest` are reduced to it by area averaging, aspect kept (sides ≥ 4)."""
    height, width = x.shape[2:]
    if max(height, width) <= longest:
        return x
    scale = longest / max(height, width)
    size = [max(4, round(side * scale)) for side in (height, width)]
    return F.interpolate(x.float(), size=size, mode="area").round().to(torch.uint8)


def to_unit(x: Tensor) -> Tensor:
    """uint8 to float32 in [−1, 1]."""
    return x.float() / 127.5 - 1


def to_three_channels(x: Tensor) -> Tensor:
    """Grey (with or without alpha) becomes three equal channels; colour loses its alpha, if any."""
    return x[:, :1].expand(-1, 3, -1, -1) if x.shape[1] < 3 else x[:, :3]


def digest(weights: Mapping[str, Tensor]) -> str:
    """Eight hex digits that name a set of weights."""
    total = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:8]
