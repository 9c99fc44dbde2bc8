"""The Delta tables of one lake: made, read at a version, and appended to in single commits."""

from __future__ import annotations

import getpass
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Field,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from mixlake.catalog import schema
from mixlake.catalog.errors import ConfigError, LakeError

_MAX_COMMITS_PER_HANDLE = 100
"""A handle that has followed hundreds of commits gets slow (a commit takes 10 ms at first, 110 ms after 600)."""
_NEWEST_ONLY = {
    "delta.logRetentionDuration": "interval 10 seconds",
    "delta.deletedFileRetentionDuration": "interval 1 hours",
}
_CONFIGURATION = {
    schema.DATASETS: {"delta.enableExpiredLogCleanup": "false"},
    schema.CHUNKS: _NEWEST_ONLY,
    schema.FEEDBACK: _NEWEST_ONLY,
    schema.DECISIONS: _NEWEST_ONLY,
    schema.POLICIES: _NEWEST_ONLY,
}
"""By default a checkpoint drops versions that are older than 30 days. The root table keeps all of them. Of `chunks`
and of what training reports only the newest is ever read, and every commit lists the log: 8 ms with a hundred versions,
30 ms with thousands."""
_MAX_ATTEMPTS = 100
"""Tries to commit while other processes do; at each, one of them gets on."""
_UNREADABLE_PATH = re.compile(r"[*?\[\]|^\\\x00-\x1f]|%[0-9A-Fa-f]{2}")
"""What delta-rs and DataFusion take for a pattern or an escape, quoted or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """Lets only one of several processes go on: a Delta application transaction with the number it must follow."""

    application: str
    """What must not interleave: ``run:exp1``."""
    seen: int
    """The application's last number that this process knows of."""
    number: int
    """The number that the commit takes; higher than ``seen``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Handle:
    table: DeltaTable
    opened_at: int
    """Its version then."""
    checkpoint: int | None
    """When the checkpoint was written that was the newest when the table was last brought up to date."""


class Lake:
    """A folder of Delta tables. Handles are kept open: a commit through a kept handle reads only what is new.

    Handles may be used from several threads; they do not survive a fork.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        if "://" in uri:
            raise ConfigError(f"lake {uri!r}: only lakes on a local disk can be opened by this version")
        self.uri = os.path.abspath(os.path.expanduser(uri))
        odd = _UNREADABLE_PATH.search(self.uri)
        if odd:
            raise ConfigError(f"lake {self.uri!r}: a lake's path must not hold {odd[0]!r}; choose another folder")
        self.storage_options = dict(storage_options or {})
        self._handles: dict[str, _Handle] = {}
        self._lock = threading.RLock()

    def exists(self) -> bool:
        """Say whether the root table is there: it is made last."""
        return DeltaTable.is_deltatable(self.path(schema.DATASETS))

    def create(self) -> None:
        """Make every table that is not there yet, the root last, so that a lake that exists is complete.

        Raises:
            LakeError: the folder cannot be written.
        """
        for name in [n for n in schema.TABLES if n != schema.DATASETS] + [schema.DATASETS]:
            self._create(name)

    def has(self, name: str) -> bool:
        """Say whether a table is there; a lake that an older version of Mixlake made gets it when it is written to."""
        return name in self._handles or DeltaTable.is_deltatable(self.path(name))

    def path(self, name: str) -> str:
        """Return where a table lies."""
        return os.path.join(self.uri, name)

    def table(self, name: str) -> DeltaTable:
        """Return a table's handle at its newest version.

        Raises:
            LakeError: the table is missing.
        """
        with self._lock:
            known = self._handles.get(name)
            checkpoint = self._checkpoint(name)
            if known is not None and not self._has_news(name, known, checkpoint):
                return known.table
            if known is not None:
                known.table.update_incremental()
                known = replace(known, checkpoint=checkpoint)
            if known is None or known.table.version() - known.opened_at > _MAX_COMMITS_PER_HANDLE:
                table = self._open(name)
                known = _Handle(table=table, opened_at=table.version(), checkpoint=checkpoint)
            self._handles[name] = known
            return known.table

    def _has_news(self, name: str, known: _Handle, checkpoint: int | None) -> bool:
        """Say whether others may have committed since: looking costs microseconds, updating a handle milliseconds.

        A commit is a file of the next version. Old ones are deleted, but only after a checkpoint has been written.
        """
        return checkpoint != known.checkpoint or os.path.exists(self._following(name, known.table))

    def _is_left_behind(self, name: str, handle: DeltaTable) -> bool:
        """Say whether log entries after a handle's version were cleaned up: the process stood still for seconds."""
        return not os.path.exists(self._following(name, handle)) and self._open(name).version() > handle.version()

    def _following(self, name: str, handle: DeltaTable) -> str:
        """Return where the log entry of the next commit is, or was."""
        return os.path.join(self.path(name), "_delta_log", f"{handle.version() + 1:020}.json")

    def _checkpoint(self, name: str) -> int | None:
        try:
            return os.stat(os.path.join(self.path(name), "_delta_log", "_last_checkpoint")).st_mtime_ns
        except FileNotFoundError:
            return None

    def table_at(self, name: str, version: int) -> DeltaTable:
        """Return a table as it was at a version.

        Raises:
            LakeError: there is no such version.
        """
        newest = self.table(name).version()
        if not 0 <= version <= newest:
            raise LakeError(f"{name}@{version} does not exist in {self.uri}; versions are 0 to {newest}")
        return self._open(name, version)

    def append(
        self,
        name: str,
        rows: pa.Table,
        *,
        action: str,
        details: Mapping[str, Any] | None = None,
        fence: Fence | Sequence[Fence] | None = None,
        replace_where: str | None = None,
    ) -> int:
        """Append rows in one commit and return the table's new version.

        Args:
            name: the table.
            rows: in the table's schema.
            action: what the commit does; it stands in the history.
            details: more for the history.
            fence: one or several; each refuses the commit if another process made one like it since the fence was
                looked at.
            replace_where: rows that this predicate selects leave in the same commit; the new rows must match it.

        Raises:
            LakeError: the fence is broken.
        """
        data = rows.cast(schema.TABLES[name].columns)
        fences = _listed(fence)
        common: Any = {
            "writer_properties": WriterProperties(compression="ZSTD"),
            "commit_properties": commit_properties(action, details, fences),
        }

        def attempt(handle: DeltaTable) -> None:
            _check_fences(name, handle, fences, action)
            _add_columns(name, handle, data.schema)
            if replace_where is None:
                write_deltalake(handle, data, mode="append", **common)
            else:
                write_deltalake(handle, data, mode="overwrite", predicate=replace_where, **common)

        return self._commit(name, attempt, action)

    def add_files(
        self,
        name: str,
        actions: Sequence[AddAction],
        columns: pa.Schema,
        *,
        action: str,
        fence: Fence | Sequence[Fence] | None = None,
    ) -> int:
        """Commit Parquet files that already lie in a table's folder, after adding the columns that the table lacks.

        Args:
            name: the table.
            actions: the files.
            columns: theirs, those of partitions included.
            action: what the commit does; it stands in the history.
            fence: as in `append`.

        Raises:
            LakeError: the fence is broken, or another process added a column of the same name and another type.
        """
        fences = _listed(fence)

        def attempt(handle: DeltaTable) -> None:
            stored = _add_columns(name, handle, columns)
            handle = self.table(name)
            _check_fences(name, handle, fences, action)  # of this very version: what comes after it is in the way
            handle.create_write_transaction(
                list(actions),
                "append",
                Schema.from_arrow(stored),
                partition_by=list(schema.TABLES[name].partition_by),
                commit_properties=commit_properties(action, fences=fences),
            )

        return self._commit(name, attempt, action)

    def delete(self, name: str, predicate: str, *, action: str) -> int:
        """Delete the rows that a predicate selects, in one commit, and return the table's new version."""
        properties = commit_properties(action)
        return self._commit(name, lambda handle: handle.delete(predicate, commit_properties=properties), action)

    def compact(
        self,
        name: str,
        partition: str,
        value: str,
        *,
        file_bytes: int = 8 << 20,
        rows_per_group: int | None = None,
        statistics: Sequence[str] | None = None,
    ) -> None:
        """Join the small files of a partition, in one commit that changes no row; the old files stay on disk.

        Args:
            name: the table.
            partition: the column that it is partitioned by.
            value: which partition.
            file_bytes: how large the joined files become; larger ones stay as they are.
            rows_per_group: of the joined files; few, where single rows will be read.
            statistics: the columns that have some; None is all.
        """
        of_others, of_these = (ColumnProperties(statistics_enabled=level) for level in ("NONE", "CHUNK"))
        writer = WriterProperties(
            compression="ZSTD",
            max_row_group_size=rows_per_group,
            default_column_properties=None if statistics is None else of_others,
            column_properties=None if statistics is None else dict.fromkeys(statistics, of_these),
        )

        def attempt(handle: DeltaTable) -> None:
            handle.optimize.compact(
                partition_filters=[(partition, "=", value)],
                target_size=file_bytes,
                writer_properties=writer,
                commit_properties=commit_properties(f"compact {value}"),
            )

        self._commit(name, attempt, "compact")

    def _commit(self, name: str, attempt: Callable[[DeltaTable], object], action: str) -> int:
        """Attempt a commit until no other process's commit is in its way; return the version that it made."""
        with self._lock:
            if not self.has(name):
                self._create(name)
            for _ in range(_MAX_ATTEMPTS):
                handle = self.table(name)
                try:
                    attempt(handle)
                except CommitFailedError as error:
                    conflict: Exception = error
                except (DeltaError, FileNotFoundError) as error:
                    if not self._is_left_behind(name, handle):
                        raise
                    conflict = error
                else:
                    return handle.version()
            raise LakeError(f"{name}: other processes are in the way of {action} ({conflict})") from conflict

    def _create(self, name: str) -> None:
        table = schema.TABLES[name]
        try:
            DeltaTable.create(
                self.path(name),
                table.columns,
                mode="ignore",
                name=name,
                partition_by=list(table.partition_by),
                configuration=_CONFIGURATION.get(name),
            )
        except (DeltaError, OSError) as error:
            if not DeltaTable.is_deltatable(self.path(name)):  # else another process made it at the same time
                raise LakeError(f"cannot make a lake at {self.uri}: {str(error).splitlines()[0]}") from error

    def _open(self, name: str, version: int | None = None) -> DeltaTable:
        try:
            return DeltaTable(self.path(name), version=version, storage_options=self.storage_options or None)
        except TableNotFoundError as error:
            raise LakeError(f"{self.uri} is not a lake: it has no table {name!r}") from error
        except DeltaError as error:
            at = "" if version is None else f"@{version}"
            raise LakeError(f"{name}{at} in {self.uri} cannot be read: {error}") from error


