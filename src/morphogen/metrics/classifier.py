"""Features of a small classifier trained on the user's own labels: in-domain, so they know what the classes are.

Shapes:  N items · C, H, W image (uint8) · K classes · d = 64 features
The classifier sees only the training split; its accuracy on the held-out split goes into its identity. It is cached
as one safetensors file whose header holds the description as JSON, so that the pair can never be half written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from morphogen.errors import UsageError
from morphogen.metrics.images import batched, check_images, digest, shrink, to_unit
from morphogen.nets.projected import SIDE, plan_of

VERSION = 1  # raise when network or training change: it is part of the cache key
BATCH = 128
STEPS = (200, 1500)  # the fewest and the most; between them, EPOCHS passes over the data
EPOCHS = 30
LEARNING_RATE = 4e-3


class ClassifierNet(nn.Module):
    """Five 3x3 convolutions with batch norm, a 2x2 pooling, a 64-d layer and the logits.

    side: the largest, in pixels, of the images that it sees: larger ones are reduced to it.
    """

    def __init__(self, channels: int, classes: int, side: int = SIDE):
        super().__init__()
        self.side, plan = side, plan_of(side)
        inputs = (channels, *(out for out, _ in plan))
        blocks = (_block(i, out, stride) for i, (out, stride) in zip(inputs, plan, strict=False))
        self.trunk = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        # no affine: each feature has variance 1 on the training data, which gives distances their scale
        self.embed = nn.Sequential(nn.Linear(512, 64, bias=False), nn.BatchNorm1d(64, affine=False))
        self.head = nn.Linear(64, classes)

    def embedding(self, x: Tensor) -> Tensor:
        """(B, 64) before the nonlinearity, from x (B, C, H, W) in [−1, 1]."""
        return self.embed(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.embedding(x)))


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class ClassifierFeatures:
    """The 64 features and the class probabilities of a trained `ClassifierNet`."""

    name = "classifier"

    def __init__(self, net: ClassifierNet, classes: list[str], accuracy: float, device: str = "cpu"):
        self.net = net.to(device).eval()
        self.classes, self.accuracy, self.device = classes, accuracy, device
        self.resize = f"images above {net.side} pixels reduced to {net.side} by area averaging, aspect kept"
        self.see: Callable[[np.ndarray], np.ndarray] = lambda items: items  # raw items → pictures, where they are none
        self.identity = f"classifier {digest(net.state_dict())} ({100 * accuracy:.1f} % right on held-out data)"

    def features(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, 64) from uint8 (N, C, H, W)."""
        return batched(lambda x: self.net.embedding(self._input(x)), self.see(items), self.device)

    def probabilities(self, items: np.ndarray) -> np.ndarray:
        """float32 (N, K), rows sum to 1, columns in the order of `classes`."""
        return batched(lambda x: self.net(self._input(x)).softmax(dim=1), self.see(items), self.device)

    def classes_of(self, features: np.ndarray) -> np.ndarray:
        """The class (N,) seen in items of these features (N, 64)."""
        with torch.no_grad():
            logits = self.net.head(F.relu(torch.from_numpy(features).to(self.device)))
        return logits.argmax(1).cpu().numpy()

    def _input(self, x: Tensor) -> Tensor:
        return to_unit(shrink(x, self.net.side)).contiguous(memory_format=torch.channels_last)


def train_classifier(
    train_items: np.ndarray,
    labels: np.ndarray,
    heldout_items: np.ndarray,
    heldout_labels: np.ndarray,
    *,
    fingerprint: str,
    seed: int = 0,
    autocast: bool = False,
    device: str = "cpu",
    wide: bool = False,
    side: int = SIDE,
) -> ClassifierFeatures:
    """A classifier of train_items (N, C, H, W) by labels (N,), from the cache or trained: a minute or so for MNIST.

    `fingerprint` names the data; the labels, shapes, seed and precision join it in the cache's key. `autocast` computes
    in bf16 while training (worth it where the processor has it); features are float32 always. `wide`: it is to know its
    classes in other domains, too (`warped`). `side`: see `ClassifierNet`.
    `UsageError` when there are fewer than two classes, or not one label per item.
    """
    if len(labels) != len(train_items) or len(heldout_labels) != len(heldout_items):
        raise UsageError("The classifier needs exactly one label per item; check the labels of both splits.")
    names, targets = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise UsageError("The classifier needs at least two classes; use the extractor 'random' for unlabelled data.")
    # by content, not by hash(): equal labels give equal keys in every process
    splits = ((train_items, labels), (heldout_items, heldout_labels))
    sets = [(list(items.shape), _label_hash(of)) for items, of in splits]
    key = hashlib.sha256(
        json.dumps(
            [VERSION, fingerprint, sets, seed, autocast, *(["wide"] * wide), *([side] * (side != SIDE))]
        ).encode()
    ).hexdigest()[:24]
    path = cache_folder() / f"classifier-{key}.safetensors"
    found = _load(path, device)
    if found is not None:
        return found
    net = _fit(check_images(train_items), targets, len(names), seed, autocast, device, wide, side)
    classes = [str(name) for name in names]
    trained = ClassifierFeatures(net, classes, 0.0, device)
    right = trained.probabilities(heldout_items).argmax(axis=1)
    accuracy = float(np.mean(names[right] == np.asarray(heldout_labels)))
    _save(path, net, {"classes": classes, "accuracy": accuracy, "channels": int(train_items.shape[1]), "side": side})
    return ClassifierFeatures(net, classes, accuracy, device)


