"""Predicates that are asked once per combination of values have the answers that each row has."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.mixing import Mixture, answers
from mixlake.mixing.answers import Answers, find_rows
from mixlake.mixing.index_frames import index_frame
from mixlake.mixing.resolution import plan_cells, program_of

MakeMixture = Callable[..., Mixture]


def by_address(rows: pa.Table, cells: IntArray) -> dict[tuple[str, int, int], int]:
    columns = (rows[name].to_pylist() for name in ("registration", "file_id", "row"))
    return dict(zip(zip(*columns, strict=True), cells.tolist(), strict=True))


@pytest.mark.parametrize(
    "wheres",
    [
        ("language = 'de'", "KIND = 'code'"),
        ("language IS NULL", "\"kind\" IN ('prose', 'language')"),
        ("n % 7 = 3", "quality > 0.5", "language = 'fr'"),
        ("dataset = 'code_2'", "row < 100", "file_id = 1"),
        ("true",),
    ],
)
@pytest.mark.parametrize("most", [1 << 16, 2])
def test_they_are_those_of_each_row(
    catalog: Catalog, make_mixture: MakeMixture, monkeypatch: pytest.MonkeyPatch, wheres: tuple[str, ...], most: int
) -> None:
    monkeypatch.setattr(answers, "_MAX_COMBINATIONS", most)
    program = program_of(catalog, make_mixture(*((where, 1) for where in wheres)))
    plan = plan_cells(catalog, program)
    found = Answers(plan, catalog.samples().schema().names, is_consumed=False)
    rows = index_frame(catalog, program, values=found.columns).to_arrow_table()
    words = index_frame(catalog, program).to_arrow_table()
    expected = find_rows(plan.words_CW, words["word_0"].to_numpy()[:, None])
    assert by_address(rows, found.cells(rows)) == by_address(words, expected)


def test_columns_are_those_that_predicates_name(catalog: Catalog, make_mixture: MakeMixture) -> None:
    plan = plan_cells(catalog, program_of(catalog, make_mixture(("quality > 0.1 AND language <> 'n'", 1))))
    names = ["registration", "n", "language", "quality", "num_tokens"]
    assert Answers(plan, names, is_consumed=False).columns == ["n", "language", "quality"]


def test_no_rows_have_no_cells(catalog: Catalog, make_mixture: MakeMixture) -> None:
    plan = plan_cells(catalog, program_of(catalog, make_mixture(("language = 'de'", 1))))
    found = Answers(plan, catalog.samples().schema().names, is_consumed=False)
    empty = pa.table({"language": pa.array([], pa.string())})
    assert found.cells(empty).tolist() == []


def test_rows_of_numbers_are_found_among_sorted_ones() -> None:
    known = np.array([[1, 5], [1, 7], [2, 0], [4, 4]])
    assert find_rows(known, known[[3, 0, 2, 2, 1]]).tolist() == [3, 0, 2, 2, 1]
