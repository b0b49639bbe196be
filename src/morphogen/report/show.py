"""What a model makes, as blocks of a page: samples, reconstructions, translations, interpolations, a map of its codes.

Each function takes the model (and what of its data it needs) and gives blocks; none changes anything.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from morphogen.data.text import unpacked
from morphogen.domains import Data
from morphogen.families.vae import VAE
from morphogen.loop import modality_of, spaced
from morphogen.modalities import Audio
from morphogen.model import Model
from morphogen.report.charts import scatter
from morphogen.report.page import Drawing, Drawings, Picture, Sound, Sounds, Table, Texts, Words

SEED = 2024  # of what is shown here: none was chosen
HEARD, LINES = 10, 24
MOST_HEARD = 6  # rows of sounds side by side
WAYS, STATIONS = 4, 10  # interpolations, and items on each
PAIRS = 10
MAPPED, MOST_GROUPS = 500, 12
ENOUGH_FOR_TSNE = 400
MAP_ALT = "Map in two dimensions"


def kind_of(modality: Any) -> str:
    """image, audio, text or points, of the items: of codes those of the codec."""
    return getattr(modality, "items", modality).name


def sheet(raw: np.ndarray, modality: Any, columns: int) -> Pillow.Image:
    """Raw items, as the modality shows them, in rows of `columns`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png"
        modality.preview(raw, path, columns)
        with Pillow.open(path) as picture:
            return picture.copy()


def sounds(raw: np.ndarray, modality: Any, names: list[str], columns: int = 0) -> Sounds:
    """A player and a spectrogram for each of raw waves (N, C, T)."""
    sound: Audio = getattr(modality, "items", modality)
    return Sounds(
        [Sound(wave.T, sound.rate, name, sheet(wave[None], sound, 1)) for wave, name in zip(raw, names, strict=True)],
        columns,
    )


def lines(raw: np.ndarray) -> list[str]:
    return unpacked(np.asarray(raw))


def samples(model: Model, data: Data | None) -> list[Any]:
    """New items of the model, with its own settings; drawn by a fixed seed, none chosen."""
    kind, classes = kind_of(model.modality), model.classes
    count = {"audio": HEARD, "text": LINES, "points": 1000}.get(kind, 64)
    columns = len(classes) if 1 < len(classes) <= 16 else 8
    if kind == "image" and classes:
        count = 64 // columns * columns
    label = "all" if classes and kind != "points" else None
    raw = model.modality.raw(model.sample(count, SEED, label))
    told = [classes[i % len(classes)] if label else f"sample {i + 1}" for i in range(count)]
    note = "Drawn with one fixed seed and the model's own settings; none was chosen."
    if label:
        note += f" The labels follow one another: {', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}."
    if kind == "audio":
        return [Words(note), sounds(raw, model.modality, told)]
    if kind == "text":
        texts = [f"{t}: {line}" if label else line for t, line in zip(told, lines(raw), strict=True)]
        return [Words(note), Texts(texts)]
    if kind == "points":
        return [Words(note), _cloud(raw, data)]
    return [Words(note), Picture(sheet(raw, model.modality, columns), f"{count} samples in rows of {columns}")]


def _cloud(raw: np.ndarray, data: Data | None) -> Drawings:
    groups = {"samples": raw[:, :2]}
    if data is not None:
        groups = {"held-out data": data.heldout.data[spaced(len(data.heldout), len(raw))][:, :2]} | groups
    drawing = Drawing(scatter(groups, "Samples and held-out data, first two coordinates"), "first two coordinates")
    return Drawings([drawing], list(enumerate(groups)), wide=True)


def reconstructs(model: Model) -> bool:
    """Whether codes of items are at hand: a GAN finds them by search, which takes too long here."""
    return isinstance(model.family, VAE) or (model.description.family == "cycle_gan" and model.family.other is None)


def labels_of(model: Model, data: Data, rows: np.ndarray) -> list[str] | None:
    name = model.description.label
    if not model.classes or name not in data.heldout.labels:
        return None
    return [str(v) for v in np.asarray(data.heldout.labels[name])[rows]]


