"""The Delta tables of one lake: made, read at a version, and appended to in single commits."""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, Schema, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from mixlake.catalog import schema
from mixlake.catalog.errors import ConfigError, LakeError

_WRITER = WriterProperties(compression="ZSTD")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """Lets only one of several processes go on: a Delta application transaction with the number it must follow."""

    application: str
    """What must not interleave: ``run:exp1``."""
    seen: int
    """The application's last number that this process knows of."""
    number: int
    """The number that the commit takes; higher than ``seen``."""


class Lake:
    """A folder of Delta tables. Handles are kept open: a commit through a kept handle reads only what is new.

    Handles may be used from several threads; they do not survive a fork.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        if "://" in uri:
            raise ConfigError(f"lake {uri!r}: only lakes on a local disk can be opened by this version")
        self.uri = os.path.abspath(os.path.expanduser(uri))
        self.storage_options = dict(storage_options or {})
        self._handles: dict[str, DeltaTable] = {}
        self._lock = threading.RLock()

    def exists(self) -> bool:
        """Say whether the root table is there: it is made last."""
        return DeltaTable.is_deltatable(self.path(schema.DATASETS))

    def create(self) -> None:
        """Make every table that is not there yet, the root last, so that a lake that exists is complete."""
        for name in [n for n in schema.TABLES if n != schema.DATASETS] + [schema.DATASETS]:
            table = schema.TABLES[name]
            DeltaTable.create(
                self.path(name), table.columns, mode="ignore", name=name, partition_by=list(table.partition_by)
            )

    def path(self, name: str) -> str:
        """Return where a table lies."""
        return os.path.join(self.uri, name)

    def table(self, name: str) -> DeltaTable:
        """Return a table's handle at its newest version.

        Raises:
            LakeError: the table is missing.
        """
        with self._lock:
            if name not in self._handles:
                self._handles[name] = self._open(name)
            else:
                self._handles[name].update_incremental()
            return self._handles[name]

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
        fence: Fence | None = None,
        replace_where: str | None = None,
    ) -> int:
        """Append rows in one commit and return the table's new version.

        Args:
            name: the table.
            rows: in the table's schema.
            action: what the commit does; it stands in the history.
            details: more for the history.
            fence: refuses the commit if another process made one like it since the fence was looked at.
            replace_where: rows that this predicate selects leave in the same commit; the new rows must match it.

        Raises:
            LakeError: the fence is broken.
        """
        with self._lock:
            handle = self.table(name)
            if fence is not None:
                last = handle.transaction_version(fence.application)
                if last is not None and last > fence.seen:
                    raise LakeError(f"{name}@{handle.version()}: another process did {action} first")
            data = rows.cast(schema.TABLES[name].columns)
            common: Any = {
                "writer_properties": _WRITER,
                "commit_properties": commit_properties(action, details, fence),
            }
            try:
                if replace_where is None:
                    write_deltalake(handle, data, mode="append", **common)
                else:
                    write_deltalake(handle, data, mode="overwrite", predicate=replace_where, **common)
            except CommitFailedError as error:
                raise LakeError(f"{name}: another process did {action} first ({error})") from error
            return self.table(name).version()

    def add_sample_files(self, actions: Sequence[AddAction], columns: pa.Schema, *, action: str) -> None:
        """Commit Parquet files that already lie in the `samples` folder, after adding the columns that it lacks."""
        with self._lock:
            handle = self.table(schema.SAMPLES)
            present = set(pa.schema(handle.schema().to_arrow()).names)
            missing = [Field.from_arrow(column) for column in columns if column.name not in present]
            if missing:
                handle.alter.add_columns(missing)
                handle = self.table(schema.SAMPLES)
            handle.create_write_transaction(
                list(actions),
                "append",
                Schema.from_arrow(pa.schema(handle.schema().to_arrow())),
                partition_by=[schema.REGISTRATION],
                commit_properties=commit_properties(action),
            )

    def _open(self, name: str, version: int | None = None) -> DeltaTable:
        try:
            return DeltaTable(self.path(name), version=version, storage_options=self.storage_options or None)
        except TableNotFoundError as error:
            raise LakeError(f"{self.uri} is not a lake: it has no table {name!r}") from error
        except DeltaError as error:
            at = "" if version is None else f"@{version}"
            raise LakeError(f"{name}{at} in {self.uri} cannot be read: {error}") from error


def commit_properties(
    action: str, details: Mapping[str, Any] | None = None, fence: Fence | None = None
) -> CommitProperties:
    """Return what a commit says about itself in the history: action, user, details."""
    metadata = {"mixlake.action": action, "mixlake.user": getpass.getuser()}
    metadata.update({f"mixlake.{key}": str(value) for key, value in (details or {}).items()})
    transactions = None if fence is None else [Transaction(fence.application, fence.number)]
    return CommitProperties(custom_metadata=metadata, app_transactions=transactions)
