"""Brings a dataset up to date with the files that its folders, globs and paths stand for now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mixlake.catalog.declaring import Declared, declare_again
from mixlake.catalog.errors import ConfigError
from mixlake.catalog.formats import get_format
from mixlake.catalog.index_copy import copy_part
from mixlake.catalog.lake import Lake
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError
from mixlake.catalog.publishing import publish, registered_files
from mixlake.catalog.records import DataFile, Dataset, Part, Progress, RecordFunction
from mixlake.catalog.registration import Registration, write_part
from mixlake.catalog.removal import kept_after
from mixlake.catalog.showing import Shown

_MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Refreshed(Shown):
    """What has changed about a dataset's files since they were registered."""

    dataset: str
    version: int
    """The catalog version that shows it: the one before, if nothing has changed."""
    added: tuple[str, ...]
    """Paths of files that were not there, as are those of the other kinds."""
    changed: tuple[str, ...]
    """Read again."""
    vanished: tuple[str, ...]
    num_unchanged: int
    """Files that were not read again."""
    outdated: tuple[str, ...] = ()
    """Properties that compare all samples, and are null for the new ones until they are added again."""

    def __str__(self) -> str:
        kinds = {"added": self.added, "changed": self.changed, "vanished": self.vanished}
        counts = ", ".join(f"{len(paths):,} {kind}" for kind, paths in kinds.items())
        lines = [f"{self.dataset}: {counts}, {self.num_unchanged:,} unchanged; datasets@{self.version}"]
        for kind, paths in kinds.items():
            lines += [f"  {kind:<8}  {path}" for path in paths[:_MAX_SHOWN]]
            if len(paths) > _MAX_SHOWN:
                lines.append(f"  {kind:<8}  … {len(paths) - _MAX_SHOWN:,} more")
        if self.outdated:
            lines.append(f"  null for new samples until they are added again: {', '.join(self.outdated)}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Difference:
    added: list[DataFile]
    changed: list[DataFile]
    vanished: list[DataFile]
    num_unchanged: int
    outdated: dict[int, list[int]]
    """By part, the ids of its files that changed or vanished."""
    next_file_id: int


def refresh_dataset(
    lake: Lake,
    dataset: Dataset,
    live: Sequence[Dataset],
    *,
    version: int,
    functions: Mapping[str, RecordFunction] | None = None,
    on_error: OnError = OnError.RAISE,
    progress: Progress | None = None,
) -> Refreshed:
    """List the dataset's files again; publish what is new as one more part, and parts without what is gone.

    Args:
        lake: where to.
        dataset: the dataset, as the catalog version shows it.
        live: all datasets of that version.
        version: the version.
        functions: by property, the batch functions that cannot be imported.
        on_error: what becomes of records in new files that cannot be read.
        progress: called with bytes done and bytes in all.

    Raises:
        ConfigError: no file is left, a batch function is missing, or a property has another type in the new files.
        DataError: a new file cannot be read.
        LakeError: another process has changed the dataset meanwhile.
    """
    found = _list_again(lake, dataset)
    difference = _compare(
        found, {part.number: registered_files(lake, dataset.name, part.registration) for part in dataset.parts}
    )
    result = Refreshed(
        dataset=dataset.name,
        version=version,
        added=_paths(difference.added),
        changed=_paths(difference.changed),
        vanished=_paths(difference.vanished),
        num_unchanged=difference.num_unchanged,
    )
    if not (result.added or result.changed or result.vanished):
        return result
    declared = declare_again(dataset.properties, functions or {}, dataset.name)
    parts: list[Part | None] = []
    result = replace(result, outdated=tuple(prop.name for prop in dataset.properties if prop.origin == "group"))
    details = {kind: len(getattr(result, kind)) for kind in ("added", "changed", "vanished")}
    if result.added or result.changed:
        request = replace(_next_part(dataset, declared, difference), on_error=on_error)
        part, _, indexed = write_part(lake, request, live, progress=progress)
        parts.append(part)
        dataset = replace(dataset, field_types={**dataset.field_types, **indexed.assumed_types})
        details |= {"num_skipped": len(indexed.problems)} if indexed.problems else {}
    for part in dataset.parts:
        outdated = difference.outdated[part.number]
        parts.append(copy_part(lake, dataset, part, drop_files=outdated) if outdated else part)
    left = tuple(sorted((part for part in parts if part is not None), key=lambda part: part.number))
    changes = {dataset.name: replace(dataset, parts=left)}
    return replace(result, version=publish(lake, changes, version=version, action="refresh", details=details))


def _next_part(dataset: Dataset, declared: Sequence[Declared], difference: _Difference) -> Registration:
    files = sorted([*difference.added, *difference.changed], key=lambda file: (file.path, file.uri))
    return Registration(
        dataset=dataset.name,
        uris=dataset.uris,
        format=get_format(dataset.format),
        options=dataset.options,
        exclude=dataset.exclude or (),
        text=dataset.text,
        declared=tuple(declared),
        files=tuple(files),
        first_file_id=difference.next_file_id,
        part=1 + max(part.number for part in dataset.parts),
        field_types=dataset.field_types,
        keep=kept_after(dataset),
    )


def _list_again(lake: Lake, dataset: Dataset) -> list[DataFile]:
    if dataset.exclude is None:
        raise ConfigError(
            f"dataset {dataset.name!r} was registered by an older version, which did not record what it excluded; "
            "register it once more with replace=True, so that it can be refreshed"
        )
    try:
        _, files = find_files(
            dataset.uris, format_name=dataset.format, exclude=dataset.exclude, lake=lake.uri, all_must_match=False
        )
    except ConfigError as error:
        raise ConfigError(f"dataset {dataset.name!r}: {error}; unregister it if that is meant") from error
    return files


def _compare(found: Sequence[DataFile], registered: Mapping[int, Mapping[int, DataFile]]) -> _Difference:
    """Compare files with those registered, per part by id: by place, size and modification time."""
    now = {file.uri: file for file in found}
    before = {file.uri: file for files in registered.values() for file in files.values()}
    changed = [file for uri, file in now.items() if uri in before and not _is_same(file, before[uri])]
    stale = {file.uri for file in changed} | (before.keys() - now.keys())
    return _Difference(
        added=[file for uri, file in now.items() if uri not in before],
        changed=changed,
        vanished=[file for uri, file in before.items() if uri not in now],
        num_unchanged=len(before) - len(stale),
        outdated={
            number: [file_id for file_id, file in files.items() if file.uri in stale]
            for number, files in registered.items()
        },
        next_file_id=1 + max(file_id for files in registered.values() for file_id in files),
    )


def _is_same(file: DataFile, registered: DataFile) -> bool:
    return file.num_bytes == registered.num_bytes and file.modified_us == registered.modified_us


def _paths(files: Sequence[DataFile]) -> tuple[str, ...]:
    return tuple(sorted(file.uri for file in files))
