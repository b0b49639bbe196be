"""What a training looks like in a terminal: one live line with rate, time left, named terms and the held-out score."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TerminalDisplay:
    """Progress on the terminal; where the output is no terminal, only the notes, a line each.

    batch_size: turns steps into items a second.
    """

    def __init__(self, batch_size: int, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.batch_size, self.last = batch_size, (time.perf_counter(), -1)
        self.rate = 0.0
        columns = [
            TextColumn("[bold]training[/]"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        ]  # fmt: skip
        self.progress = Progress(*columns, console=self.console, refresh_per_second=4)
        self.task = self.progress.add_task("training", total=None, text="")

    def __enter__(self) -> TerminalDisplay:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.progress.stop() if self.console.is_terminal else None

    def step(self, step: int, steps: int, values: dict[str, float]) -> None:
        """Show the state after `step` of `steps`."""
        now, (then, before) = time.perf_counter(), self.last
        if 0 <= before < step:
            fresh = (step - before) * self.batch_size / (now - then)
            self.rate = fresh if not self.rate else 0.8 * self.rate + 0.2 * fresh
        self.last = (now, step)
        shown = {k: v for k, v in values.items() if "/" not in k and k not in ("kid", "fid")}
        text = f"{self.rate:,.0f}/s  " + "  ".join(f"{k} {v:.3g}" for k, v in shown.items())
        scores = [f"{name.upper()} {values[name]:.3g}" for name in ("fid", "kid") if name in values]
        if scores:
            text += f"  [bold]held-out {', '.join(scores)}[/]"
        self.progress.update(self.task, completed=step, total=steps, text=text)

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False)
        self.last = (time.perf_counter(), -1)  # what the note was about took time that is no step's


class TensorBoardDisplay:
    """Passes everything on, and writes the curves for TensorBoard as well (the `track` extra)."""

    def __init__(self, inner: Any, folder: str):
        from torch.utils.tensorboard import SummaryWriter

        self.inner, self.writer = inner, SummaryWriter(folder)

    def step(self, step: int, steps: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.inner.step(step, steps, values)

    def note(self, text: str) -> None:
        self.writer.flush()
        self.inner.note(text)
