"""Samples counted by the values that predicates are about are those counted by the answers to the predicates."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from mixlake.catalog import Catalog, QueryError
from mixlake.mixing import Mixture, cell_counts
from mixlake.mixing.cell_counts import count_cells
from mixlake.mixing.resolution import program_of

MakeMixture = Callable[..., Mixture]


def counts(catalog: Catalog, mixture: Mixture) -> list[tuple[Any, ...]]:
    table: pa.Table = count_cells(catalog, program_of(catalog, mixture), None)
    return sorted(tuple(row[name] for name in sorted(row)) for row in table.to_pylist())


@pytest.mark.parametrize(
    "wheres",
    [
        ("language = 'de'", "kind = 'code'"),
        ("language IS NULL", "registration LIKE 'books%'"),
        ("dataset = 'books' AND language <> 'de'", "block = 0"),
        ("true",),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"unit": "bytes"}, {"filter": "n % 3 = 0"}])
def test_they_are_the_same_either_way(
    catalog: Catalog,
    make_mixture: MakeMixture,
    monkeypatch: pytest.MonkeyPatch,
    wheres: tuple[str, ...],
    settings: dict[str, str],
) -> None:
    mixture = make_mixture(*((where, 1) for where in wheres), **settings)
    found = []
    for least in (0, 1 << 62):
        monkeypatch.setattr(cell_counts, "_SAMPLES_PER_GROUP", least)
        found.append(counts(catalog, mixture))
    assert found[0] == found[1]
    assert sum(row[2] for row in found[0]) > 0


def test_a_predicate_that_fails_on_a_value_is_named(catalog: Catalog, make_mixture: MakeMixture) -> None:
    with pytest.raises(QueryError, match=r"c0: n / \(n - n\) = 1 fails on samples@.*[Dd]ivide by zero"):
        counts(catalog, make_mixture(("n / (n - n) = 1", 1)))


def test_values_that_are_many_are_not_counted_one_by_one(
    catalog: Catalog, make_mixture: MakeMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    count = cell_counts._count

    def counted(*arguments: Any) -> pa.Table:
        table = count(*arguments)
        asked.append(len(table))
        return table

    monkeypatch.setattr(cell_counts, "_count", counted)
    counts(catalog, make_mixture(("n >= 0", 1)))
    assert len(asked) == 2, "some blocks by values, then all by answers"
