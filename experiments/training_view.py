"""What a user sees of a training, on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time

from .progress import Progress

LINE_EVERY_S, BAR_EVERY_S = 30.0, 1.0


class TrainingView(Progress):
    """Context manager over the display."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = self._task = None
        self._every_s = LINE_EVERY_S
        self._shown_s = time.monotonic()

    def __enter__(self) -> TrainingView:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = (BarColumn(24), TextColumn("{task.percentage:>5.1f}%"), TextColumn("{task.description}"))
            self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
            self._task = self._bars.add_task("", total=1.0)
            self._every_s = BAR_EVERY_S
        return self

    def __exit__(self, *_exception) -> None:
        if self._bars:
            self._bars.stop()

    def note(self, text: str) -> None:
        """Print one line, which a terminal wraps as it likes: a bar would break commands that are to be copied."""
        if self._bars:
            self._bars.stop()
        super().note(text)
        if self._bars:
            self._bars.start()

    def due(self) -> bool:
        """Whether it is time to `show` something."""
        return time.monotonic() - self._shown_s >= self._every_s

    def show(self, fraction: float, text: str) -> None:
        """Show how far the training is, and what it is at."""
        self._shown_s = time.monotonic()
        if self._bars:
            self._bars.update(self._task, completed=fraction, description=text)
        else:
            self.note(f"{100 * fraction:.1f}%: {text}")


def duration(seconds: float) -> str:
    """A length of time in words, to about two digits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
