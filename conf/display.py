"""What a person sees on a terminal: tables, notes, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from datafusion import DataFrame
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

_SECONDS_BETWEEN_LINES = 5.0


def make_console() -> Console:
    """Return a console on standard output; as wide as the terminal, or 120 columns where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def print_frame(console: Console, frame: DataFrame, title: str = "") -> None:
    """Print a frame as a table."""
    print_rows(console, frame.to_pylist(), frame.schema().names, title)


def print_rows(console: Console, rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str = "") -> None:
    """Print rows as a table with the columns ``names``."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for name in names:
        is_number = any(isinstance(row[name], (int, float)) and not isinstance(row[name], bool) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M:%S"))
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return " ".join(_cell(item) for item in value.values())
    return str(value)


class ProgressDisplay:
    """Shows how far long work is: a bar on a terminal, a line every few seconds otherwise.

    The object is called as ``display(done, total, unit)``, the form that the library reports progress in.
    """

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._label = label
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
            ]
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
            self._task = self._bar.add_task(self._label, total=None, unit="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, unit: str) -> None:
        """Show progress."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, unit=unit)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(f"{self._label}: {done:,} of {total:,} {unit}")