def _fit(
    items: np.ndarray, targets: np.ndarray, classes: int, seed: int, autocast: bool, device: str, wide: bool, side: int
) -> ClassifierNet:
    """AdamW and one cycle of the learning rate; every draw is a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ClassifierNet(items.shape[1], classes, side)
    net = net.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    chunks = (torch.from_numpy(np.array(items[i : i + 4096])) for i in range(0, len(items), 4096))
    small = torch.cat([shrink(chunk, side) for chunk in chunks])
    wanted = torch.from_numpy(targets.astype(np.int64))
    steps = int(np.clip(EPOCHS * len(items) / BATCH, *STEPS)) * (2 if wide else 1)
    vary = warped if wide else translated
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(small), (BATCH,), generator=generator)
        x = to_unit(vary(small[rows], generator).to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=autocast):
            logits = net(x)
        loss = F.cross_entropy(logits.float(), wanted[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def translated(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of x (B, C, H, W) moved by up to 2 pixels (1 for small ones), edges repeated; never mirrored."""
    batch, channels, height, width = x.shape
    reach = min(2, min(height, width) // 8)
    padded = F.pad(x.float(), (reach,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator)  # (B, 1) each
    rows, columns = down + torch.arange(height), right + torch.arange(width)  # (B, H), (B, W)
    b, c = torch.arange(batch)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[b, c, rows[:, None, :, None], columns[:, None, None, :]]


def warped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of x (B, C, H, W) turned, sheared, scaled by 0.6 to 1.5 each way, moved, blurred and of another
    contrast, at random: what else the same thing may look like in another domain. Never mirrored."""
    batch = len(x)

    def between(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    angle, shear, down, right = between(-0.25, 0.25), between(-0.4, 0.4), between(-0.15, 0.15), between(-0.15, 0.15)
    tall, broad = (between(math.log(1 / 1.5), math.log(1 / 0.6)).exp() for _ in range(2))
    row = torch.stack([broad * angle.cos(), broad * (shear - angle.sin()), right], 1)
    column = torch.stack([tall * angle.sin(), tall * angle.cos(), down], 1)
    grid = F.affine_grid(torch.stack([row, column], 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share, factor = between(-0.5, 1.0)[:, None, None, None], between(0.7, 1.3)[:, None, None, None]
    mean = x.mean((2, 3), keepdim=True)
    return ((x.lerp(soft, share) - mean) * factor + mean).clamp(0, 255)


def cache_folder() -> Path:
    """`$MORPHOGEN_CACHE/extractors`, by default `~/.cache/morphogen/extractors`."""
    return Path(os.environ.get("MORPHOGEN_CACHE") or Path.home() / ".cache" / "morphogen") / "extractors"


def _label_hash(labels: np.ndarray) -> str:
    return hashlib.sha256(json.dumps([str(label) for label in labels]).encode()).hexdigest()


def _save(path: Path, net: ClassifierNet, about: dict) -> None:
    """Write the cache in one move; where the folder cannot be written the classifier is only trained again later."""
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    header = {"about": json.dumps(about | {"digest": digest(weights)}, sort_keys=True)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            save_file(weights, Path(folder) / path.name, metadata=header)
            os.replace(Path(folder) / path.name, path)
    except OSError:
        return


def _load(path: Path, device: str) -> ClassifierFeatures | None:
    """The cached classifier, or None when there is none or it is damaged in any way."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        if digest(weights) != about["digest"]:
            return None
        net = ClassifierNet(about["channels"], len(about["classes"]), about.get("side", SIDE))
        net.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return ClassifierFeatures(net, about["classes"], about["accuracy"], device)
