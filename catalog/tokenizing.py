"""Tokenizes a dataset once: its tokens as Megatron files, registered as a dataset with the properties that it has.

The files come in shards, in the order of the samples. A shard that has its name is whole, so that whoever is
interrupted goes on behind the last of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from mixlake.catalog.catalog import Catalog
from mixlake.catalog.errors import ConfigError
from mixlake.catalog.fields import parse_path
from mixlake.catalog.megatron_index import HEADER
from mixlake.catalog.megatron_writer import MegatronWriter
from mixlake.catalog.parallel import in_order, num_cores
from mixlake.catalog.properties import FieldWidenedError
from mixlake.catalog.records import Dataset, Progress
from mixlake.catalog.rereading import Rereading, as_declared, column_name, index_rows
from mixlake.catalog.scanning import probe_types
from mixlake.catalog.token_lists import TokenLists
from mixlake.catalog.tokenizers import Tokenizer, TokenizerSpec, load_tokenizer

NUM_TOKENS = "num_tokens"
_TOKENS_PER_SHARD = 256 << 20
_MANIFEST = "tokenized.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptProperty:
    """A property that documents had before they were tokenized: it lies beside the tokens."""

    folder: str
    """Where the files of tokens are."""
    name: str
    """The property."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it needs."""
        return ("_path", "document")

    def __call__(self, records: pa.RecordBatch) -> pa.Array:
        """Return the property of each document."""
        paths, documents = records.column(0), records.column(1)
        found = [pa.nulls(0)]
        for path in paths.unique().to_pylist():  # a block's documents are of one file after the other
            stored = _properties(str(Path(self.folder, path).with_suffix(".properties")))
            found += stored.column(self.name).take(documents.filter(pc.equal(paths, path))).chunks
        kinds = [column.type for column in found if len(column)]
        return pa.chunked_array(found[1:], kinds[0]).combine_chunks() if kinds else found[0]


def tokenize(
    catalog: Catalog,
    dataset: str,
    name: str,
    folder: str | Path,
    *,
    tokenizer: TokenizerSpec,
    replace: bool = False,
    tokens_per_shard: int = _TOKENS_PER_SHARD,
    progress: Progress | None = None,
) -> int:
    """Write the tokens of a dataset and register them as another; return the new catalog version.

    Documents come in the order of the samples, with bos and eos as the tokenizer puts them; one without a text has no
    tokens. The new dataset has the properties of the old one, and ``num_tokens``. Interrupted and called again with
    the same arguments, it goes on behind the last whole shard.

    Args:
        catalog: where the dataset is.
        dataset: its name.
        name: the name of the new one.
        folder: where the files are written; a new folder, or one that was begun with.
        tokenizer: see `load_tokenizer`.
        replace: whether the new dataset may take the place of one of its name.
        tokens_per_shard: a file ends with the block of samples that fills it.
        progress: called with samples done and samples in all.

    Raises:
        ConfigError: the folder holds something else, or the dataset holds tokens already.
        DataError: a file has changed since it was registered, or a sample is no text.
        LakeError: there is no such dataset.
    """
    source, loaded, target = catalog.dataset(dataset), load_tokenizer(tokenizer), Path(os.path.abspath(folder))
    _claim(target, source, loaded)
    task = _Task(catalog=catalog, source=source, tokenizer=loaded, folder=target, tokens_per_shard=tokens_per_shard)
    types: dict[Any, pa.DataType] = {}
    while True:
        try:
            _write_shards(task, types, progress)
            break
        except FieldWidenedError as widened:  # read again from the last whole shard on
            types[widened.path] = widened.kind
    kept = [prop.name for prop in source.properties if prop.name != NUM_TOKENS]
    properties: dict[str, Any] = {one: KeptProperty(folder=str(target), name=one) for one in kept}
    properties[NUM_TOKENS] = NUM_TOKENS
    return catalog.register(name, f"{target}/*.bin", format="megatron", properties=properties, replace=replace)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    catalog: Catalog
    source: Dataset
    tokenizer: Tokenizer
    folder: Path
    tokens_per_shard: int

    @property
    def token_type(self) -> np.dtype[Any]:
        """The narrowest type that has room for the vocabulary."""
        size = self.tokenizer.vocab_size
        return np.dtype(np.uint16 if 0 < size <= 1 << 16 else np.int32)

    @property
    def text(self) -> str:
        """The column that holds the texts."""
        return column_name(parse_path(self.source.text))


