"""What a person sees on a terminal: tables that fit it, notes, progress; or JSON for programs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from datafusion import DataFrame
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 5.0
_LEAST_WIDTH = 12
"""Columns that a cell of text is folded into at least; where there is less room, rows are shown one below the other."""
_GAPS = (3, 2)
"""Columns between two columns of a table; the second where there is no room for the first."""
_MOST_LINES = 6
"""Of a cell; what is longer makes a table hard to read, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a command found out or did."""

    data: Any
    """For programs: plain values, as JSON holds them, or records and frames of such."""
    view: RenderableType
    """For people."""

    @classmethod
    def of_frame(cls, frame: DataFrame, spare: Collection[str] = ()) -> Answer:
        """Return the rows of a frame; people do without the columns ``spare`` where not all of them have room."""
        rows = frame.to_pylist()
        return cls(data=rows, view=Rows(rows, frame.schema().names, spare=spare))

    @classmethod
    def of_report(cls, report: Any, text: object = None) -> Answer:
        """Return a record, and what it says as text."""
        return cls(data=report, view=Text(str(report if text is None else text)))


def print_answer(console: Console, answer: Answer, output: str) -> None:
    """Print an answer as ``text``, or as one line of ``json``."""
    if output == "json":
        sys.stdout.write(json.dumps(_plain(answer.data), ensure_ascii=False) + "\n")
    else:
        console.print(answer.view, soft_wrap=isinstance(answer.view, Text))


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; numbers that are none become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console on standard output or error; as wide as the terminal, or 120 columns where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(highlight=False, stderr=stderr, width=None if stream.isatty() else 120)


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return how many there are of something.

    >>> counted(1, "file"), counted(1200, "file")
    ('1 file', '1,200 files')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_rows(console: Console, rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str = "") -> None:
    """Print rows as a table with the columns ``names``."""
    console.print(Rows(rows, names, title))


class Rows:
    """Rows as a table; where that does not fit the terminal, each row as lines of its own.

    Where cells would have to be folded, the columns ``spare`` are left out first.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str = "", spare: Collection[str] = ()
    ) -> None:
        few = [name for name in names if name not in spare]
        self._shorter = Rows(rows, few, title) if len(few) < len(names) else None
        self._cells = [[_cell(row[name]) for name in names] for row in rows]
        self._names = list(names)
        self._title = title
        self._is_number = [
            any(isinstance(row[n], (int, float)) and not isinstance(row[n], bool) for row in rows) for n in names
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self._shorter is not None and sum(self._widths()) + _GAPS[-1] * len(self._names) >= options.max_width:
            yield self._shorter
            return
        gap = self._gap(options.max_width)
        yield self._records() if gap is None else self._table(gap)

    def fits(self, width: int) -> bool:
        """Say whether it is a table in so many columns."""
        return self._gap(width) is not None

    def _gap(self, width: int) -> int | None:
        return next((gap for gap in _GAPS if self._fits(width, gap)), None)

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self._names, *self._cells, strict=True)]

    def _fits(self, width: int, gap: int) -> bool:
        widths = self._widths()
        least = [n if number else min(n, _LEAST_WIDTH) for n, number in zip(widths, self._is_number, strict=True)]
        room = width - gap * len(widths) - 1
        spare = room - sum(least)
        wanted = sum(widths) - sum(least)
        if spare < 0 or not wanted:
            return spare >= 0
        given = [low + spare * (full - low) / wanted for low, full in zip(least, widths, strict=True)]
        return all(full <= _MOST_LINES * part for full, part in zip(widths, given, strict=True))

    def _table(self, gap: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, gap - 2), title=self._title or None, title_justify="left")
        for name, is_number in zip(self._names, self._is_number, strict=True):
            table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
        for row in self._cells:
            table.add_row(*map(Text, row))
        return table

    def _records(self) -> Table:
        table = Table(box=None, title=self._title or None, title_justify="left", show_header=False, pad_edge=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for number, row in enumerate(self._cells):
            if number:
                table.add_row("", "")
            for name, cell in zip(self._names, row, strict=True):
                table.add_row(Text(name), Text(cell))
        return table


class Fitting:
    """Of several ways to show the same, the first that fits the terminal as a table; else the last."""

    def __init__(self, ways: Sequence[Rows]) -> None:
        self._ways = ways

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield next((rows for rows in self._ways if rows.fits(options.max_width)), self._ways[-1])


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

    It is on standard error, so that standard output holds nothing but the answer. The object is called as
    ``display(done, total, unit)``, the form that the library reports progress in.
    """

    def __init__(self, label: str) -> None:
        self._console = make_console(stderr=True)
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
