"""Plots of properties: how samples are distributed over the values of one, or of two together.

They are counted where the index lies, by SQL; no sample leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixlake.catalog.catalog import Catalog
from mixlake.catalog.errors import QueryError
from mixlake.catalog.figures import (
    COLOURS,
    GREY,
    LIGHT_GREY,
    Plot,
    add_legend,
    add_note,
    count_axis,
    label_axes,
    name_colours,
    new_plot,
    share_axis,
    shortened,
)
from mixlake.catalog.sql import check_predicate, unknown_property

FloatArray = npt.NDArray[np.float64]
_MOST_VALUES = 20
_MOST_LINES = 6
_BINS = 50
_GROUPED_BINS = 25
_WIDE = 50.0
"""Where the largest value is more than so many times the median, the axis is logarithmic."""
_UNITS = ("bytes", "tokens", "chars", "words", "lines", "samples", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How many values lie between edges. B bins, G groups."""

    edges: FloatArray
    """Shape (B + 1,)."""
    counts: Mapping[Any, FloatArray]
    """By group, shape (B,); the only group is None where values are not grouped."""
    median: float
    is_log: bool
    """Whether the bins are equally wide in the logarithm."""
    num_left_out: int
    """Values that are null, or have no logarithm."""


def plot_property(catalog: Catalog, name: str, *, by: str | None = None, where: str = "true") -> Plot:
    """Plot how many samples have which values of a property: a histogram of numbers, or bars of other values.

    Args:
        catalog: at the version that is looked at.
        name: the property, or another column of `samples`; each value of a list counts.
        by: a second one: numbers get a line for each of its most frequent values, other values a table of counts.
        where: SQL predicate of the samples that count.

    Raises:
        QueryError: there is no such column, or the predicate is wrong.
    """
    for column in [name] if by is None else [name, by]:
        _check_column(catalog, column)
    check_predicate(catalog.samples(), where, "where", f"samples@{catalog.version}")
    title = f"{name} in samples@{catalog.version}" + (f" by {by}" if by else "")
    if _is_number(_type(catalog, name)):
        bins = _BINS if by is None else _GROUPED_BINS
        return _plot_histogram(histogram(catalog, name, by=by, where=where, bins=bins), name, title)
    if by is None:
        return _plot_bars(*count_values(catalog, name, where=where), name, title)
    return _plot_table(*count_pairs(catalog, name, by, where=where), name, by, title)


def histogram(
    catalog: Catalog, name: str, *, by: str | None = None, where: str = "true", bins: int = _BINS
) -> Histogram:
    """Return how a property of numbers is distributed; the arguments are those of `plot_property`."""
    values = f"SELECT CAST({_quoted(name)} AS DOUBLE) AS x, {_group(by)} AS g FROM samples WHERE ({where})"
    about = catalog.sql(
        "SELECT count(*) AS n, count(x) AS known, min(x) AS low, max(x) AS high, approx_median(x) AS middle, "
        f"min(CASE WHEN x > 0 THEN x END) AS least, count(CASE WHEN x <= 0 THEN 1 END) AS num_below FROM ({values})"
    ).to_pylist()[0]
    if not about["known"]:
        raise QueryError(f"{name} has no values in samples@{catalog.version} where {where}")
    low, high, middle = about["low"], about["high"], about["middle"]
    is_log = low >= 0 and middle > 0 and high > _WIDE * middle
    start, stop = (math.log10(about["least"]), math.log10(high)) if is_log else (low, high)
    width = (stop - start) / bins or 1.0
    place = f"least(CAST(floor(({'log10(x)' if is_log else 'x'} - {start!r}) / {width!r}) AS BIGINT), {bins - 1})"
    rows = catalog.sql(
        f"SELECT g, greatest({place}, 0) AS bin, count(*) AS n FROM ({values}) "
        f"WHERE x IS NOT NULL AND {'x > 0' if is_log else 'true'} GROUP BY 1, 2 ORDER BY g, bin"
    ).to_pylist()
    counts: dict[Any, FloatArray] = {}
    for row in rows:
        counts.setdefault(row["g"], np.zeros(bins))[row["bin"]] = row["n"]
    edges = start + width * np.arange(bins + 1)
    return Histogram(
        edges=np.asarray(10.0**edges if is_log else edges, np.float64),
        counts=counts,
        median=middle,
        is_log=bool(is_log),
        num_left_out=about["n"] - about["known"] + (about["num_below"] if is_log else 0),
    )


def count_values(catalog: Catalog, name: str, *, where: str = "true") -> tuple[list[tuple[Any, int]], int]:
    """Return the most frequent values of a property with their counts, and how many samples other values have."""
    rows = catalog.sql(
        f"SELECT value, count(*) AS n FROM (SELECT {_value(catalog, name)} AS value FROM samples WHERE ({where})) "
        "GROUP BY 1 ORDER BY n DESC, value"
    ).to_pylist()
    counted = [(row["value"], int(row["n"])) for row in rows]
    return counted[:_MOST_VALUES], sum(num for _, num in counted[_MOST_VALUES:])