def _claim(folder: Path, source: Dataset, tokenizer: Tokenizer) -> None:
    """Take a folder for some tokens, or find it taken for the same.

    Raises:
        ConfigError: it holds something else.
    """
    manifest = {"dataset": source.name, "registrations": list(source.registrations), "tokenizer": tokenizer.name}
    path = folder / _MANIFEST
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != manifest:
            raise ConfigError(f"folder {str(folder)!r} holds tokens of {found}, not of {manifest}; choose another")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"folder {str(folder)!r} is not empty, and holds no tokens; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(manifest), encoding="utf-8")
    os.replace(unfinished, path)


def _write_shards(task: _Task, types: dict[Any, pa.DataType], progress: Progress | None) -> None:
    """Write the shards that are not there yet."""
    number, num_done = 0, 0
    while (index := task.folder / f"{number:05}.idx").is_file():
        with index.open("rb") as stream:
            num_done += HEADER.unpack(stream.read(HEADER.size))[3]
        number += 1
    with closing(_tokenized(task, types, num_done)) as blocks:
        block = next(blocks, None)
        while block is not None:
            columns = block[1].schema
            with MegatronWriter(task.folder / f"{number:05}", task.token_type, columns) as writer:
                while block is not None and writer.num_tokens < task.tokens_per_shard:
                    writer.write(*block)
                    num_done += len(block[0])
                    if progress is not None:
                        progress(num_done, task.source.num_samples, "samples")
                    block = next(blocks, None)
                writer.finish()
            number += 1


def _tokenized(task: _Task, types: dict[Any, pa.DataType], num_done: int) -> Generator[tuple[TokenLists, pa.Table]]:
    """Yield tokens and properties of the samples behind the first ``num_done``; several threads tokenize."""
    kept = [prop.name for prop in task.source.properties if prop.name != NUM_TOKENS]

    def work(rows: pa.Table) -> Iterator[tuple[TokenLists, pa.Table]]:
        texts = rows[task.text].combine_chunks()
        if not pa.types.is_string(texts.type) and not pa.types.is_null(texts.type):
            raise ConfigError(
                f"dataset {task.source.name!r}: field {task.source.text!r} is {texts.type}, expected text to tokenize"
            )
        yield _encode(task.tokenizer, texts), rows.select(kept)

    with closing(_rows(task, types, num_done)) as tables:
        yield from in_order(work, tables, num_cores())


def _rows(task: _Task, types: dict[Any, pa.DataType], num_done: int) -> Generator[pa.Table]:
    """Yield index rows with their texts, behind the first ``num_done``."""
    text = as_declared(parse_path(task.source.text))
    for part in task.source.parts:
        if num_done >= part.num_samples:
            num_done -= part.num_samples
            continue
        reading = Rereading(task.catalog.lake, task.source, part, (text,))
        known = {**probe_types(reading.scan), **types}
        index = index_rows(task.catalog.lake, task.source, part, task.source.properties)
        yield from reading.beside(_behind(index, num_done), known)
        num_done = 0


def _behind(tables: Iterator[pa.Table], num: int) -> Iterator[pa.Table]:
    """Pass over the first ``num`` rows."""
    for table in tables:
        passed = min(num, len(table))
        num -= passed
        if passed < len(table):
            yield table.slice(passed)


def _encode(tokenizer: Tokenizer, texts: pa.Array) -> TokenLists:
    """Return the ids of each text, none for a null."""
    is_there = texts.is_valid().to_numpy(zero_copy_only=False)
    lists = tokenizer.encode(texts.drop_null().cast(pa.string()))
    lengths = np.zeros(len(texts), np.int64)
    lengths[is_there] = lists.lengths
    return TokenLists(ids=lists.ids, bounds=np.append(0, np.cumsum(lengths)))


@cache
def _properties(path: str) -> pa.Table:
    """Return the properties of a file's documents, mapped into memory."""
    return ipc.open_file(pa.memory_map(path)).read_all()
