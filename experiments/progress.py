"""What a person sees while a run goes on: one line a phase, with the time that is left. All of it goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

COUNT_EVERY_S = 20.0
Item = TypeVar("Item")


class Progress:
    """Prints phases; on a terminal the current one is a bar with ETA, elsewhere a line at its end."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._began_s = time.monotonic()
        self.expected_end_s: float | None = None

    def expect(self, remaining_s: float) -> None:
        """Say how long the whole of what follows will take."""
        self.expected_end_s = time.monotonic() + remaining_s

    def note(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(f"[{time.monotonic() - self._began_s:5.1f} s] {text}", file=sys.stderr, flush=True)

    def wait_until(self, label: str, stop_s: float, check: Callable[[], None] = lambda: None) -> None:
        """Show `label` until a monotonic time, calling `check` several times a second."""
        if self.quiet or not sys.stderr.isatty():
            self.note(f"{label} ({stop_s - time.monotonic():.0f} s){self._eta()}")
            _wait(stop_s, check)
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        total_s = stop_s - time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[eta]}"),
        )
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=total_s, eta="")

            def shown() -> None:
                bars.update(task, completed=total_s - (stop_s - time.monotonic()), eta=self._eta())
                check()

            _wait(stop_s, shown)
        self.note(label)

    def _eta(self) -> str:
        if self.expected_end_s is None:
            return ""
        return f", done in about {max(0.0, self.expected_end_s - time.monotonic()):.0f} s"


def _wait(stop_s: float, check: Callable[[], None]) -> None:
    while (left_s := stop_s - time.monotonic()) > 0:
        check()
        time.sleep(min(0.25, left_s))


def counted(items: Collection[Item], label: str) -> Iterator[Item]:
    """Yield `items`, and say now and then on stderr how many are done and how long the rest will take."""
    began_s = said_s = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now_s = time.monotonic()
        if number == len(items):
            print(f"{label}: {number} in {now_s - began_s:.0f} s", file=sys.stderr, flush=True)
        elif now_s - said_s >= COUNT_EVERY_S:
            said_s, left_s = now_s, (now_s - began_s) / number * (len(items) - number)
            print(f"{label}: {number} of {len(items)}, done in about {left_s:.0f} s", file=sys.stderr, flush=True)
