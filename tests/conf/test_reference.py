"""The reference pages say what the tables, groups and commands are now."""

import re
from pathlib import Path

import pytest

from mixlake.catalog import Catalog
from mixlake.catalog.schema import TABLES, Column
from mixlake.catalog.tables import described_columns
from mixlake.conf.commands import COMMANDS
from mixlake.conf.reference import PAGES

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {path.parent.relative_to(ROOT / "conf") for path in (ROOT / "conf").glob("*/**/*.yaml")}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_what_make_reference_would_write(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_column_says_what_it_means() -> None:
    def check(columns: tuple[Column, ...], place: str) -> None:
        for column in columns:
            assert re.fullmatch(r"[^|\n]{3,}[^|\n.]", column.meaning), f"{place}.{column.name}"
            check(column.inner, f"{place}.{column.name}")

    for name, table in TABLES.items():
        check(table.described, name)
        assert [column.name for column in table.described] == table.columns.names
        assert table.row


def test_sql_shows_the_columns_of_the_page(tmp_path: Path) -> None:
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    for name in TABLES:
        shown = catalog.sql(f"SELECT * FROM {name}").schema().names
        assert shown == [row.column for row in described_columns(name) if "[]" not in row.column]


def test_the_pages_have_every_table_group_choice_and_command() -> None:
    headings = {name: re.findall(r"^#+ (\S+)$", page(), re.M) for name, page in PAGES.items()}
    assert headings["tables.md"] == list(TABLES)
    choices = [f"{group}={path.stem}" for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml")]
    assert {*map(str, GROUPS), *choices} == set(headings["groups.md"])
    assert COMMANDS.keys() < set(headings["commands.md"])
