"""Garbage collection: old catalog versions go, and with them the index of registrations that no kept version shows.

The versions that go are those that are not the newest, not young, and not pinned by a run. A registration that no
version ever showed is what a killed process left behind, or what a living one is writing: it goes when nothing of it
has been written for a while. Rows leave the log first, then files leave the disk; a process that is killed in between
leaves work that the next one finds again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mixlake.catalog import schema
from mixlake.catalog.errors import ConfigError, LakeError
from mixlake.catalog.frames import files_by_registration
from mixlake.catalog.lake import Lake
from mixlake.catalog.pins import close, read_pins
from mixlake.catalog.records import Progress
from mixlake.catalog.showing import Shown
from mixlake.catalog.versions import Version, read_versions

GRACE = timedelta(days=1)
"""How long a registration that nobody sees yet may go without a write before it counts as left behind."""
_INDEX_TABLES = (schema.SAMPLES, schema.FILES, schema.SKIPPED)
_FOLDER_PREFIX = f"{schema.REGISTRATION}="


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which catalog versions are kept."""

    older_than: timedelta
    """A version goes when it has not been the newest for this long."""
    keep_versions: int
    """The newest so many are kept, however old."""

    def __post_init__(self) -> None:
        if isinstance(self.keep_versions, bool) or not isinstance(self.keep_versions, int) or self.keep_versions < 1:
            raise ConfigError(f"keep_versions is {self.keep_versions!r}; expected a whole number from 1 on")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Collected(Shown):
    """What a collection did, or would do."""

    is_dry_run: bool
    versions: tuple[int, ...]
    """Those that cannot be read any more."""
    kept: Mapping[int, str]
    """The others, and why."""
    registrations: tuple[str, ...]
    """Those that only collected versions showed."""
    orphans: tuple[str, ...]
    """Those that processes which died left behind."""
    num_bytes: int
    """What their files took."""

    def __str__(self) -> str:
        done = "would be " if self.is_dry_run else ""
        lines = [
            f"{len(self.versions):,} catalog versions {done}collected{_ranges(self.versions)}, {len(self.kept):,} kept"
        ]
        by_reason: dict[str, list[int]] = {}
        for version, reason in self.kept.items():
            by_reason.setdefault(reason, []).append(version)
        lines += [f"  kept{_ranges(versions)}: {reason}" for reason, versions in by_reason.items()]
        num = len(self.registrations) + len(self.orphans)
        lines.append(
            f"{num:,} registrations {done}deleted ({len(self.orphans):,} left behind by processes that died), "
            f"{self.num_bytes:,} bytes"
        )
        return "\n".join(lines)


def collect_versions(
    lake: Lake,
    retention: Retention,
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
    progress: Progress | None = None,
) -> Collected:
    """Delete what no kept version shows, and say what it was.

    Args:
        lake: where.
        retention: what to keep, besides the newest version and those that runs pin.
        dry_run: only say what would be deleted.
        grace: how long a registration that nobody sees yet may go without a write.
        progress: called with registrations done and registrations in all.
    """
    stored = _stored_registrations(lake)  # before the versions: what is published meanwhile is seen as shown
    versions = read_versions(lake)
    pins = read_pins(lake)
    kept = _why_kept(versions, retention, pins)
    visible = _shown(version for version in versions if version.number in kept)
    ever = _shown(versions)
    gone = [registration for registration in stored if registration in ever and registration not in visible]
    orphans = [
        registration for registration in stored if registration not in ever and _is_idle(lake, registration, grace)
    ]
    unreadable = [v.number for v in versions if v.number not in kept and v.registrations - visible]
    shared = {v.number: "holds nothing that the others do not" for v in versions}
    result = Collected(
        is_dry_run=dry_run,
        versions=tuple(unreadable),
        kept={number: kept.get(number, shared[number]) for number in shared if number not in unreadable},
        registrations=tuple(gone),
        orphans=tuple(orphans),
        num_bytes=sum(_num_bytes(lake, registration) for registration in [*gone, *orphans]),
    )
    if not dry_run:
        try:
            close(lake, unreadable)
        except LakeError:
            if read_pins(lake) == pins:
                raise
            return collect_versions(lake, retention, grace=grace, progress=progress)  # a run was started meanwhile
        _delete(lake, [*gone, *orphans], progress)
    return result


def _why_kept(versions: Sequence[Version], retention: Retention, pins: Mapping[int, Sequence[str]]) -> dict[int, str]:
    """Return the versions to keep, with all reasons for each."""
    newest = versions[-1].number
    cutoff = time.time() - retention.older_than.total_seconds()
    kept = {}
    for version in versions:
        is_newest = version.number == newest
        reasons = ["newest"] if is_newest else []
        if not is_newest and version.number > newest - retention.keep_versions:
            reasons.append(f"one of the newest {retention.keep_versions}")
        if not is_newest and versions[version.number + 1].made_at > cutoff:
            reasons.append(f"was the newest less than {_spoken(retention.older_than)} ago")
        reasons += [f"run {run}" for run in pins.get(version.number, ())]
        if reasons:
            kept[version.number] = ", ".join(reasons)
    return kept


def _shown(versions: Iterable[Version]) -> frozenset[str]:
    return frozenset().union(*(version.registrations for version in versions))


def _stored_registrations(lake: Lake) -> list[str]:
    """Return every registration that has rows or a folder."""
    found: set[str] = set()
    for name in _INDEX_TABLES:
        if lake.has(name):
            found |= files_by_registration(lake.table(name)).keys()
            found |= {
                entry.name.removeprefix(_FOLDER_PREFIX)
                for entry in os.scandir(lake.path(name))
                if entry.name.startswith(_FOLDER_PREFIX)
            }
    return sorted(found)


def _folders(lake: Lake, registration: str) -> list[str]:
    folders = (os.path.join(lake.path(name), f"{_FOLDER_PREFIX}{registration}") for name in _INDEX_TABLES)
    return [folder for folder in folders if os.path.isdir(folder)]


def _is_idle(lake: Lake, registration: str, grace: timedelta) -> bool:
    """Say whether nothing of a registration has been written for as long as that."""
    folders = _folders(lake, registration)
    entries = [entry for folder in folders for entry in os.scandir(folder)]
    times = [os.stat(folder).st_mtime for folder in folders] + [entry.stat().st_mtime for entry in entries]
    return time.time() - max(times, default=0) >= grace.total_seconds()


def _num_bytes(lake: Lake, registration: str) -> int:
    return sum(entry.stat().st_size for folder in _folders(lake, registration) for entry in os.scandir(folder))


def _delete(lake: Lake, registrations: Sequence[str], progress: Progress | None) -> None:
    if not registrations:
        return
    names = ", ".join(f"'{registration}'" for registration in registrations)
    for name in _INDEX_TABLES:
        if lake.has(name) and files_by_registration(lake.table(name)).keys() & set(registrations):
            lake.delete(name, f"{schema.REGISTRATION} IN ({names})", action="gc")
    for number, registration in enumerate(registrations, start=1):
        for folder in _folders(lake, registration):
            shutil.rmtree(folder)
        if progress is not None:
            progress(number, len(registrations), "registrations")


def _spoken(duration: timedelta) -> str:
    days = duration / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else f"{duration / timedelta(hours=1):g} hours"


def _ranges(numbers: Sequence[int]) -> str:
    """Return whole numbers in a few words, with a blank in front: `` 1-4, 7``; nothing for none."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
    return f" {text}" if text else ""
