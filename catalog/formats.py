"""The format interface, and the formats there are.

A format does two things: ``scan`` files into blocks of samples with their addresses, and ``read`` samples back by
address. Registration uses the first, training the second; nothing else knows how a file is laid out.

A package of one's own adds formats through the entry point group ``mixlake.formats``: a name, and a class without
arguments that has the members of `Format`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import pyarrow as pa

from mixlake.catalog.errors import ConfigError, listed, nearest
from mixlake.catalog.format_arrow import ArrowFormat
from mixlake.catalog.format_csv import CsvFormat
from mixlake.catalog.format_files import FilesFormat
from mixlake.catalog.format_jsonl import JsonLinesFormat
from mixlake.catalog.format_megatron import MegatronFormat
from mixlake.catalog.format_numpy import NumpyFormat
from mixlake.catalog.format_parquet import ParquetFormat
from mixlake.catalog.format_webdataset import WebDatasetFormat
from mixlake.catalog.problems import Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, Span

ENTRY_POINT_GROUP = "mixlake.formats"
_BUILT_IN = (
    FilesFormat,
    JsonLinesFormat,
    ParquetFormat,
    ArrowFormat,
    MegatronFormat,
    NumpyFormat,
    CsvFormat,
    WebDatasetFormat,
)


class Format(Protocol):
    """How one kind of file holds samples."""

    @property
    def name(self) -> str:
        """The word that ``format=`` takes."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """File name endings by which the format is inferred."""

    @property
    def companions(self) -> tuple[str, ...]:
        """Endings of ``/path`` of files that accompany this format's and hold no samples: ``/state.json``, ``.idx``."""

    @property
    def content(self) -> str:
        """The field that is a sample's text, or its tokens, unless registration is told another."""

    @property
    def options(self) -> frozenset[str]:
        """Names of the options it takes."""

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return the parts of a file that may be scanned side by side, in storage order; at least one if it is sound.

        A format that cannot start in the middle of a file returns one part, ``[FilePart(file_id=…, file=…)]``.
        """

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the samples of the parts, in order, in blocks of some megabytes; many small files may share a block.

        Args:
            parts: what to scan.
            fields: the fields to take out of the records, each with the type that it is known to have so far (Arrow's
                null type where nothing is known). A column may have another type: the caller sorts that out.
            options: of the format.
            problems: told of what cannot be read; the scan then goes on behind it.
        """

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the records of the spans, in the spans' order; ``fields`` None means all fields.

        Raises:
            DataError: the file is not what it was when it was scanned.
        """


@cache
def formats() -> Mapping[str, Format]:
    """Return all formats by name: those of this package, and those that installed packages add.

    Raises:
        ConfigError: an added format cannot be loaded, lacks a member, or takes a name that is taken.
    """
    found: dict[str, Format] = {kind.name: kind() for kind in _BUILT_IN}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found:
            raise ConfigError(f"{_described(entry)} takes the name of another format; there are: {listed(found)}")
        found[entry.name] = _load(entry)
    return found


def _load(entry: EntryPoint) -> Format:
    try:
        added: Format = entry.load()()
    except Exception as error:  # whatever somebody else's module raises
        raise ConfigError(f"{_described(entry)} cannot be loaded: {type(error).__name__}: {error}") from error
    lacking = [name for name, _ in inspect.getmembers(Format) if name[0] != "_" and not hasattr(added, name)]
    if lacking or added.name != entry.name:
        wrong = f"lacks {listed(lacking)}" if lacking else f"calls itself {added.name!r}"
        raise ConfigError(f"{_described(entry)} {wrong}")
    return added


def _described(entry: EntryPoint) -> str:
    return f"format {entry.name!r} ({ENTRY_POINT_GROUP}: {entry.value})"


def get_format(name: str) -> Format:
    """Return the format called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in formats():
        raise ConfigError(f"unknown format {name!r}; there are: {listed(formats())}.{nearest(name, formats())}")
    return formats()[name]


def infer_format(files: Sequence[DataFile]) -> Format:
    """Return the format that the files' names say.

    Raises:
        ConfigError: the names say none, or several.
    """
    claimed = {f.name for file in files for f in formats().values() if file.path.lower().endswith(f.suffixes)}
    files = [file for file in files if not any(is_companion(file, formats()[name]) for name in claimed)]
    found = {f.name for file in files for f in formats().values() if file.path.lower().endswith(f.suffixes)}
    unknown = [file.path for file in files if not file.path.lower().endswith(known_suffixes())]
    if len(found) != 1 or unknown:
        shown = f"{listed(sorted(found))} and others" if found and unknown else listed(sorted(found))
        example = f" (such as {unknown[0]!r})" if unknown else ""
        raise ConfigError(
            f"cannot infer one format from {len(files)} files{example}: their names say {shown}; "
            f"pass format=, one of: {listed(formats())}"
        )
    return formats()[found.pop()]


def is_companion(file: DataFile, data_format: Format) -> bool:
    """Say whether a file only accompanies files of the format."""
    return f"/{file.path}".endswith(data_format.companions)


def check_options(data_format: Format, options: Mapping[str, Any]) -> None:
    """Refuse options that the format does not take."""
    for name in options:
        if name not in data_format.options:
            raise ConfigError(
                f"format {data_format.name!r} has no option {name!r}; it takes: {listed(sorted(data_format.options))}."
                f"{nearest(name, data_format.options)}"
            )


def known_suffixes() -> tuple[str, ...]:
    """Return the file name endings of all formats."""
    return tuple(suffix for f in formats().values() for suffix in f.suffixes)
