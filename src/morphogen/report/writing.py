"""RUN/report.html: everything that is known of a run on one page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from morphogen.assessment import data_of
from morphogen.domains import Data
from morphogen.errors import MorphogenError
from morphogen.model import Model, load
from morphogen.report import sections, show
from morphogen.report.page import Block, Page, Words, write_page
from morphogen.report.records import read_records

REPORT = "report.html"


def write_report(
    run: str | Path, out: Path | None = None, *, model: Model | None = None, data: Data | None = None,
    extractors: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write the report of a run folder, model/ folder or zoo/NAME to RUN/report.html or `out`; returns where it is.

    model, data, extractors: of the run, where they are at hand; otherwise they are read. What is missing is left out,
    with a sentence where that helps. UsageError where there is nothing of a run.
    """
    records, missing = read_records(run), ""
    try:
        model = model or load(records.path)
    except MorphogenError as error:
        missing = f"There is no model to show yet: {error}"
    if model is not None and data is None:
        try:
            data = data_of(model)
        except Exception as error:
            missing = f"The data cannot be read here, so what needs held-out items is left out: {sentence(error)}"
    made = shown(model, data, extractors)
    each_way = partial(sections.each_way, records)
    parts = {
        "Health": sections.health(records),
        "Samples": made.pop("Samples", []),
        "Scores": each_way(sections.scores) + sections.quality_and_diversity(records),
        "By class": each_way(sections.by_class),
        **made,
        "Curves": sections.curves(records),
        "Previews over the training": sections.timeline(records.previews()),
        "Audit": each_way(partial(sections.audit, records)),
        "Failures": each_way(partial(sections.failures, records)),
        "How it was made": sections.made_again(records),
    }
    lead = sections.lead(records) + ([missing] if missing else [])
    return write_page(Page(f"Report: {records.name}", lead, parts), out or records.path / REPORT)


def shown(model: Model | None, data: Data | None, extractors: dict[str, Any] | None) -> dict[str, list[Block]]:
    """What the model makes, as far as it and its data are at hand."""
    if model is None:
        return {}
    translates, encodes = model.family.other is not None, show.reconstructs(model)
    found = {} if translates else {"Samples": attempted(show.samples, model)}
    if data is not None and (translates or model.domains):
        found["Translations"] = attempted(show.translations, model, data)
    if data is not None and encodes:
        found["Reconstructions"] = attempted(show.reconstructions, model, data)
    if not translates:
        found["Interpolations"] = attempted(show.interpolations, model)
    if data is not None and encodes:
        found["Latent map"] = attempted(show.code_map, model, data)
    elif data is not None:
        found["Map of samples"] = attempted(show.feature_map, model, data, extractors)
    return found


def attempted(make: Callable[..., list[Block]], *given: Any) -> list[Block]:
    """A section's blocks, or the sentence that says why there are none: the others stand."""
    try:
        return make(*given)
    except Exception as error:  # a report is never worth a training: what cannot be shown is named
        return [Words(f"This part could not be made: {sentence(error)}", note=True)]


def sentence(error: Exception) -> str:
    """What went wrong."""
    return str(error) if isinstance(error, MorphogenError) else f"{type(error).__name__}: {error}"
