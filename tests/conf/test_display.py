"""Answers fit the terminal, and are JSON where programs read them."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from mixlake.conf.display import Answer, Rows, print_answer

ROWS: list[dict[str, Any]] = [
    {"name": "a[b]", "count": 1234567, "uris": ["/data/" + "x" * 50, "/more"], "is_live": True},
    {"name": "c", "count": None, "uris": [], "is_live": False},
]


def shown(width: int, rows: list[dict[str, Any]] = ROWS) -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    console.print(Rows(rows, list(rows[0])))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
def test_lines_are_never_wider_than_the_terminal_and_nothing_is_lost(width: int) -> None:
    lines = shown(width)
    assert max(map(len, lines)) <= width
    text = "".join(lines).replace(" ", "")
    assert all(part in text for part in ("a[b]", "1,234,567", "true", "false"))
    assert text.count("x") == 50


def test_a_table_that_does_not_fit_shows_its_rows_one_below_the_other() -> None:
    assert "count" in shown(100)[1]
    assert shown(30)[:2] == ["name     a[b]", "count    1,234,567"]


def test_columns_that_people_can_do_without_are_left_out_where_there_is_no_room() -> None:
    rows = [{"name": "a" * 30, "id": "b" * 30, "count": 1}]
    names = {width: console_names(rows, width) for width in (100, 60)}
    assert names == {100: ["name", "id", "count"], 60: ["name", "count"]}


def console_names(rows: list[dict[str, Any]], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    console.print(Rows(rows, list(rows[0]), spare=("id",)))
    return console.file.getvalue().split("─")[0].split()  # type: ignore[attr-defined,no-any-return]


def test_long_text_does_not_make_a_table_of_thin_columns() -> None:
    rows = [{"n": 1, "details": "word " * 300}]
    assert shown(100, rows)[0].startswith("n        1")


def test_json_is_one_line_of_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"at": datetime(2026, 11, 1, tzinfo=UTC), "lasts": float("inf"), "rows": ROWS, "text": "ä"}
    print_answer(Console(), Answer(data=data, view=Text("for people")), "json")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"at": "2026-11-01T00:00:00+00:00", "lasts": None, "rows": ROWS, "text": "ä"}
    print_answer(Console(), Answer(data=data, view=Text("for people")), "text")
    assert capsys.readouterr().out == "for people\n"
