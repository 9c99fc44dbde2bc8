"""Takes samples out of datasets, by predicate: recorded, and kept out of whatever is added to the datasets later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from datafusion import DataFrame, SessionContext

from mixlake.catalog import schema
from mixlake.catalog.errors import QueryError
from mixlake.catalog.fields import mentioned_fields
from mixlake.catalog.frames import samples_frame
from mixlake.catalog.index_copy import copy_part, without
from mixlake.catalog.lake import Lake, user_name
from mixlake.catalog.publishing import publish
from mixlake.catalog.records import Dataset, Part, Progress, Removal
from mixlake.catalog.showing import Shown
from mixlake.catalog.sql import check_predicate, first_line

_ADDRESS = frozenset(schema.TABLES[schema.SAMPLES].columns.names)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Removed(Shown):
    """What a removal did."""

    where: str
    version: int
    """The catalog version without the samples: the one before, if none matched."""
    num_samples: dict[str, int]
    """How many left, by dataset."""

    def __str__(self) -> str:
        if not self.num_samples:
            return f"no sample matches {self.where}; datasets@{self.version} stays as it is"
        counts = ", ".join(f"{num:,} of {name}" for name, num in self.num_samples.items())
        return f"{sum(self.num_samples.values()):,} samples removed ({counts}); datasets@{self.version}"


def remove_samples(
    lake: Lake,
    live: Sequence[Dataset],
    predicate: str,
    *,
    reason: str,
    version: int,
    progress: Progress | None = None,
) -> Removed:
    """Replace the parts that hold matching samples by copies of their index without them, in one catalog version.

    Args:
        lake: where to.
        live: the datasets of the catalog version that the new one follows.
        predicate: over the columns of `samples`.
        reason: why, for whoever asks later.
        version: that catalog version.
        progress: called with samples looked at and samples in all.

    Raises:
        QueryError: the predicate is wrong.
        LakeError: another process has changed one of the datasets meanwhile.
    """
    frame = samples_frame(SessionContext(), lake, live)
    check_predicate(frame, predicate, "remove", f"{schema.SAMPLES}@{version}")
    num_matching = _count_by_registration(frame, predicate, version)
    affected = [dataset for dataset in live if num_matching.keys() & set(dataset.registrations)]
    if not affected:
        return Removed(where=predicate, version=version, num_samples={})
    report = _Counter(
        progress, sum(part.num_samples for d in live for part in d.parts if part.registration in num_matching)
    )
    changes: dict[str, Dataset | None] = {}
    num_samples: dict[str, int] = {}
    for dataset in affected:
        parts = [
            _copied(lake, dataset, part, predicate, report) if part.registration in num_matching else part
            for part in dataset.parts
        ]
        num_samples[dataset.name] = dataset.num_samples - sum(part.num_samples for part in parts)
        removal = Removal(
            where=predicate,
            reason=reason,
            user=user_name(),
            removed_at=datetime.now(UTC),
            num_samples=num_samples[dataset.name],
        )
        changes[dataset.name] = replace(dataset, parts=tuple(parts), removals=(*dataset.removals, removal))
    details = {"where": predicate, "reason": reason, "num_removed": json.dumps(num_samples)}
    published = publish(lake, changes, version=version, action="remove", details=details)
    return Removed(where=predicate, version=published, num_samples=num_samples)


def kept_after(dataset: Dataset) -> str | None:
    """Return the predicate that samples added to a dataset must meet: they match nothing that was removed before.

    A removal that names addresses was about samples that were there, not about what lies at these places later.
    """
    return without(removal.where for removal in dataset.removals if not _names_addresses(removal.where))


def _names_addresses(predicate: str) -> bool:
    return any(path[0].lower() in _ADDRESS for path in mentioned_fields(predicate))


def _count_by_registration(frame: DataFrame, predicate: str, version: int) -> dict[str, int]:
    matching = frame.filter(frame.parse_sql_expr(f"(\n{predicate}\n)"))
    counts = matching.aggregate(
        [matching.parse_sql_expr(schema.REGISTRATION)], [matching.parse_sql_expr("count(*)").alias("n")]
    )
    try:
        rows = counts.to_pylist()
    except Exception as error:  # datafusion raises bare Exception for values that an expression fails on: n / 0
        raise QueryError(f"remove: {predicate} fails on {schema.SAMPLES}@{version}: {first_line(error)}") from error
    return {row[schema.REGISTRATION]: row["n"] for row in rows}


class _Counter:
    """Adds up the samples that were looked at."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._done = 0
        self._total = total

    def __call__(self, num: int) -> None:
        self._done += num
        if self._progress is not None:
            self._progress(self._done, self._total, "samples")


def _copied(lake: Lake, dataset: Dataset, part: Part, predicate: str, report: _Counter) -> Part:
    copied = copy_part(lake, dataset, part, keep=without([predicate]), progress=report)
    assert copied is not None  # its files stay, if without samples
    return copied
