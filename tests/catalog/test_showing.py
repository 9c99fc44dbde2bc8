"""What objects show is the same as text and as HTML."""

import re
from html.parser import HTMLParser
from pathlib import Path

from rich.console import Group
from rich.text import Text

from mixlake.catalog import Catalog
from mixlake.catalog.showing import Shown, as_html, as_text, new_table


class Cells(HTMLParser):
    """Collects the text of table cells; complains about tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


class Counted(Shown):
    """Two rows and a note."""

    __slots__ = ()

    def __rich__(self) -> Group:
        table = new_table("counts", "name", "n", right=("n",))
        table.add_row(Text("[bold] & <b>"), "1,000")
        table.add_row("b", "2")
        return Group(table, Text("two rows"))


class Said(Shown):
    """One line of text."""

    __slots__ = ()

    def __str__(self) -> str:
        return "three <samples>"


def test_a_table_has_the_same_cells_as_text_and_as_html() -> None:
    shown = Counted()
    assert str(shown).splitlines() == [
        "counts",
        "",
        "  name               n",
        " ──────────────────────",
        "  [bold] & <b>   1,000",
        "  b                  2",
        "",
        "two rows",
    ]
    assert repr(shown) == str(shown)
    html = shown._repr_html_()
    assert Cells(html).cells == ["name", "n", "[bold] & <b>", "1,000", "b", "2"]
    assert "two rows" in html
    assert "<b>counts</b>" in html


def test_what_is_only_text_is_text_in_html_too() -> None:
    assert repr(Said()) == "three <samples>"
    assert "three &lt;samples&gt;" in Said()._repr_html_()


def test_lines_are_as_wide_as_wanted() -> None:
    table = new_table("", "path")
    table.add_row("a" * 100)
    assert max(map(len, as_text(table, width=40).splitlines())) <= 40
    assert Cells(as_html(table)).cells == ["path", "a" * 100]


def test_a_catalog_shows_its_datasets(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "kind": "good"}\n{"text": "y", "kind": "bad"}\n')
    catalog = Catalog.create(str(tmp_path / "lake"))
    assert "0 samples in 0 datasets" in str(catalog)
    catalog.register("pages", str(tmp_path / "a.jsonl"), properties={"kind": "kind"})
    assert re.search(rf"^catalog@1 of {re.escape(str(tmp_path))}/lake\n", repr(catalog))
    assert re.search(r"pages +jsonl +1 +2 +59 +kind", repr(catalog))
    assert str(catalog.at(version=0)).startswith(f"catalog@0 of {catalog.lake.uri}, read-only")
    assert Cells(catalog._repr_html_()).cells[-6:] == ["pages", "jsonl", "1", "2", "59", "kind"]
    assert "pages: 0 added" in repr(catalog.refresh("pages"))


def test_frames_become_pandas_polars_and_arrow(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    catalog = Catalog.create(str(tmp_path / "lake"))
    catalog.register("pages", str(tmp_path / "a.jsonl"), properties={"size": "octet_length(text)"})
    for frame in (catalog.datasets(), catalog.history(), catalog.properties(), catalog.sql("SELECT * FROM samples")):
        num, names = frame.count(), frame.schema().names
        assert (len(frame.to_pandas()), list(frame.to_pandas().columns)) == (num, names)
        assert (len(frame.to_polars()), frame.to_polars().columns) == (num, names)
        assert (frame.to_arrow_table().num_rows, frame.to_arrow_table().column_names) == (num, names)
        assert "<table" in frame._repr_html_()
