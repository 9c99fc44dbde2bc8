"""Which catalog versions runs are pinned to, and which may not be pinned any more because they are being collected.

Both are commits to `runs`, with one application transaction per version: a run's row and the collection of the version
that it is pinned to refuse one another, whichever comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixlake.catalog import schema
from mixlake.catalog.errors import LakeError
from mixlake.catalog.lake import Fence, Lake, arrow_dataset

_FREE, _PINNED, _COLLECTED = -1, 0, 1


def read_pins(lake: Lake) -> dict[int, list[str]]:
    """Return the versions that runs are pinned to, each with the names of the runs."""
    rows = arrow_dataset(lake.table(schema.RUNS)).to_table(columns=["run", "catalog_version"]).to_pylist()
    pins: dict[int, list[str]] = {}
    for row in sorted(rows, key=lambda row: str(row["run"])):
        pins.setdefault(row["catalog_version"], []).append(row["run"])
    return pins


def pin_fence(version: int) -> Fence:
    """Return what pins a version with the commit of a run's row, and refuses it if the version is collected."""
    return Fence(application=_application(version), seen=_PINNED, number=_PINNED)


def is_collected(lake: Lake, version: int) -> bool:
    """Say whether a version is being collected, or has been."""
    return lake.table(schema.RUNS).transaction_version(_application(version)) == _COLLECTED


def close(lake: Lake, versions: Sequence[int]) -> None:
    """Make sure that no run is pinned to some versions from now on: they are going to be collected.

    Raises:
        LakeError: a run has been pinned to one of them.
    """
    fences = [
        Fence(application=_application(version), seen=_FREE, number=_COLLECTED)
        for version in versions
        if not is_collected(lake, version)  # by a process that was killed before it deleted anything
    ]
    if fences:
        lake.append(schema.RUNS, schema.TABLES[schema.RUNS].columns.empty_table(), action="gc", fence=fences)


def closed_error(lake: Lake, version: int) -> LakeError:
    """Return the error of pinning a version that is collected."""
    newest = lake.table(schema.DATASETS).version()
    return LakeError(
        f"datasets@{version} is being collected by gc, or has been, so no run can be pinned to it; the newest version "
        f"of {lake.uri} is {newest}"
    )


def _application(version: int) -> str:
    return f"pin:{version}"
