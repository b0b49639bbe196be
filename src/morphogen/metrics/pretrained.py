"""Features of two large published networks, from weights that the user has as safetensors files.

Shapes:  B items · C channels · T tokens · W width of the transformer · d features
`InceptionFeatures` is the FID network: torchvision's Inception-v3 with the changes of the original TensorFlow graph,
in the key names of pytorch-fid. `Dinov2Features` is DINOv2 in its authors' key names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from morphogen.errors import MorphogenError
from morphogen.metrics.images import batched, digest, to_three_channels

Weights = Mapping[str, Tensor]


class InceptionFeatures:
    """The 2048 pooled features of Inception-v3 in its FID variant (Heusel et al. 2017)."""

    name = "inception"
    resize = "stretched to 299x299, bilinear"

    def __init__(self, path: str | Path, device: str = "cpu"):
        self.net = InceptionV3()
        wanted = {key: value.shape for key, value in self.net.state_dict().items() if "num_batches" not in key}
        weights = read_weights(path, wanted, "the FID Inception-v3")
        self.net.load_state_dict(weights, strict=False)  # only the batch counters, which are not used, are missing
        self.net, self.device = self.net.to(device).eval(), device
        self.identity = f"inception-v3 {digest(weights)}"

    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, 2048) from uint8 (N, C, H, W); grey is repeated to three channels."""
        return batched(self._forward, items, self.device, size=32)

    def _forward(self, x: Tensor) -> Tensor:
        x = to_three_channels(x).float() / 255
        return self.net(F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) * 2 - 1)


class Dinov2Features:
    """The class token of a DINOv2 vision transformer (Oquab et al. 2023, 2304.07193) of any depth and width."""

    name = "dinov2"
    resize = "stretched to 224x224, bicubic"

    def __init__(self, path: str | Path, device: str = "cpu"):
        weights = _read_file(path)
        if "register_tokens" in weights:
            raise MorphogenError(f"'{path}' is a DINOv2 with register tokens; use the weights of one without.")
        check_weights(path, weights, vit_shapes(path, weights), "DINOv2")
        self.weights = {key: value.float().to(device) for key, value in weights.items()}
        self.device = device
        self.identity = f"dinov2 {weights['cls_token'].shape[-1]}-d {digest(weights)}"

    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, W) from uint8 (N, C, H, W); grey is repeated to three channels."""
        return batched(self._forward, items, self.device, size=32)

    def _forward(self, x: Tensor) -> Tensor:
        x = to_three_channels(x).float() / 255
        x = F.interpolate(x, size=(224, 224), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        mean, deviation = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])  # ImageNet's
        return vit_class_token(self.weights, (x - mean[:, None, None]) / deviation[:, None, None])


# ---------------------------------------------------------------- weights


def read_weights(path: str | Path, wanted: Mapping[str, torch.Size], title: str) -> dict[str, Tensor]:
    """The wanted tensors of a safetensors file; `MorphogenError` when one is missing or has another shape."""
    weights = _read_file(path)
    check_weights(path, weights, wanted, title)
    return {key: weights[key] for key in wanted}


def check_weights(path: str | Path, weights: Weights, wanted: Mapping[str, tuple[int, ...]], title: str) -> None:
    for key, shape in wanted.items():
        if key not in weights:
            raise MorphogenError(f"'{path}' lacks the tensor '{key}' of {title}; give the weights of that network.")
        if tuple(weights[key].shape) != tuple(shape):
            raise MorphogenError(
                f"In '{path}' the tensor '{key}' has the shape {tuple(weights[key].shape)} where {title} "
                f"has {tuple(shape)}; give the weights of that network."
            )


def _read_file(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MorphogenError(f"Cannot read '{path}' as a safetensors file ({error}); check the path.") from error


# ---------------------------------------------------------------- Inception-v3 (Szegedy et al. 2015, 1512.00567)


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU: the only layer with weights. Stride 1 keeps the size unless `valid`."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, valid: bool = False):
        super().__init__()
        padding = (0, 0) if valid or stride > 1 else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


# A branch is a chain of "name:outputs:kernel[/stride]"; "a|b" ends it in two layers side by side, concatenated.
# "{p}", "{c}" are the block's own numbers.
BLOCK_A = (
    "branch1x1:64:1x1",
    "branch5x5_1:48:1x1 branch5x5_2:64:5x5",
    "branch3x3dbl_1:64:1x1 branch3x3dbl_2:96:3x3 branch3x3dbl_3:96:3x3",
    "average branch_pool:{p}:1x1",
)
BLOCK_B = ("branch3x3:384:3x3/2", "branch3x3dbl_1:64:1x1 branch3x3dbl_2:96:3x3 branch3x3dbl_3:96:3x3/2", "halve")
BLOCK_C = (
    "branch1x1:192:1x1",
    "branch7x7_1:{c}:1x1 branch7x7_2:{c}:1x7 branch7x7_3:192:7x1",
    "branch7x7dbl_1:{c}:1x1 branch7x7dbl_2:{c}:7x1 branch7x7dbl_3:{c}:1x7 "
    "branch7x7dbl_4:{c}:7x1 branch7x7dbl_5:192:1x7",
    "average branch_pool:192:1x1",
)
BLOCK_D = (
    "branch3x3_1:192:1x1 branch3x3_2:320:3x3/2",
    "branch7x7x3_1:192:1x1 branch7x7x3_2:192:1x7 branch7x7x3_3:192:7x1 branch7x7x3_4:192:3x3/2",
    "halve",
)
BLOCK_E = (
    "branch1x1:320:1x1",
    "branch3x3_1:384:1x1 branch3x3_2a:384:1x3|branch3x3_2b:384:3x1",
    "branch3x3dbl_1:448:1x1 branch3x3dbl_2:384:3x3 branch3x3dbl_3a:384:1x3|branch3x3dbl_3b:384:3x1",
    "{pool} branch_pool:192:1x1",
)
POOLS = {
    "average": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),  # as TensorFlow's graph, not torchvision's
    "maximum": lambda x: F.max_pool2d(x, 3, 1, 1),
    "halve": lambda x: F.max_pool2d(x, 3, 2),
}
MIXED = (  # name, branches, input channels
    ("Mixed_5b", [branch.format(p=32) for branch in BLOCK_A], 192),
    ("Mixed_5c", [branch.format(p=64) for branch in BLOCK_A], 256),
    ("Mixed_5d", [branch.format(p=64) for branch in BLOCK_A], 288),
    ("Mixed_6a", BLOCK_B, 288),
    ("Mixed_6b", [branch.format(c=128) for branch in BLOCK_C], 768),
    ("Mixed_6c", [branch.format(c=160) for branch in BLOCK_C], 768),
    ("Mixed_6d", [branch.format(c=160) for branch in BLOCK_C], 768),
    ("Mixed_6e", [branch.format(c=192) for branch in BLOCK_C], 768),
    ("Mixed_7a", BLOCK_D, 768),
    ("Mixed_7b", [branch.format(pool="average") for branch in BLOCK_E], 1280),
    ("Mixed_7c", [branch.format(pool="maximum") for branch in BLOCK_E], 2048),  # the other change of the FID graph
)


class Mixed(nn.Module):
    """One inception block: branches side by side, outputs concatenated over channels in the order given."""

    def __init__(self, branches: list[str] | tuple[str, ...], inputs: int):
        super().__init__()
        self.plan = [[step.split("|") for step in branch.split()] for branch in branches]
        for branch in self.plan:
            channels = inputs
            for step in branch:
                widths = [self._add(layer, channels) for layer in step if layer not in POOLS]
                channels = sum(widths) or channels

    def _add(self, layer: str, inputs: int) -> int:
        name, outputs, shape = layer.split(":")
        kernel, _, stride = shape.partition("/")
        height, width = map(int, kernel.split("x"))
        self.add_module(name, ConvNorm(inputs, int(outputs), (height, width), int(stride or 1)))
        return int(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._run(branch, x) for branch in self.plan], dim=1)

    def _run(self, branch: list[list[str]], x: Tensor) -> Tensor:
        for step in branch:
            layers = [POOLS.get(layer) or self.get_submodule(layer.partition(":")[0]) for layer in step]
            x = torch.cat([layer(x) for layer in layers], dim=1)
        return x


class InceptionV3(nn.Module):
    """(B, 3, 299, 299) in [−1, 1] → (B, 2048)."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3), valid=True)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3), valid=True)
        for name, branches, inputs in MIXED:
            self.add_module(name, Mixed(branches, inputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))  # (B, 192, 71, 71)
        x = F.max_pool2d(x, 3, 2)  # (B, 192, 35, 35)
        for name, _, _ in MIXED:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