def reconstructions(model: Model, data: Data) -> list[Any]:
    """Held-out items and what the model makes of their codes."""
    rows = spaced(len(data.heldout), 20 if kind_of(model.modality) == "image" else PAIRS)
    raw = np.ascontiguousarray(data.heldout.data[rows])
    made = model.modality.raw(model.reconstruct(model.modality.array(raw), labels_of(model, data, rows), SEED))
    note = "Held-out items, which the model has not learned from, and what it makes of their codes."
    return [Words(note), *_side_by_side([raw, made], [model.modality] * 2, ["held-out item", "reconstruction"])]


def _side_by_side(columns: list[np.ndarray], modalities: list[Any], names: list[str]) -> list[Any]:
    """Items (N, …) and their counterparts: pictures in rows below one another, sounds and texts in columns."""
    kind = kind_of(modalities[0])
    if kind == "text":
        texts = [lines(column) for column in columns]
        return [Table(" → ".join(names), names, [list(row) for row in zip(*texts, strict=True)], wraps=True)]
    if kind == "audio":
        each = list(zip(*(column[:MOST_HEARD] for column in columns), strict=True))
        told = [f"{i + 1}: {name}" for i in range(len(each)) for name in names]
        return [sounds(np.concatenate([np.stack(row) for row in each]), modalities[0], told, len(names))]
    if kind == "points":
        groups = {name: column[:, :2] for name, column in zip(names, columns, strict=True)}
        return [Drawings([Drawing(scatter(groups, ", ".join(names)))], list(enumerate(groups)), wide=True)]
    shown = modalities[-1]
    each = [shown.stretched(column) if hasattr(shown, "stretched") else column for column in columns]
    width = min(len(columns[0]), PAIRS)
    parts = [np.concatenate([c[k : k + width] for c in each]) for k in range(0, len(columns[0]), width)]
    caption = f"In each group of {len(names)} rows, from top to bottom: {', '.join(names)}."
    return [Picture(sheet(np.concatenate(parts), getattr(shown, "items", shown), width), caption, caption)]


def translations(model: Model, data: Data) -> list[Any]:
    """Held-out items of each domain, what they become in the other, and again at home."""
    if model.domains:
        return _conversions(model, data)
    blocks: list[Any] = []
    assert data.other is not None
    for here, to, domain in (("a", "b", data), ("b", "a", data.other)):
        source, target = modality_of(model.family, here), modality_of(model.family, to)
        raw = np.ascontiguousarray(domain.heldout.data[spaced(len(domain.heldout), PAIRS)])
        there = model.translate(source.array(raw), to, SEED)
        back = source.raw(model.translate(there, here, SEED))
        names = [f"held-out item of {here}", f"as {to}", f"back in {here}"]
        blocks += [
            Words(f"From {here} to {to} and back:"),
            *_side_by_side([raw, target.raw(there), back], [source, target, source], names),
        ]
    return blocks


def _conversions(model: Model, data: Data) -> list[Any]:
    """Of a model whose labels are domains: items, and what they become in each (of sound and text in one)."""
    kind, modality = kind_of(model.modality), model.modality
    rows = spaced(len(data.heldout), PAIRS)
    raw, own = np.ascontiguousarray(data.heldout.data[rows]), labels_of(model, data, rows)
    domains = model.domains if kind == "image" else model.domains[:1]
    if kind in ("audio", "text") and own is not None:  # the next domain of each item's own
        known = model.domains
        to = [known[(known.index(d) + 1) % len(known)] for d in own]
        made = np.stack(
            [modality.raw(model.translate(modality.array(raw[i : i + 1]), to[i], SEED))[0] for i in range(len(to))]
        )
        blocks = _side_by_side([raw, made], [modality] * 2, ["held-out item", "in another domain"])
        ways = "; ".join(f"{i + 1}: {a} to {b}" for i, (a, b) in enumerate(zip(own, to, strict=True)))
        return [Words(f"Items converted to another domain. {ways}."), *blocks]
    made = [modality.raw(model.translate(modality.array(raw), domain, SEED)) for domain in domains[:12]]
    names = ["held-out item", *(f"as {domain}" for domain in domains[:12])]
    return _side_by_side([raw, *made], [modality] * (1 + len(made)), names)


