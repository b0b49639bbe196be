"""The run folder: what is in it, written so that a kill or a full disk never leaves half a file.

RUN/config.yaml  run.json  metrics.jsonl  skipped.txt  previews/  galleries/  evaluation.json
RUN/checkpoints/step-00001000/{state.safetensors, state.json}      to go on from
RUN/model/{config.json, weights.safetensors, README.md}            to use and to share
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from morphogen.errors import MorphogenError, UsageError


class Damaged(MorphogenError):
    """A file that is there and can be read, but whose content is broken."""


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour, fsynced, then renamed."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """JSON, indented, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON; MorphogenError when the file cannot be read, Damaged when what is in it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MorphogenError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {str(error).splitlines()[0]}.") from None


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that takes `target`'s place when the block ends well, and vanishes when it does not."""
    part, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in part.iterdir():
            _fsync(file)
        _fsync(part)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.rename(target, old)
        os.rename(part, target)
        _fsync(target.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Tensors → safetensors, in plain row-major order whatever their memory format."""
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)
    except SafetensorError as error:  # its way of saying that the disk is full
        raise OSError(errno.EIO, str(error)) from None
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def load_tensors(path: Path) -> dict[str, Tensor]:
    """safetensors → tensors; MorphogenError when the file cannot be read, Damaged when what is in it is broken."""
    try:
        return load_file(path)
    except OSError as error:
        raise MorphogenError(f"{path} cannot be read: {error}.") from None
    except SafetensorError as error:
        why = str(error).splitlines()[0]
        raise Damaged(f"{path} cannot be read ({why}); restore it or train again.") from None


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.metrics = self.path / "metrics.jsonl"
        self.skipped = self.path / "skipped.txt"
        self.previews = self.path / "previews"
        self.galleries = self.path / "galleries"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.evaluation = self.path / "evaluation.json"

    def create(self) -> None:
        """Make the folder; MorphogenError when that is not possible."""
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise MorphogenError(f"The run folder {self.path} cannot be made: {error.strerror}.") from None

    def exists(self) -> bool:
        return self.config.exists()

    def write_skipped(self, skipped: list[tuple[str, str]]) -> None:
        """One line an unreadable item: absolute path, tab, reason."""
        write_text(self.skipped, "".join(f"{path}\t{reason}\n" for path, reason in skipped))

    def append_metrics(self, row: dict[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step` (and a half-written one): the run goes on from there and writes them anew."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line)
        write_text(self.metrics, "".join(line + "\n" for line in kept))

    def steps_saved(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        folders = self.checkpoints.glob("step-*") if self.checkpoints.exists() else []
        return sorted(int(f.name[5:]) for f in folders if (f / "state.json").exists())

    def save_checkpoint(self, step: int, tensors: dict[str, Tensor], numbers: dict[str, Any], keep: int) -> None:
        """Everything needed to go on from `step`; the oldest checkpoints beyond `keep` go."""
        with new_folder(self.checkpoints / f"step-{step:08d}") as folder:
            save_tensors(tensors, folder / "state.safetensors")
            (folder / "state.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
        for old in self.steps_saved()[:-keep]:
            shutil.rmtree(self.checkpoints / f"step-{old:08d}", ignore_errors=True)

    def load_checkpoint(self, every: int = 1) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """(tensors, numbers) of the last sound checkpoint whose step `every` divides; None when there never was one.

        Raises MorphogenError when there are checkpoints but none is sound: starting afresh would overwrite the model.
        """
        steps = [step for step in self.steps_saved() if step % every == 0]
        for step in reversed(steps):
            folder = self.checkpoints / f"step-{step:08d}"
            try:
                return load_tensors(folder / "state.safetensors"), read_json(folder / "state.json")
            except Damaged:
                shutil.rmtree(folder, ignore_errors=True)  # what lies beyond the one before is made anew
        if steps:
            raise MorphogenError(
                f"No checkpoint in {self.checkpoints} is sound; use another --out, or --init {self.path}."
            )
        return None


def model_folder(path: str | Path) -> Path:
    """The model/ folder that RUN names: a run folder, its model/ folder, or zoo/NAME; UsageError when there is none."""
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "weights.safetensors").exists() and (folder / "config.json").exists():
            return folder
    if not path.exists():
        raise UsageError(f"There is no run at {path}; name a run folder, its model/ folder or zoo/NAME.")
    raise UsageError(f"{path} holds no model; name a run folder that has trained, its model/ folder or zoo/NAME.")
