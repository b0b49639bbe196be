"""What a model makes, as blocks of a page: samples, reconstructions, translations, interpolations, a map of its codes.

Shapes: N items · raw items as their modality holds them: images (N, C, H, W), sound (N, C, T), text bytes (N, M),
points (N, D)
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
from morphogen.judges import extractors_for
from morphogen.loop import modality_of, spaced
from morphogen.model import Model
from morphogen.report.charts import Scatter
from morphogen.report.page import Block, Heading, Map, Picture, Sound, Sounds, Table, Texts, Words

SEED = 2024  # of what is shown here: none was chosen
COUNT = {"image": 64, "audio": 10, "text": 24, "points": 1000}  # samples
WAYS = {"image": (4, 10), "audio": (1, 6), "text": (1, 10), "points": (4, 10)}  # interpolations, and items on each
COLUMNS, MOST_COLUMNS = 8, 16  # of samples
PAIRS, MOST_HEARD = 10, 6  # items side by side, and rows of sounds
MAPPED, MOST_GROUPS = 500, 12
ENOUGH_FOR_TSNE = 400


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


def shown(raw: np.ndarray, modality: Any, names: list[str], columns: int, caption: str) -> Block:
    """Raw items in rows of `columns`; text and sound by their names."""
    items = getattr(modality, "items", modality)
    if items.name == "text":
        return Texts([f"{name}: {line}" if name else line for name, line in zip(names, unpacked(raw), strict=True)])
    if items.name == "audio":
        pictures = [sheet(wave[None], items, 1) for wave in raw]
        return Sounds([Sound(raw[i].T, items.rate, names[i], pictures[i]) for i in range(len(raw))], columns)
    if items.name == "points":
        return Map(Scatter({"": raw[:, :2]}, caption))
    return Picture(sheet(raw, items, columns), caption)


def samples(model: Model) -> list[Block]:
    """New items of the model, with its own settings; drawn by a fixed seed, none chosen."""
    kind, classes = kind_of(model.modality), model.classes
    columns = len(classes) if 1 < len(classes) <= MOST_COLUMNS else COLUMNS
    count = COUNT[kind] // columns * columns if kind == "image" else COUNT[kind]
    names = [classes[i % len(classes)] for i in range(count)] if classes else [""] * count
    raw = model.modality.raw(model.sample(count, SEED, names if classes else None))
    note, tries = "Drawn with one fixed seed and the model's own settings; ", model.description.sample.get("tries", 1)
    note += "none was chosen." if tries == 1 else f"of every {tries} the model's discriminator chose one, nobody else."
    if classes:
        note += f" The labels follow one another: {', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}."
    elif kind == "audio":
        names = [f"sample {i + 1}" for i in range(count)]
    caption = f"{count} samples in rows of {columns}"
    return [Words(note), shown(raw, model.modality, names, 0 if kind == "audio" else columns, caption)]


def interpolations(model: Model) -> list[Block]:
    """Ways between random codes."""
    kind = kind_of(model.modality)
    ways, stations = WAYS[kind]
    labels: list[Any] = (
        [model.classes[k * len(model.classes) // ways] for k in range(ways)] if model.classes else [None]
    )
    parts = []
    for k in range(ways):
        label = labels[k % len(labels)]
        ends = model.family.codes(2, SEED + k, model.labels(label, 2)).numpy()
        parts.append(model.modality.raw(model.interpolate(stations, SEED, ends, label)))
    note = "From one random code to another, along the sphere."
    note += f" Labels held: {', '.join(dict.fromkeys(labels))}." if model.classes else ""
    names = [f"station {i + 1} of {stations}" if kind == "audio" else "" for i in range(stations)] * ways
    columns = 0 if kind == "audio" else stations
    caption = f"{ways} interpolations, a row each, of {stations} items"
    return [Words(note), shown(np.concatenate(parts), model.modality, names, columns, caption)]


def reconstructs(model: Model) -> bool:
    """Whether codes of items are at hand: a GAN finds them by search, which takes too long here."""
    return isinstance(model.family, VAE) or (model.description.family == "cycle_gan" and model.family.other is None)


def labels_of(model: Model, data: Data, rows: np.ndarray) -> list[str] | None:
    """The labels of held-out items, where the model knows labels."""
    name = model.description.label
    if not model.classes or name not in data.heldout.labels:
        return None
    return [str(value) for value in np.asarray(data.heldout.labels[name])[rows]]


def heldout(data: Data, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, raw items) of evenly spaced held-out items."""
    rows = spaced(len(data.heldout), count)
    return rows, np.ascontiguousarray(data.heldout.data[rows])


def reconstructions(model: Model, data: Data) -> list[Block]:
    """Held-out items and what the model makes of their codes."""
    rows, raw = heldout(data, 2 * PAIRS if kind_of(model.modality) == "image" else PAIRS)
    made = model.modality.raw(model.reconstruct(model.modality.array(raw), labels_of(model, data, rows), SEED))
    note = "Held-out items, which the model has not learned from, and what it makes of their codes."
    return [Words(note), side_by_side({"held-out item": raw, "reconstruction": made}, model.modality)]


