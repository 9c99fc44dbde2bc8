"""A component is cut into bands of about equal size by values of any type that has an order."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, ConfigError, QueryError
from mixlake.mixing import Run, explain

NewName = Callable[[], str]
TYPES = {"n": "n", "day": "CAST(at AS DATE)", "at": "CAST(at AS TIMESTAMP)", "is_odd": "n % 2 = 1", "word": "word"}


@pytest.fixture(scope="module")
def typed(make_catalog: Callable[..., Catalog], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Samples with a property of every type, each of which goes up with ``n``."""
    records = [
        {"text": "x", "n": n, "at": f"20{10 + n // 12:02}-{1 + n % 12:02}-01T00:00:00", "word": f"it's {n:03}"}
        for n in range(240)
    ]
    properties = TYPES | {"list": "[n]", "none": "CASE WHEN n < 0 THEN n END"}
    return make_catalog(tmp_path_factory.mktemp("typed"), {"a": records}, properties)


def drawn(catalog: Catalog, name: str, order: Any, chunk_size: int) -> list[list[int]]:
    """The numbers of the rows of every chunk, sorted."""
    run = Run.start(catalog, name, {"components": {"a": {"weight": 1}}, "order_by": order}, chunk_size=chunk_size)
    run.schedule(300)
    return [sorted(row["row"] for row in run.samples(chunk).to_pylist()) for chunk in range(run.chunks.last()[0] + 1)]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("descending", [False, True])
def test_bands_follow_one_another_whatever_the_type(
    typed: Catalog, new_name: NewName, name: str, descending: bool
) -> None:
    bands = 2 if name == "is_odd" else 4
    order = {"property": name, "descending": descending, "bands": bands}
    rows = drawn(typed, new_name(), order, 240 // bands)
    keys = [sorted((row % 2 if name == "is_odd" else row) * (-1 if descending else 1) for row in part) for part in rows]
    assert sorted(row for part in rows for row in part) == list(range(240))
    assert all(part[-1] <= after[0] for part, after in itertools.pairwise(keys))


def test_what_has_no_order_is_refused_and_what_has_no_value_is_drawn(typed: Catalog, new_name: NewName) -> None:
    mixture: dict[str, Any] = {"components": {"a": {"where": "n < 9", "weight": 1, "order_by": "list"}}}
    with pytest.raises(ConfigError, match=r"components.a.order_by: property 'list' is list<.*>.*expected numbers"):
        explain(typed, mixture)
    mixture["components"]["a"]["order_by"] = "wrod"
    with pytest.raises(ConfigError, match=r"unknown property 'wrod'; samples@1 has: at, .* Did you mean 'word'\?"):
        explain(typed, mixture)
    assert drawn(typed, new_name(), "none", 240) == [list(range(240))]


def test_what_is_no_number_is_in_the_last_band_in_either_direction(tmp_path: Path) -> None:
    values: list[Any] = [float("nan"), float("inf"), -float("inf"), *np.arange(37) / 8, None]
    pq.write_table(
        pa.table({"text": ["x"] * 41, "q": pa.array(values, pa.float64(), from_pandas=False)}), tmp_path / "a.parquet"
    )
    catalog = Catalog.create(str(tmp_path / "lake"))
    catalog.register("a", str(tmp_path / "a.parquet"), properties={"q": "q"})
    for descending in (False, True):
        order = {"property": "q", "descending": descending, "bands": 39}
        rows = [row for (row,) in drawn(catalog, f"descending-{descending}", order, 1)]
        expected = sorted(range(1, 40), key=lambda row: values[row], reverse=descending)
        assert rows[:38] == expected[:38]
        assert set(rows[38:]) == {expected[-1], 0, 40}, "the last band"


def test_a_predicate_that_fails_on_a_sample_is_named_before_bands_are_measured(typed: Catalog) -> None:
    wrong = {"where": "10 / (n - 5) > 1", "weight": 1, "order_by": "n"}
    with pytest.raises(QueryError, match=r"mixture.components.a: 10 / \(n - 5\) > 1 fails on samples@1: Divide by z"):
        explain(typed, {"components": {"a": wrong, "rest": {"weight": 1}}})
    with pytest.raises(QueryError, match=r"mixture.filter: n / \(n - 5\) > 1 fails on samples@1: Divide by zero"):
        explain(typed, {"kind": "inferred", "by": "word", "filter": "n / (n - 5) > 1"})
