"""The format interface, and the formats there are.

A format does two things: ``scan`` files into blocks of samples with their addresses, and ``read`` samples back by
address. Registration uses the first, training the second; nothing else knows how a file is laid out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from mixlake.catalog.errors import ConfigError, listed, nearest
from mixlake.catalog.format_files import FilesFormat
from mixlake.catalog.format_jsonl import JsonLinesFormat
from mixlake.catalog.format_parquet import ParquetFormat
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, Span


class Format(Protocol):
    """How one kind of file holds samples."""

    @property
    def name(self) -> str:
        """The word that ``format=`` takes."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """File name endings by which the format is inferred."""

    @property
    def options(self) -> frozenset[str]:
        """Names of the options it takes."""

    def scan(
        self, files: Sequence[DataFile], fields: Sequence[FieldPath], options: Mapping[str, Any]
    ) -> Iterator[Block]:
        """Yield the samples of all files in storage order, with those of ``fields`` that the records have.

        A sample's file_id is the file's index in ``files``.
        """

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the records of the spans, in the spans' order; ``fields`` None means all fields."""


FORMATS: dict[str, Format] = {f.name: f for f in (FilesFormat(), JsonLinesFormat(), ParquetFormat())}


def get_format(name: str) -> Format:
    """Return the format called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; there are: {listed(FORMATS)}.{nearest(name, FORMATS)}")
    return FORMATS[name]


def infer_format(files: Sequence[DataFile]) -> Format:
    """Return the format that the files' names say.

    Raises:
        ConfigError: the names say none, or several.
    """
    found = {f.name for file in files for f in FORMATS.values() if file.path.lower().endswith(f.suffixes or ("\0",))}
    unknown = [file.path for file in files if not file.path.lower().endswith(known_suffixes())]
    if len(found) != 1 or unknown:
        shown = f"{listed(sorted(found))} and others" if found and unknown else listed(sorted(found))
        example = f" (such as {unknown[0]!r})" if unknown else ""
        raise ConfigError(
            f"cannot infer one format from {len(files)} files{example}: their names say {shown}; "
            f"pass format=, one of: {listed(FORMATS)}"
        )
    return FORMATS[found.pop()]


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
    return tuple(suffix for f in FORMATS.values() for suffix in f.suffixes)
