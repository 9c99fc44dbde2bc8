"""Plots of properties show the counts that there are."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mixlake.catalog import Catalog, QueryError
from mixlake.catalog.plots import count_pairs, count_values, histogram, plot_property

LANGUAGES = ["de"] * 3 + ["en"] * 6 + [None]


@pytest.fixture
def pages(catalog: Catalog, write_lines: Callable[..., str]) -> Catalog:
    """Ten samples: sizes 0, 1, 10, … and tags, of which some have two."""
    records = [
        {
            "text": "x",
            "size": 0 if n == 0 else 10 ** (n // 2),
            "language": language,
            "tags": ["a"] if n % 2 else ["a", "b"],
        }
        for n, language in enumerate(LANGUAGES)
    ]
    properties = {"num_bytes": "size", "language": "language", "tags": "tags"}
    catalog.register("pages", write_lines("pages.jsonl", *records), properties=properties)
    return catalog


def axes_of(catalog: Catalog, *arguments: Any, **options: Any) -> Any:
    return plot_property(catalog, *arguments, **options).figure.axes[0]


def test_a_histogram_counts_every_number_once(pages: Catalog) -> None:
    found = histogram(pages, "num_bytes")
    assert found.is_log
    assert found.num_left_out == 1  # 0 has no logarithm
    sizes = [10 ** (n // 2) for n in range(1, 10)]
    counts, _ = np.histogram(np.log10(sizes), bins=50)
    assert found.counts[None].tolist() == counts.tolist()
    assert math.isclose(found.edges[0], 1)
    assert math.isclose(found.edges[-1], 10**4)


def test_numbers_of_one_order_have_an_even_axis_and_may_all_be_alike(pages: Catalog) -> None:
    assert not histogram(pages, "row").is_log
    alike = histogram(pages, "file_id", by="language")
    assert {group: counts.sum() for group, counts in alike.counts.items()} == {"de": 3, "en": 6, None: 1}


def test_a_histogram_has_units_and_says_what_it_leaves_out(pages: Catalog) -> None:
    axes = axes_of(pages, "num_bytes")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("num_bytes (bytes)", "samples")
    assert axes.get_xscale() == "log"
    assert "1 not shown: null, zero or less" in [text.get_text() for text in axes.texts]
    grouped = axes_of(pages, "num_bytes", by="language")
    assert [text.get_text() for text in grouped.get_legend().get_texts()] == ["en (6)", "de (2)", "null (1)"]


def test_other_values_are_bars_with_their_counts(pages: Catalog) -> None:
    assert count_values(pages, "language") == ([("en", 6), ("de", 3), (None, 1)], 0)
    axes = axes_of(pages, "language")
    assert [bar.get_width() for bar in axes.patches] == [6, 3, 1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["en", "de", "null"]


def test_each_value_of_a_list_counts(pages: Catalog) -> None:
    assert count_values(pages, "tags", where="language = 'de'") == ([("a", 3), ("b", 2)], 0)


def test_rare_values_are_counted_together(catalog: Catalog, write_lines: Callable[..., str]) -> None:
    catalog.register(
        "many", write_lines("many.jsonl", *({"text": "x", "k": f"v{n:02}"} for n in range(30))), properties={"k": "k"}
    )
    shown, others = count_values(catalog, "k")
    assert (len(shown), others) == (20, 10)
    assert axes_of(catalog, "k").get_yticklabels()[-1].get_text() == "other values"


def test_two_properties_are_a_table_of_counts(pages: Catalog) -> None:
    firsts, seconds, table = count_pairs(pages, "tags", "language")
    assert (firsts, seconds) == (["a", "b"], ["en", "de", None])
    assert table.tolist() == [[6, 3, 1], [3, 2, 0]]
    axes = axes_of(pages, "tags", by="language")
    assert sorted(text.get_text() for text in axes.texts) == ["1", "2", "3", "3", "6"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("language", "tags")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "langauge"}, r"unknown property 'langauge'; samples@1 has: .* Did you mean 'language'\?"),
        ({"name": "language", "by": "tag"}, r"unknown property 'tag'.* Did you mean 'tags'\?"),
        ({"name": "language", "where": "lang = 'de'"}, r"where: unknown property 'lang'"),
        (
            {"name": "num_bytes", "where": "language = 'fr'"},
            r"num_bytes has no values in samples@1 where language = 'fr'",
        ),
    ],
)
def test_what_there_is_not_is_refused(pages: Catalog, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        plot_property(pages, **arguments)