# ---------------------------------------------------------------- DINOv2


def vit_shapes(path: str | Path, weights: Weights) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a DINOv2 with this file's width, depth, patch, hidden width and positions."""
    for key in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"):
        if key not in weights:
            raise MorphogenError(f"'{path}' lacks the tensor '{key}' of DINOv2; give the weights of that network.")
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    if width % 64:
        raise MorphogenError(f"'{path}' has the width {width}, but DINOv2's heads are 64 wide; give its weights.")
    hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, weights["pos_embed"].shape[1], width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }
    for n in range(_depth(weights)):
        for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{n}.{part}"] = (width,)
        for part, shape in linear.items():
            shapes |= {f"blocks.{n}.{part}.weight": shape, f"blocks.{n}.{part}.bias": shape[:1]}
    return shapes


def vit_class_token(w: Weights, x: Tensor) -> Tensor:
    """(B, 3, H, W) normalised → the class token after the last norm (B, width)."""
    patch = w["patch_embed.proj.weight"].shape[-1]
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    positions = _positions(w["pos_embed"], x.shape[-1])
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + positions  # (B, T, W)
    for n in range(_depth(w)):
        block = {key.removeprefix(f"blocks.{n}."): value for key, value in w.items() if key.startswith(f"blocks.{n}.")}
        x = x + block["ls1.gamma"] * _attention(block, _norm(block, "norm1", x))
        hidden = F.gelu(_linear(block, "mlp.fc1", _norm(block, "norm2", x)))
        x = x + block["ls2.gamma"] * _linear(block, "mlp.fc2", hidden)
    return _norm(w, "norm", x[:, 0])


def _attention(w: Weights, x: Tensor) -> Tensor:
    batch, tokens, width = x.shape
    qkv = _linear(w, "attn.qkv", x).view(batch, tokens, 3, width // 64, 64).permute(2, 0, 3, 1, 4)  # 64 per head
    mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # (B, heads, T, 64)
    return _linear(w, "attn.proj", mixed.transpose(1, 2).reshape(batch, tokens, width))


def _positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + S·S, W) for a grid of side², interpolated as the authors do (offset 0.1)."""
    known = round((positions.shape[1] - 1) ** 0.5)
    if known == side:
        return positions
    grid = positions[:, 1:].reshape(1, known, known, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(side + 0.1) / known, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _depth(w: Weights) -> int:
    return 1 + max(int(key.split(".")[1]) for key in w if key.startswith("blocks."))


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)