def _listed(fence: Fence | Sequence[Fence] | None) -> list[Fence]:
    return [] if fence is None else [fence] if isinstance(fence, Fence) else list(fence)


def _check_fences(name: str, table: DeltaTable, fences: Sequence[Fence], action: str) -> None:
    for fence in fences:
        last = table.transaction_version(fence.application)
        if last is not None and last > fence.seen:
            raise LakeError(f"{name}@{table.version()}: another process did {action} first ({fence.application})")


def collected(name: str, version: int, dataset: str, registration: str) -> LakeError:
    """Return the error of reading what a catalog version showed before it was collected."""
    return LakeError(
        f"{name}@{version} holds no registration {registration!r} of dataset {dataset!r} any more: "
        "gc has collected the catalog versions that show it"
    )


def arrow_dataset(table: DeltaTable) -> pads.Dataset:
    """Return a table's rows as an Arrow dataset.

    Its files are opened by Arrow itself: through deltalake's own file system, Arrow's reading threads call into Python,
    and a process that exits while they do is aborted ("terminate called without an active exception").
    """
    return table.to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(_local_path(table), pafs.LocalFileSystem()))


def _local_path(table: DeltaTable) -> str:
    return unquote(urlsplit(table.table_uri).path)


def _add_columns(name: str, table: DeltaTable, columns: pa.Schema) -> pa.Schema:
    """Add the columns that a table lacks, in a commit of their own; return its schema."""
    stored = pa.schema(table.schema().to_arrow())
    for column in columns:
        if column.name in stored.names and stored.field(column.name).type != column.type:
            raise LakeError(
                f"{name}@{table.version()}: another process made {column.name!r} "
                f"{stored.field(column.name).type}, here it is {column.type}; cast it, or give it another name"
            )
    missing = [column for column in columns if column.name not in stored.names]
    if missing:
        details = {"columns": ", ".join(column.name for column in missing)}
        table.alter.add_columns(
            [Field.from_arrow(column) for column in missing],
            commit_properties=commit_properties("add columns", details),
        )
        stored = pa.schema([*stored, *missing])
    return stored


def commit_properties(
    action: str, details: Mapping[str, Any] | None = None, fences: Sequence[Fence] = ()
) -> CommitProperties:
    """Return what a commit says about itself in the history: action, user, details."""
    metadata = {"mixlake.action": action, "mixlake.user": user_name()}
    metadata.update({f"mixlake.{key}": str(value) for key, value in (details or {}).items()})
    transactions = [Transaction(fence.application, fence.number) for fence in fences]
    return CommitProperties(custom_metadata=metadata, app_transactions=transactions or None)


def user_name() -> str:
    """Return who is writing, as the history names them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id that has no name
        return str(os.getuid())