def side_by_side(columns: dict[str, np.ndarray], modality: Any) -> Block:
    """Items (N, …) and their counterparts, by name: pictures in rows below one another, in the size and colours of
    `modality`, sounds and texts in columns."""
    kind, names, parts = kind_of(modality), list(columns), list(columns.values())
    if kind == "text":
        return Table("", names, [list(row) for row in zip(*map(unpacked, parts), strict=True)], wraps=True)
    if kind == "audio":
        each = np.stack([part[:MOST_HEARD] for part in parts], 1)  # (N, columns, C, T)
        told = [f"{i + 1}: {name}" for i in range(len(each)) for name in names]
        return shown(each.reshape(-1, *each.shape[2:]), modality, told, len(names), "")
    if kind == "points":
        return Map(Scatter({name: part[:, :2] for name, part in columns.items()}, ", ".join(names)))
    items = getattr(modality, "items", modality)
    parts = [items.stretched(part) for part in parts]
    groups = [np.concatenate([part[k : k + PAIRS] for part in parts]) for k in range(0, len(parts[0]), PAIRS)]
    told = "From top to bottom" if len(groups) == 1 else f"In each group of {len(names)} rows, from top to bottom"
    caption = f"{told}: {', '.join(names)}."
    return Picture(sheet(np.concatenate(groups), items, min(len(parts[0]), PAIRS)), caption, caption)


def translations(model: Model, data: Data) -> list[Block]:
    """Held-out items of each domain, what they become in the other, and again at home."""
    if model.domains:
        return conversions(model, data)
    blocks: list[Block] = []
    assert data.other is not None
    for here, to, domain in (("a", "b", data), ("b", "a", data.other)):
        source, target = modality_of(model.family, here), modality_of(model.family, to)
        _, raw = heldout(domain, PAIRS)
        there = model.translate(source.array(raw), to, SEED)
        back = source.raw(model.translate(there, here, SEED))
        columns = {f"held-out item of {here}": raw, f"as {to}": target.raw(there), f"back in {here}": back}
        blocks += [Heading(f"From {here} to {to} and back"), side_by_side(columns, source)]
    return blocks


def conversions(model: Model, data: Data) -> list[Block]:
    """Of a model whose labels are domains: pictures in each domain, sound and text in the one after their own."""
    modality, known = model.modality, model.domains[:MOST_GROUPS]
    rows, raw = heldout(data, PAIRS)
    own = labels_of(model, data, rows)
    convert = lambda items, to: modality.raw(model.translate(modality.array(items), to, SEED))
    if kind_of(modality) == "image" or own is None:
        return [side_by_side({"held-out item": raw} | {f"as {to}": convert(raw, to) for to in known}, modality)]
    to = [model.domains[(model.domains.index(domain) + 1) % len(model.domains)] for domain in own]
    made = np.concatenate([convert(raw[i : i + 1], to[i]) for i in range(len(to))])
    ways = "; ".join(f"{i + 1}: {a} to {b}" for i, (a, b) in enumerate(zip(own, to, strict=True)))
    columns = {"held-out item": raw, "in another domain": made}
    return [Words(f"Items converted to another domain. {ways}."), side_by_side(columns, modality)]


def code_map(model: Model, data: Data) -> list[Block]:
    """Codes of held-out items in two dimensions, by label."""
    rows, raw = heldout(data, MAPPED)
    codes = model.encode(model.modality.array(raw), None if model.domains else labels_of(model, data, rows), SEED)
    flat, how = projected(codes)
    name, groups = model.description.label or data.evaluation_label(), {"held-out items": flat}
    if name in data.heldout.labels:
        groups = grouped(flat, np.asarray(data.heldout.labels[name], str)[rows])
        how += f", coloured by {name}"
    told = f"Codes of {len(flat)} held-out items ({codes.shape[1]} dimensions), by {how}."
    return [Words(told), Map(Scatter(groups, told))]


def feature_map(model: Model, data: Data, extractors: dict[str, Any] | None) -> list[Block]:
    """Features of what a model makes and of held-out data in two dimensions; without extractors, by one that needs no
    training: a report is read at once."""
    text = model.modality.suffix == ".txt"
    seen = extractors or extractors_for("auto" if text else "random", data, None, model.family)
    if data.other is None:
        extractor, names, target = seen["a"], ("held-out items", "samples"), data
        made = model.modality.raw(model.sample(MAPPED // 2, SEED))
    else:
        extractor, names, target = seen["b"], ("held-out items of b", "translations a to b"), data.other
        there = model.translate(model.modality.array(heldout(data, MAPPED // 2)[1]), "b", SEED)
        made = modality_of(model.family, "b").raw(there)
    count = min(len(made), len(target.heldout), MAPPED // 2)
    parts = [heldout(target, count)[1], made[spaced(len(made), count)]]
    flat, how = projected(np.concatenate([np.asarray(extractor.features(part)) for part in parts]))
    told = f"Features ({extractor.identity}) of {count} {names[0]} and as many {names[1]}, by {how}. "
    told += "Where one colour stands alone, the other does not reach."
    return [Words(told), Map(Scatter(dict(zip(names, (flat[:count], flat[count:]), strict=True)), told))]


def projected(values: np.ndarray) -> tuple[np.ndarray, str]:
    """(N, D) → (N, 2), and how: as they are, t-SNE where there are enough, else the two main directions."""
    values = np.asarray(values, np.float64)
    values = np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))
    if values.shape[1] == 2:
        return values, "their own coordinates"
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
