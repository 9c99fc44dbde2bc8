"""How objects show themselves: as text where they are printed, as HTML where a notebook displays them.

Both are made from one description: rich tables and lines of text.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

_WIDTH = 120
_CELL = "padding: 2px 12px 2px 4px; vertical-align: top; text-align: "


class Shown:
    """An object that is worth looking at: it says what is shown by ``__rich__``, or as text alone by ``__str__``."""

    __slots__ = ()

    def __rich__(self) -> Any:
        """Return rich tables and text, alone or in a `Group`."""
        return Text(str(self))

    def __str__(self) -> str:
        return as_text(self.__rich__())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_html(self.__rich__())


def new_table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns that ``right`` names hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def as_text(shown: Any, width: int = _WIDTH) -> str:
    """Return what a console of that many columns shows, without colours."""
    buffer = io.StringIO()
    # Never Jupyter: there a console shows what it prints, beside what it writes, and in HTML of its own.
    Console(file=buffer, width=width, color_system=None, highlight=False, force_jupyter=False).print(shown)
    return "\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines())


def as_html(shown: Any) -> str:
    """Return tables and text as HTML without a style of its own, so that it looks as the notebook around it does."""
    return "\n".join(_parts(shown))


def _parts(shown: Any) -> Iterator[str]:
    if isinstance(shown, Group):
        for part in shown.renderables:
            yield from _parts(part)
    elif isinstance(shown, Table):
        yield _table(shown)
    else:
        lines = str(shown)
        tag = "pre" if "\n" in lines else "p"
        yield f'<{tag} style="margin: 4px 0">{escape(lines)}</{tag}>'


def _table(table: Table) -> str:
    caption = f'<p style="margin: 8px 0 2px"><b>{escape(str(table.title))}</b></p>' if table.title else ""
    sides = [column.justify for column in table.columns]
    head = "".join(_cell("th", column.header, side) for column, side in zip(table.columns, sides, strict=True))
    rows = [
        "".join(_cell("td", cell, side) for cell, side in zip(row, sides, strict=True))
        for row in zip(*(column.cells for column in table.columns), strict=True)
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, content: Any, side: str) -> str:
    return f'<{tag} style="{_CELL}{side}">{escape(str(content))}</{tag}>'
