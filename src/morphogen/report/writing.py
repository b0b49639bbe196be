"""RUN/report.html: everything that is known of a run on one page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from morphogen import __version__
from morphogen.assessment import data_of
from morphogen.domains import Data
from morphogen.errors import MorphogenError
from morphogen.judges import extractors_for
from morphogen.loop import modality_of, spaced
from morphogen.model import Model, load
from morphogen.precision import made_with
from morphogen.report import sections, show
from morphogen.report.page import Page, Section, Words, html_of
from morphogen.report.records import Records, read_records
from morphogen.run import write_text

REPORT = "report.html"


@dataclass
class Material:
    """What the sections draw on; model, data and extractors may be absent, with the reason."""

    records: Records
    model: Model | None
    data: Data | None
    extractors: dict[str, Any] | None
    why: str = ""


def write_report(
    run: str | Path, out: Path | None = None, *, model: Model | None = None, data: Data | None = None,
    extractors: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write the report of a run folder, model/ folder or zoo/NAME to RUN/report.html or `out`; returns where it is.

    model, data, extractors: of the run, where they are at hand; otherwise they are read. What is missing is left out,
    with a sentence where that helps. UsageError where there is nothing of a run.
    """
    records = read_records(run)
    material = gathered(records, model, data, extractors)
    page = page_of(material)
    target = out or records.path / REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, html_of(page))
    return target


def gathered(
    records: Records, model: Model | None, data: Data | None, extractors: dict[str, Any] | None
) -> Material:  # fmt: skip
    """Records with the model and the data, if they can be read here."""
    why = ""
    if model is None:
        try:
            model = load(records.path)
        except MorphogenError as error:
            return Material(records, None, None, None, f"There is no model to show yet: {error}")
    if data is None:
        try:
            data = data_of(model)
        except (MorphogenError, KeyError, OSError) as error:
            said = f"{error}" if isinstance(error, MorphogenError) else f"{type(error).__name__}: {error}"
            why = f"The data cannot be read here, so what needs held-out items is left out: {said}"
    return Material(records, model, data, extractors, why)


def page_of(material: Material) -> Page:
    """The report as blocks, in the order of reading."""
    records = material.records
    first = shown_sections(material)
    parts = {
        "Health": sections.health(records),
        "Samples": first.pop("Samples", []),
        "Scores": sections.scores(records),
        "By class": sections.by_class(records),
        **first,
        "Curves": sections.curves(records),
        "Previews over the training": sections.timeline(records),
        "Audit": sections.audit(records),
        "Failures": sections.failures(records),
        "How it was made": sections.made_again(records, told(made_with())),
    }
    made = f"Made by Morphogen {__version__} on {time.strftime('%Y-%m-%d %H:%M %Z')}."
    lead = sections.lead(records) + ([material.why] if material.why else [])
    return Page(f"Report: {records.name}", lead, [Section(k, v) for k, v in parts.items() if v], made)


def shown_sections(material: Material) -> dict[str, list[Any]]:
    """What the model makes; a part that fails says so, and the others stand."""
    model, data = material.model, material.data
    if model is None:
        return {}
    two = model.family.other is not None
    wanted: dict[str, Callable[[], list[Any]]] = {}
    if not two:
        wanted["Samples"] = lambda: show.samples(model, data)
    if data is not None and (two or model.domains):
        wanted["Translations"] = lambda: show.translations(model, data)
    if data is not None and show.reconstructs(model):
        wanted["Reconstructions"] = lambda: show.reconstructions(model, data)
    if not two:
        wanted["Interpolations"] = lambda: show.interpolations(model)
    if data is not None:
        wanted["Latent map" if show.reconstructs(model) else "Map of samples"] = lambda: latent_map(material)
    return {name: attempted(make) for name, make in wanted.items()}


def attempted(make: Callable[[], list[Any]]) -> list[Any]:
    """A section's blocks, or the sentence that says why there are none."""
    try:
        return make()
    except Exception as error:  # a report is never worth a training: what cannot be shown is named
        said = str(error) if isinstance(error, MorphogenError) else f"{type(error).__name__}: {error}"
        return [Words(f"This part could not be made: {said}", "note")]


def latent_map(material: Material) -> list[Any]:
    """Of a model that encodes, its codes of held-out items; of others, features of what it makes beside real data."""
    model, data = material.model, material.data
    assert model is not None and data is not None
    if show.reconstructs(model):
        return show.code_map(model, data)
    side = "a" if data.other is None else "b"
    target = modality_of(model.family, side)
    seen = material.extractors or extractors_for(features_at_hand(model), data, None, model.family)
    if data.other is None:
        real = data.heldout.data
        made = model.modality.raw(model.sample(show.MAPPED // 2, show.SEED))
        return show.feature_map(made, real, seen[side], ("samples", "held-out items"))
    raw = np.ascontiguousarray(data.heldout.data[spaced(len(data.heldout), show.MAPPED // 2)])
    made = target.raw(model.translate(model.modality.array(raw), "b", show.SEED))
    return show.feature_map(made, data.other.heldout.data, seen[side], ("translations a to b", "held-out items of b"))


def features_at_hand(model: Model) -> str:
    """An extractor that needs no training: a report is read at once."""
    return "auto" if model.modality.suffix == ".txt" else "random"


def told(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
