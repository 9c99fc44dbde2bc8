"""Lists as properties: stored, queried, matched by predicates, and told apart where they are null or empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, QueryError
from mixlake.mixing import Mixture, Run, explain

WriteLines = Callable[..., str]


@pytest.fixture
def tagged(catalog: Catalog, write_lines: WriteLines, tmp_path: Path) -> Catalog:
    """Lists of strings and of numbers, in JSON lines and in Parquet; empty, null and absent ones among them."""
    rows = [
        {"text": "0", "tags": ["news", "de"], "scores": [1, 2]},
        {"text": "1", "tags": [], "scores": [0.5]},
        {"text": "2", "tags": None},
        {"text": "3", "tags": ["sports", None], "scores": []},
    ]
    catalog.register("lines", write_lines("a.jsonl", *rows), properties={"tags": "tags", "scores": "scores"})
    pq.write_table(pa.table({"text": ["4", "5"], "tags": [["news"], ["de", "sports"]]}), tmp_path / "b.parquet")
    catalog.register("table", str(tmp_path / "b.parquet"), properties={"tags": "tags"})
    return catalog


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("array_has(tags, 'news')", ["lines 0", "table 0"]),
        ("NOT array_has(tags, 'news')", ["lines 1", "lines 3", "table 1"]),
        ("array_has_any(tags, ['de', 'sports'])", ["lines 0", "lines 3", "table 1"]),
        ("array_has_all(tags, ['de', 'sports'])", ["table 1"]),
        ("array_length(tags) = 2", ["lines 0", "lines 3", "table 1"]),
        ("cardinality(tags) = 0", ["lines 1"]),
        ("empty(tags)", ["lines 1"]),
        ("tags IS NULL", ["lines 2"]),
        ("tags[1] = 'news'", ["lines 0", "table 0"]),
        ("array_position(tags, 'sports') = 1", ["lines 3"]),
        ("array_max(scores) >= 1", ["lines 0"]),
        ("'news' = ANY(tags)", ["lines 0", "table 0"]),
    ],
)
def test_predicates_look_into_lists(tagged: Catalog, predicate: str, expected: list[str]) -> None:
    query = f"SELECT dataset, row FROM samples WHERE {predicate} ORDER BY dataset, row"
    assert [f"{row['dataset']} {row['row']}" for row in tagged.sql(query).to_pylist()] == expected


def test_mixtures_and_removals_match_lists(tagged: Catalog) -> None:
    components = {
        "news": {"where": "array_has(tags, 'news')", "weight": 0.5},
        "sports": {"where": "array_has(tags, 'sports')", "weight": 0.5},
    }
    mixture = Mixture.from_dict({"components": components})
    assert "news" in str(explain(tagged, mixture))
    run = Run.start(tagged, "r", mixture, chunk_size=4, lanes=1)
    run.schedule(1)
    drawn = {(row["component"], row["dataset"], row["row"]) for row in run.samples(chunk=0).to_pylist()}
    assert drawn == {("news", "lines", 0), ("news", "table", 0), ("sports", "lines", 3), ("sports", "table", 1)}
    removed = tagged.remove("array_has(tags, 'de')", reason="test")
    assert removed.num_samples == {"lines": 1, "table": 1}


def test_properties_are_made_of_lists_and_lists_of_properties(tagged: Catalog) -> None:
    tagged.add_property("num_tags", "CAST(array_length(tags) AS BIGINT)")
    tagged.add_property("pair", "make_array(text, text)")
    rows = tagged.sql("SELECT num_tags, pair FROM samples WHERE dataset = 'lines' ORDER BY row").to_pylist()
    assert [row["num_tags"] for row in rows] == [2, 0, None, 2]
    assert [row["pair"] for row in rows] == [["0", "0"], ["1", "1"], ["2", "2"], ["3", "3"]]


def test_a_list_is_no_predicate(tagged: Catalog) -> None:
    with pytest.raises(QueryError, match=r"'tags' is list<.+: string>, expected true or false for each sample"):
        explain(tagged, Mixture.from_dict({"components": {"a": {"where": "tags", "weight": 1.0}}}))