def count_pairs(
    catalog: Catalog, name: str, by: str, *, where: str = "true"
) -> tuple[list[Any], list[Any], npt.NDArray[np.int64]]:
    """Return the most frequent values of two properties, and how many samples have which of both."""
    rows = catalog.sql(
        f"SELECT a, b, count(*) AS n FROM (SELECT {_value(catalog, name)} AS a, {_value(catalog, by)} AS b "
        f"FROM samples WHERE ({where})) GROUP BY 1, 2"
    ).to_pylist()
    firsts, seconds = (_most_frequent([(row[key], row["n"]) for row in rows]) for key in ("a", "b"))
    table = np.zeros((len(firsts), len(seconds)), np.int64)
    for row in rows:
        if row["a"] in firsts and row["b"] in seconds:
            table[firsts.index(row["a"]), seconds.index(row["b"])] += row["n"]
    return firsts, seconds, table


def _most_frequent(counted: Sequence[tuple[Any, int]]) -> list[Any]:
    totals: dict[Any, int] = {}
    for value, num in counted:
        totals[value] = totals.get(value, 0) + num
    return sorted(totals, key=lambda value: (-totals[value], str(value)))[:_MOST_VALUES]


def _plot_histogram(found: Histogram, name: str, title: str) -> Plot:
    plot, (axes,) = new_plot()
    groups = sorted(found.counts, key=lambda group: -found.counts[group].sum())
    shown = groups[:_MOST_LINES]
    if groups == [None]:
        axes.stairs(found.counts[None], found.edges, fill=True, color=COLOURS[0])
        axes.axvline(found.median, color=GREY, linewidth=1, linestyle="--")
        add_note(axes, f" median {found.median:,.4g}", (found.median, 1.0), within="x data", va="top")
        label_axes(axes, title=title, x=_with_unit(name), y="samples")
        count_axis(axes, "y")
    else:
        colours = name_colours(shown)
        for group in shown:
            counts = found.counts[group]
            label = f"{shortened(group)} ({int(counts.sum()):,})"
            axes.stairs(counts / counts.sum(), found.edges, color=colours[group], linewidth=1.8, label=label)
        label_axes(axes, title=title, x=_with_unit(name), y="share of the samples of each value")
        share_axis(axes, "y")
        more = f"the {_MOST_LINES} most frequent" if len(groups) > _MOST_LINES else ""
        add_legend(axes, more)
    axes.set_ylim(bottom=0)
    if found.is_log:
        axes.set_xscale("log")
    count_axis(axes, "x", is_whole=False)
    if found.num_left_out:
        what = "null, zero or less" if found.is_log else "null"
        add_note(axes, f"{found.num_left_out:,} not shown: {what}", (1, 1.02), within="axes fraction", ha="right")
    return plot


def _plot_bars(counted: Sequence[tuple[Any, int]], num_others: int, name: str, title: str) -> Plot:
    bars = [(shortened(value), num, COLOURS[0] if value is not None else LIGHT_GREY) for value, num in counted]
    if num_others:
        bars.append(("other values", num_others, LIGHT_GREY))
    total = sum(num for _, num, _ in bars) or 1
    plot, (axes,) = new_plot(height=1.3 + 0.24 * len(bars))
    places = np.arange(len(bars))[::-1]
    axes.barh(places, [num for _, num, _ in bars], color=[colour for *_, colour in bars], height=0.72)
    axes.set_yticks(places, [label for label, *_ in bars])
    axes.tick_params(axis="y", length=0)
    for place, (_, num, _) in zip(places, bars, strict=True):
        add_note(axes, f" {num:,}  ({num / total:.1%})", (num, place), va="center")
    label_axes(axes, title=title, x="samples", y=name, grid="x")
    axes.margins(x=0.18, y=0.02)
    count_axis(axes, "x")
    return plot


def _plot_table(
    firsts: Sequence[Any], seconds: Sequence[Any], table: npt.NDArray[np.int64], name: str, by: str, title: str
) -> Plot:
    rows, columns = table.shape
    plot, (axes,) = new_plot(width=max(5.0, 2.6 + 0.8 * columns), height=1.6 + 0.3 * rows)
    shares = table / np.maximum(table.sum(axis=0, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), [shortened(value, 12) for value in seconds], rotation=30 if columns > 5 else 0)
    axes.set_yticks(range(rows), [shortened(value) for value in firsts])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), num in np.ndenumerate(table):
        if num:
            colour = "white" if shares[row, column] > 0.55 else "black"
            add_note(axes, _short(int(num)), (column, row), ha="center", va="center", color=colour)
    label_axes(axes, title=title, x=by, y=name, grid="")
    bar = plot.figure.colorbar(image, ax=axes, label=f"share of each {by}", pad=0.02)
    bar.outline.set_visible(False)
    share_axis(bar.ax, "y")
    return plot


def _short(num: int) -> str:
    return f"{num / 1e6:.1f}M" if num >= 1e6 else f"{num / 1e3:.0f}k" if num >= 1e4 else f"{num:,}"


def _with_unit(name: str) -> str:
    unit = name.rpartition("_")[2]
    return f"{name} ({'characters' if unit == 'chars' else unit})" if unit in _UNITS else name


def _check_column(catalog: Catalog, name: str) -> None:
    names = catalog.samples().schema().names
    if name not in names:
        where = f"samples@{catalog.version}"
        raise QueryError(unknown_property(name, names, where))


def _type(catalog: Catalog, name: str) -> pa.DataType:
    return catalog.samples().schema().field(name).type


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _group(by: str | None) -> str:
    return "NULL" if by is None else f"CAST({_quoted(by)} AS VARCHAR)"


def _value(catalog: Catalog, name: str) -> str:
    is_list = pa.types.is_list(_type(catalog, name)) or pa.types.is_large_list(_type(catalog, name))
    return f"unnest({_quoted(name)})" if is_list else _quoted(name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
