"""What a run folder says of itself, as far as it is there: config, curves, scores, findings, previews."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morphogen.config import read_yaml
from morphogen.errors import MorphogenError, UsageError
from morphogen.run import RunFolder, read_json

FAMILY = {"gan": "GAN", "vae": "VAE", "cycle_gan": "cycle GAN", "cycle_vae": "cycle VAE"}
MODALITY = {"image": "images", "audio": "sound", "text": "text", "points": "vectors"}
HELDOUT = "heldout/"
NO_CURVE = ("step", "augment", "pooled", "gap", "skipped_updates")  # logged beside the losses


@dataclass
class Records:
    """The files of one run, read; whatever is absent is empty."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def training(self) -> dict[str, Any]:
        """What the model says of its training."""
        return self.description.get("training", {})

    @property
    def family(self) -> str:
        name = self.description.get("family") or self.config.get("family") or ""
        return FAMILY.get(name, name or "model")

    @property
    def modality(self) -> str:
        """Of the items: a model that works on codes makes what its codec makes."""
        found = self.config.get("modality") or self.description.get("modality") or ""
        if found in ("codes", ""):
            found = _json(self.path / "model" / "codec" / "config.json").get("modality", found)
        return found

    @property
    def sources(self) -> list[str]:
        """What it was trained on, one SRC or two."""
        a = self.training.get("data") or self.config.get("data", {}).get("source")
        b = (self.training.get("data_b") or self.config.get("data_b") or {}).get("source")
        return [source for source in (a, b) if source]

    @property
    def steps(self) -> int | None:
        """Steps that were made."""
        made = self.evaluation.get("training", {}).get("steps")
        return made or max((row["step"] for row in self.rows), default=self.training.get("steps"))

    @property
    def minutes(self) -> float | None:
        """Minutes that they took."""
        return self.evaluation.get("training", {}).get("minutes")

    @property
    def directions(self) -> dict[str, dict[str, Any]]:
        """{name: result} of the evaluation: one, or one for each direction."""
        if not self.evaluation:
            return {}
        if "back" in self.evaluation:
            return {"a to b": self.evaluation, "b to a": self.evaluation["back"]}
        return {"": self.evaluation}

    def curves(self, heldout: bool) -> dict[str, tuple[list[float], list[float]]]:
        """name → (steps, values) of the losses, or of the held-out scores."""
        found: dict[str, tuple[list[float], list[float]]] = {}
        for row in self.rows:
            for key, value in row.items():
                name = key.removeprefix(HELDOUT)
                ours = key.startswith(HELDOUT) == heldout and "/" not in name and not name.startswith(NO_CURVE)
                if ours and isinstance(value, int | float) and math.isfinite(value):
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(row["step"])
                    values.append(value)
        return found

    def findings(self) -> list[dict[str, Any]]:
        """What went wrong, each thing once, as it was last seen: {"what", "evidence", "remedy", "since", "where"}. It
        was first seen at step `since`, and had gone at `until`, if that is there; `where` is what it is about, of
        several networks or of two directions."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for where, step, finding in self._seen():
            where = finding.get("where", where)
            key = where, finding["what"]
            since = found[key]["since"] if key in found else finding.get("since")
            found[key] = finding | {"since": step if since is None else since, "where": where}
        looked = {what for result in self.directions.values() for what in result.get("looked_for", [])}
        seen = {f["what"] for result in self.directions.values() for f in result.get("health", [])}
        for finding in found.values():  # what the evaluation of the best model looked for and did not find
            if finding["what"] in looked - seen and finding.get("until") is None:
                finding["until"] = self.steps
        return list(found.values())

    def _seen(self) -> Iterator[tuple[str, int | None, dict[str, Any]]]:
        """(direction, step, finding) of every row of the training, then of the evaluation."""
        for row in self.rows:
            for finding in row.get("health", []):
                yield "", row["step"], finding
        for where, result in self.directions.items():
            for finding in result.get("health", []):
                yield where, None, finding

    def previews(self) -> dict[str, list[tuple[int, Path]]]:
        """direction ('' where there is one) → (step, file) in order."""
        found: dict[str, list[tuple[int, Path]]] = {}
        for path in sorted((self.path / "previews").glob("step-*")):
            step, _, direction = path.stem.removeprefix("step-").partition("-")
            if step.isdigit() and path.suffix in (".png", ".txt"):
                found.setdefault(direction.replace("-", " "), []).append((int(step), path))
        return found


def read_records(run: str | Path) -> Records:
    """The records of a run folder, its model/ folder or zoo/NAME; UsageError where there is nothing of a run."""
    path = Path(run)
    if not path.exists():
        raise UsageError(f"There is no run at {path}; name a run folder, its model/ folder or zoo/NAME.")
    if (path / "weights.safetensors").exists() and path.name == "model":
        path = path.parent
    folder = RunFolder(path)
    bare = (path / "weights.safetensors").exists()  # a model/ folder of another name
    description = _json((path if bare else folder.model) / "config.json")
    config = read_yaml(folder.config) if folder.config.exists() else {}
    found = Records(path, config, description, _rows(folder.metrics), _json(folder.evaluation))
    with contextlib.suppress(OSError):
        found.skipped = folder.skipped.read_text(encoding="utf-8", errors="replace").splitlines()
    if not (found.config or found.description or found.rows or found.evaluation):
        raise UsageError(f"{path} holds nothing of a run; name a run folder, its model/ folder or zoo/NAME.")
    return found


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read: a report leaves out what is missing."""
    try:
        found = read_json(path)
    except MorphogenError:
        return {}
    return found if isinstance(found, dict) else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a run that was killed
                rows.append(json.loads(line))
    return rows
