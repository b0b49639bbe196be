"""What a run folder says of itself, as far as it is there: config, curves, scores, findings, previews."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morphogen.config import read_yaml
from morphogen.errors import MorphogenError, UsageError
from morphogen.run import RunFolder, read_json

FAMILY = {"gan": "GAN", "vae": "VAE", "cycle_gan": "cycle GAN", "cycle_vae": "cycle VAE"}
MODALITY = {"image": "images", "audio": "sound", "text": "text", "points": "vectors"}
HELDOUT = "heldout/"
STATE = ("augment", "pooled", "gap", "skipped_updates")  # logged beside the terms, and no losses


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
        planned = self.evaluation.get("training", {}).get("steps")
        return planned or max((row.get("step", 0) for row in self.rows), default=None) or self.training.get("steps")

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
                if isinstance(value, bool) or not isinstance(value, int | float) or value != value or key == "step":
                    continue
                ours = key.startswith(HELDOUT)
                name = key.removeprefix(HELDOUT)
                if ours == heldout and "/" not in name and not name.startswith(STATE) and abs(value) != float("inf"):
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(row.get("step", 0))
                    values.append(value)
        return found

    def findings(self) -> list[dict[str, Any]]:
        """What went wrong, each thing once, from when it was first seen; of training and of the evaluation."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for where, finding in self._all_findings():
            if isinstance(finding, str):  # as older versions wrote them
                finding = {"what": finding.partition(":")[0], "evidence": finding.partition(": ")[2], "remedy": ""}
            where = finding.get("where", where)
            key = (where, str(finding.get("what", "")))
            before = found.get(key, {})
            since = [s for s in (before.get("since"), finding.get("since")) if s is not None]
            found[key] = finding | {"since": min(since, default=None), "where": where}
        return list(found.values())

    def _all_findings(self) -> list[tuple[str, Any]]:
        trained = []
        for row in self.rows:
            step = row.get("step")
            for finding in row.get("health") or []:
                known = isinstance(finding, dict)
                trained.append(("", {**finding, "since": finding.get("since") or step} if known else finding))
            if row.get("rollback") and not row.get("health"):
                trained.append(("", {"what": "rollback", "evidence": row["rollback"], "remedy": "", "since": step}))
        for where, result in self.directions.items():
            extra = result.get("likelihood") or {}
            given = [*(result.get("health") or []), *(result.get("warnings") or []), *(extra.get("warnings") or [])]
            trained += [(where, finding) for finding in given]
        return trained

    def previews(self) -> dict[str, list[tuple[int, Path]]]:
        """direction ('' where there is one) → (step, file) in order."""
        found: dict[str, list[tuple[int, Path]]] = {}
        for path in sorted((self.path / "previews").glob("step-*")):
            step, _, direction = path.stem.removeprefix("step-").partition("-")
            if step.isdigit() and path.suffix in (".png", ".txt"):
                found.setdefault(direction, []).append((int(step), path))
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
    config = {}
    if folder.config.exists():
        config = read_yaml(folder.config)
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
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
    return rows