def interpolations(model: Model) -> list[Any]:
    """Ways between random codes."""
    kind = kind_of(model.modality)
    ways, stations = (WAYS, STATIONS) if kind == "image" else (1, 6 if kind == "audio" else STATIONS)
    labels = model.classes or [None]
    parts, told = [], []
    for k in range(ways):
        label = labels[k * len(labels) // ways]
        ends = model.family.codes(2, SEED + k, model.labels(label, 2)).numpy()
        parts.append(model.modality.raw(model.interpolate(stations, SEED, ends, label)))
        told.append(label)
    note = "From one random code to another, along the sphere."
    if model.classes:
        note += f" Labels held: {', '.join(map(str, dict.fromkeys(told)))}."
    raw = np.concatenate(parts)
    if kind == "text":
        return [Words(note), Texts(lines(raw))]
    if kind == "audio":
        return [Words(note), sounds(raw, model.modality, [f"station {i + 1} of {stations}" for i in range(stations)])]
    if kind == "points":
        return []
    alt = f"{ways} interpolations, a row each, of {stations} items"
    return [Words(note), Picture(sheet(raw, model.modality, stations), alt)]


def code_map(model: Model, data: Data) -> list[Any]:
    """Codes of held-out items in two dimensions, by label."""
    rows = spaced(len(data.heldout), MAPPED)
    items = model.modality.array(np.ascontiguousarray(data.heldout.data[rows]))
    codes = model.encode(items, None if model.domains else labels_of(model, data, rows), SEED)
    flat, how = projected(codes)
    name = model.description.label or data.evaluation_label()
    groups = {"held-out items": flat}
    if name in data.heldout.labels:
        groups = grouped(flat, np.asarray(data.heldout.labels[name], str)[rows])
    by = f", coloured by {name}" if len(groups) > 1 else ""
    told = f"Codes of {len(flat)} held-out items ({codes.shape[1]} dimensions), by {how}{by}."
    return [Words(told), _map(groups, told)]


def feature_map(made: np.ndarray, real: np.ndarray, extractor: Any, names: tuple[str, str]) -> list[Any]:
    """Features of what a model made and of held-out data in two dimensions: where one colour is alone, the other does
    not reach."""
    count = min(len(made), len(real), MAPPED // 2)
    parts = [np.asarray(extractor.features(items[spaced(len(items), count)])) for items in (made, real)]
    flat, how = projected(np.concatenate(parts))
    groups = {names[1]: flat[count:], names[0]: flat[:count]}
    told = f"Features ({extractor.identity}) of {count} {names[0]} and as many {names[1]}, by {how}. "
    told += "Where one colour stands alone, the other does not reach."
    return [Words(told), _map(groups, told)]


def _map(groups: dict[str, np.ndarray], told: str) -> Drawings:
    legend = list(enumerate(groups)) if len(groups) > 1 else []
    return Drawings([Drawing(scatter(groups, f"{MAP_ALT}. {told}"))], legend, wide=True)


def projected(values: np.ndarray) -> tuple[np.ndarray, str]:
    """(N, D) → (N, 2), and how: as they are, t-SNE where there are enough, else the two main directions."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    values = values[:, values.std(0) > 1e-9] if (values.std(0) > 1e-9).sum() >= 2 else values
    if values.shape[1] <= 2:
        return np.pad(values, ((0, 0), (0, 2 - values.shape[1]))), "their own coordinates"
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    if len(values) < ENOUGH_FOR_TSNE:
        return centred @ axes[:2].T, "the two main directions (PCA)"
    from sklearn.manifold import TSNE

    main = centred @ axes[:30].T
    return TSNE(random_state=0, init="pca", max_iter=500, perplexity=30).fit_transform(main), "t-SNE"


def grouped(points: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Points (N, 2) by label; of many labels the most frequent, and all others together."""
    names, counts = np.unique(labels, return_counts=True)
    kept = sorted(names[np.argsort(-counts, kind="stable")][:MOST_GROUPS])
    groups = {str(name): points[labels == name] for name in kept}
    rest = ~np.isin(labels, kept)
    return groups | ({"others": points[rest]} if rest.any() else {})
