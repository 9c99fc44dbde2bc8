"""What differs between two versions of a catalog: datasets, properties, and how many samples have which value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datafusion import DataFrame, SessionContext

from mixlake.catalog.frames import samples_frame
from mixlake.catalog.lake import Lake
from mixlake.catalog.records import Dataset
from mixlake.catalog.showing import Shown

MAX_VALUES = 50
"""A property with more values than this is no category, and is not counted by value."""
_MAX_SHOWN = 30
_DATASET_COLUMNS = pa.schema(
    [
        ("dataset", pa.string()),
        ("change", pa.string()),
        ("files_before", pa.int64()),
        ("files_after", pa.int64()),
        ("samples_before", pa.int64()),
        ("samples_after", pa.int64()),
    ]
)
_PROPERTY_COLUMNS = pa.schema(
    [
        ("dataset", pa.string()),
        ("property", pa.string()),
        ("change", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
    ]
)
_VALUE_COLUMNS = pa.schema(
    [
        ("dataset", pa.string()),
        ("property", pa.string()),
        ("value", pa.string()),
        ("samples_before", pa.int64()),
        ("samples_after", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Difference(Shown):
    """What differs between two versions; what is the same in both is left out."""

    before: int
    """A catalog version."""
    after: int
    dataset_rows: Sequence[Mapping[str, Any]]
    property_rows: Sequence[Mapping[str, Any]]
    value_rows: Sequence[Mapping[str, Any]]

    @property
    def datasets(self) -> DataFrame:
        """Columns: dataset, change (added, removed, changed), files and samples before and after."""
        return _frame(self.dataset_rows, _DATASET_COLUMNS)

    @property
    def properties(self) -> DataFrame:
        """Columns: dataset, property, change, and type and expression before and after."""
        return _frame(self.property_rows, _PROPERTY_COLUMNS)

    @property
    def values(self) -> DataFrame:
        """Columns: dataset, property (a string or boolean of few values), value, samples before and after."""
        return _frame(self.value_rows, _VALUE_COLUMNS)

    def __str__(self) -> str:
        lines = [f"datasets@{self.before} to datasets@{self.after}"]
        lines += [
            f"  {row['change']:<8}  {row['dataset']}: "
            f"{_arrow(row['samples_before'], row['samples_after'])} samples, "
            f"{_arrow(row['files_before'], row['files_after'])} files"
            for row in self.dataset_rows
        ]
        lines += [
            f"  {row['change']:<8}  {row['dataset']}.{row['property']}: {_arrow(row['before'], row['after'])}"
            for row in self.property_rows
        ]
        lines += [
            f"  {row['dataset']}: {row['property']} = {'null' if row['value'] is None else row['value']}: "
            f"{_arrow(row['samples_before'], row['samples_after'])} samples"
            for row in self.value_rows[:_MAX_SHOWN]
        ]
        if len(self.value_rows) > _MAX_SHOWN:
            lines.append(f"  … {len(self.value_rows) - _MAX_SHOWN:,} more values")
        return "\n".join(lines if len(lines) > 1 else [*lines, "  nothing differs"])


def compare_versions(
    lake: Lake, before: tuple[int, Sequence[Dataset]], after: tuple[int, Sequence[Dataset]]
) -> Difference:
    """Compare two versions, each given as its number and datasets.

    Datasets that consist of the same registrations in both are the same, and are not looked into.

    Raises:
        LakeError: one of the versions has been collected.
    """
    old, new = ({dataset.name: dataset for dataset in datasets} for _, datasets in (before, after))
    pairs = [(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())]
    changed = [(name, a, b) for name, a, b in pairs if a is None or b is None or a.registrations != b.registrations]
    return Difference(
        before=before[0],
        after=after[0],
        dataset_rows=[_dataset_row(name, a, b) for name, a, b in changed],
        property_rows=[row for name, a, b in changed for row in _property_rows(name, a, b)],
        value_rows=[row for name, a, b in changed for row in _value_rows(lake, name, a, b)],
    )


def _dataset_row(name: str, before: Dataset | None, after: Dataset | None) -> dict[str, Any]:
    return {
        "dataset": name,
        "change": _change(before, after),
        "files_before": before and before.num_files,
        "files_after": after and after.num_files,
        "samples_before": before and before.num_samples,
        "samples_after": after and after.num_samples,
    }


def _property_rows(name: str, before: Dataset | None, after: Dataset | None) -> Iterator[dict[str, Any]]:
    old, new = (
        {prop.name: f"{prop.type}, {prop.expression}" for prop in dataset.properties} if dataset else {}
        for dataset in (before, after)
    )
    for prop in sorted(old.keys() | new.keys()):
        if old.get(prop) != new.get(prop):
            yield {
                "dataset": name,
                "property": prop,
                "change": _change(old.get(prop), new.get(prop)),
                "before": old.get(prop),
                "after": new.get(prop),
            }


def _value_rows(lake: Lake, name: str, before: Dataset | None, after: Dataset | None) -> Iterator[dict[str, Any]]:
    old, new = _counts_by_value(lake, before), _counts_by_value(lake, after)
    for prop in sorted(old.keys() | new.keys()):
        counts = old.get(prop, {}), new.get(prop, {})
        values = counts[0].keys() | counts[1].keys()
        for value in sorted(values, key=lambda value: (value is None, value or "")):
            num_before, num_after = (count.get(value, 0) for count in counts)
            if num_before != num_after:
                yield {
                    "dataset": name,
                    "property": prop,
                    "value": value,
                    "samples_before": num_before,
                    "samples_after": num_after,
                }


def _counts_by_value(lake: Lake, dataset: Dataset | None) -> dict[str, dict[str | None, int]]:
    """Return the samples of each value of the properties that are strings or booleans, where there are few values."""
    if dataset is None:
        return {}
    frame = samples_frame(SessionContext(), lake, [dataset])
    names = [prop.name for prop in dataset.properties if prop.type in ("string", "bool")]
    if not names:
        return {}
    # First how many values there are, about: counting by a property of millions of values would fill the memory.
    about = [frame.parse_sql_expr(f'approx_distinct(CAST("{name}" AS STRING))').alias(name) for name in names]
    (num_values,) = frame.aggregate([], about).to_pylist()
    counts = {}
    for name in (name for name in names if num_values[name] <= 2 * MAX_VALUES):
        group = [frame.parse_sql_expr(f'CAST("{name}" AS STRING)').alias("value")]
        rows = frame.aggregate(group, [frame.parse_sql_expr("count(*)").alias("n")]).to_pylist()
        if len(rows) <= MAX_VALUES:
            counts[name] = {row["value"]: row["n"] for row in rows}
    return counts


def _change(before: object, after: object) -> str:
    return "added" if before is None else "removed" if after is None else "changed"


def _arrow(before: Any, after: Any) -> str:
    """Return what was and what is in one phrase, or the one that there is."""
    shown = [f"{value:,}" if isinstance(value, int) else str(value) for value in (before, after) if value is not None]
    return " → ".join(dict.fromkeys(shown))


def _frame(rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> DataFrame:
    return SessionContext().from_arrow(pa.Table.from_pylist(list(rows), schema=columns))
