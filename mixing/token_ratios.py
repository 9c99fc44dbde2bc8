"""Tokens per byte of each component: as they are given, or measured with a tokenizer on some of its documents.

Documents are taken evenly: blocks in proportion to how many documents of the component they hold, and documents evenly
within a block. Which ones these are follows from the catalog version alone, so that the same inputs give the same run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datafusion import DataFrame

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.columns import read_columns
from mixlake.catalog.data_files import check_unchanged
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.fields import parse_path, token_ids
from mixlake.catalog.formats import get_format
from mixlake.catalog.publishing import registered_files
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import DataFile
from mixlake.catalog.spans import Spans
from mixlake.catalog.tokenizers import Tokenizer, TokenizerSpec, load_tokenizer
from mixlake.mixing.mixture import Unit
from mixlake.mixing.program import Leaf

_NUM_BLOCKS = 8
_MAX_DOCUMENTS = 256
_MIN_DOCUMENTS = 32
_ALL_DOCUMENTS = 16_384
"""Of all components together, where that leaves each of them its least number."""
_ALL_BLOCKS = 1_024
"""Likewise, where that leaves each component two: the index rows of all of them are read."""
_MAX_BYTES = 4 << 20
"""Of a component's documents."""
_BYTES = "num_bytes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a component's ratio rests on."""

    num_documents: int
    num_bytes: int
    """Sum of their property ``num_bytes``."""
    num_tokens: int


@dataclass(slots=True)
class TokenRatios:
    """Tokens per byte by component, found when a component is first met."""

    catalog: Catalog
    given: float | Mapping[str, float] | None
    tokenizer: Tokenizer | None
    source: str | None
    """What the tokenizer is loaded from; None for a function."""
    found: dict[str, float] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)

    @classmethod
    def declared(
        cls, catalog: Catalog, unit: Unit, given: float | Mapping[str, float] | None, tokenizer: TokenizerSpec | None
    ) -> TokenRatios | None:
        """Return the ratios of a run; None where nothing is estimated.

        Raises:
            ConfigError: there is nothing to estimate, or both a ratio and a tokenizer are given.
        """
        if given is None and tokenizer is None:
            return None
        name = "tokens_per_byte" if tokenizer is None else "tokenizer"
        if given is not None and tokenizer is not None:
            raise ConfigError("tokens_per_byte and tokenizer both say how many tokens a byte is; leave one of them out")
        if unit is not Unit.TOKENS:
            raise ConfigError(f"{name} is given, but the mixture counts {unit.value}; leave it out")
        if Unit.TOKENS.property_name in catalog.samples().schema().names:
            raise ConfigError(f"{name} is given, but the property 'num_tokens' counts tokens; leave one of them out")
        source = str(tokenizer) if isinstance(tokenizer, (str, Path)) else None
        if source not in (None, "bytes"):
            source = os.path.abspath(os.path.expanduser(str(source)))
        return cls(catalog, given, None if tokenizer is None else load_tokenizer(tokenizer), source)

    def of(self, leaves: Sequence[Leaf], samples: DataFrame) -> dict[str, float]:
        """Return the ratios of some components of one mixture.

        Args:
            leaves: the components.
            samples: the samples that pass the mixture's filter.

        Raises:
            ConfigError: a ratio is missing or out of range, or no document has a token.
            DataError: a document cannot be read.
        """
        if self.tokenizer is None:
            self.found.update({leaf.name: self._given_ratio(leaf.name) for leaf in leaves})
        elif any(leaf.name not in self.found for leaf in leaves):
            known = self.measured
            self.measured = {**_measure(self.catalog, samples, leaves, self.tokenizer), **known}
            mine = {leaf.name: self.measured[leaf.name] for leaf in leaves}
            num_bytes, num_tokens = (sum(getattr(m, key) for m in mine.values()) for key in ("num_bytes", "num_tokens"))
            if not num_tokens:
                raise ConfigError(
                    f"tokenizer: no document of {listed(mine)} has tokens in samples@{self.catalog.version}"
                )
            for name, m in mine.items():
                ratio = m.num_tokens / m.num_bytes if m.num_tokens else num_tokens / num_bytes
                self.found.setdefault(name, ratio)
        return {leaf.name: self.found[leaf.name] for leaf in leaves}

    def measurement(self) -> dict[str, Any] | None:
        """Return what the ratios rest on, as JSON can hold it; None where they were given."""
        if self.tokenizer is None:
            return None
        components = {name: asdict(measured) for name, measured in self.measured.items()}
        return {"tokenizer": self.tokenizer.name, "source": self.source, "components": components}

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse a ratio that is given for a component that there is not."""
        if not isinstance(self.given, Mapping):
            return
        for name in self.given:
            if name not in names:
                known = listed(names)
                raise ConfigError(f"tokens_per_byte: no component {name!r}; there are: {known}.{nearest(name, names)}")

    def _given_ratio(self, name: str) -> float:
        given = self.given
        if isinstance(given, Mapping) and name not in given:
            raise ConfigError(f"tokens_per_byte lacks component {name!r}; it has: {listed(given)}")
        ratio = given[name] if isinstance(given, Mapping) else given
        path = f"tokens_per_byte.{name}" if isinstance(given, Mapping) else "tokens_per_byte"
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 16:
            raise ConfigError(f"{path} is {ratio!r}; expected a number up to 16")
        return float(ratio)


def _measure(catalog: Catalog, samples: DataFrame, leaves: Sequence[Leaf], tokenizer: Tokenizer) -> dict[str, Measured]:
    """Count the bytes and tokens of some documents of each component."""
    owned = samples.with_column("owner", samples.parse_sql_expr(_owner(leaves))).filter(
        samples.parse_sql_expr(f"{_BYTES} > 0")
    )
    owned = owned.filter(owned.parse_sql_expr("owner >= 0"))
    ordinal = {name: index for index, name in enumerate(r for d in catalog.list_datasets() for r in d.registrations)}
    limit = max(_MIN_DOCUMENTS, min(_MAX_DOCUMENTS, _ALL_DOCUMENTS // len(leaves)))
    num_blocks = max(2, min(_NUM_BLOCKS, _ALL_BLOCKS // len(leaves)))
    blocks = _chosen_blocks(owned, ordinal, num_blocks, limit)
    reader = _Reader(catalog)
    found: dict[str, Measured] = {}
    rows = _rows(owned, blocks)
    for index, leaf in enumerate(leaves):
        mine = [rows[block].filter(_equal(rows[block]["owner"], index)) for block in blocks.get(index, ())]
        documents = list(_some_documents(mine, limit))
        num_tokens = _num_tokens(reader, documents, tokenizer)
        num_bytes = sum(document[_BYTES] for document in documents)
        found[leaf.name] = Measured(num_documents=len(documents), num_bytes=num_bytes, num_tokens=num_tokens)
    return found


def _owner(leaves: Sequence[Leaf]) -> str:
    """Return SQL for the number of the component that a sample belongs to: the first that it matches; else -1."""
    cases = []
    for index, leaf in enumerate(leaves):
        conditions = [f"({p}\n)" for p in leaf.requires] + [f"(({p}\n) IS NOT TRUE)" for p in leaf.excludes]
        cases.append(f"WHEN {' AND '.join(conditions) or 'true'} THEN {index}")
    return f"CASE {' '.join(cases)} ELSE -1 END"


Block = tuple[str, int]
"""Registration and number of a block."""


def _chosen_blocks(owned: DataFrame, ordinal: Mapping[str, int], least: int, limit: int) -> dict[int, list[Block]]:
    """Return some blocks by component, evenly spaced over its documents as they are stored.

    Few where they are large, as each has to be decoded; more where these would not hold enough documents.
    """
    keys = [owned.parse_sql_expr(name) for name in ("owner", "registration", "block")]
    counted = owned.aggregate(keys, [owned.parse_sql_expr("count(*)").alias("n")]).to_arrow_table().to_pylist()
    by_owner: dict[int, list[tuple[Block, int]]] = {}
    for row in sorted(counted, key=lambda row: (ordinal[row["registration"]], row["block"])):
        by_owner.setdefault(row["owner"], []).append(((row["registration"], row["block"]), row["n"]))
    chosen = {}
    for owner, found in by_owner.items():
        sizes = np.array([n for _, n in found])
        ends, num = np.cumsum(sizes), least
        while True:
            places = np.unique(np.searchsorted(ends, _even(int(ends[-1]), num), side="right"))
            if num >= limit or sizes[places].sum() >= limit:
                break
            num *= 2
        chosen[owner] = [found[place][0] for place in places.tolist()]
    return chosen


def _even(total: int, num: int) -> list[int]:
    """Return up to ``num`` evenly spaced numbers below ``total``.

    >>> _even(100, 4), _even(3, 4)
    ([12, 37, 62, 87], [0, 1, 2])
    """
    return list(range(total)) if total <= num else [(2 * k + 1) * total // (2 * num) for k in range(num)]


def _rows(owned: DataFrame, blocks: Mapping[int, Sequence[Block]]) -> dict[Block, pa.Table]:
    """Return the index rows of some blocks, each in storage order."""
    wanted: dict[str, set[int]] = {}
    for registration, block in (block for chosen in blocks.values() for block in chosen):
        wanted.setdefault(registration, set()).add(block)
    columns = ["owner", "block", "file_id", "row", "byte_start", "byte_stop", _BYTES]
    found: dict[Block, pa.Table] = {}
    for registration, numbers in wanted.items():
        condition = f"registration = '{registration}' AND block IN ({', '.join(map(str, sorted(numbers)))})"
        table = owned.filter(owned.parse_sql_expr(condition)).select(*columns).to_arrow_table()
        table = table.sort_by([("block", "ascending"), ("file_id", "ascending"), ("row", "ascending")])
        table = table.append_column("registration", pa.array([registration] * len(table), pa.string()))
        ordered = sorted(numbers)
        starts, stops = (np.searchsorted(table["block"].to_numpy(), ordered, side=side) for side in ("left", "right"))
        for number, start, stop in zip(ordered, starts.tolist(), stops.tolist(), strict=True):
            found[registration, number] = table.slice(start, stop - start)
    return found


def _equal(column: pa.ChunkedArray, value: int) -> pa.Array:
    return pa.array(column.to_numpy() == value)


def _some_documents(blocks: Sequence[pa.Table], limit: int) -> Iterator[dict[str, Any]]:
    """Yield some documents of each block in turn, evenly spaced, until there are many or they hold many bytes."""
    per_block = -(-limit // max(1, len(blocks)))
    chosen = [block.take(_even(len(block), per_block)).to_pylist() for block in blocks]
    num_bytes = 0
    for number, document in enumerate(d for turn in zip_longest(*chosen) for d in turn if d is not None):
        if number >= limit or (number >= _NUM_BLOCKS and num_bytes >= _MAX_BYTES):
            return
        num_bytes += document[_BYTES]
        yield document


def _num_tokens(reader: _Reader, documents: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> int:
    contents = list(reader.contents(documents))
    texts = [content for content in contents if isinstance(content, str)]
    ids = [token_ids(content) for content in contents if not isinstance(content, str)]
    num_encoded = len(tokenizer.encode(texts).ids) if texts else 0
    return num_encoded + sum(len(known) for known in ids if known is not None)


class _Reader:
    """Reads the text field of documents where they lie."""

    def __init__(self, catalog: Catalog) -> None:
        self._lake = catalog.lake
        self._datasets = {name: dataset for dataset in catalog.list_datasets() for name in dataset.registrations}
        self._files: dict[str, dict[int, DataFile]] = {}
        self._cache = ReadCache()

    def contents(self, documents: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Yield the contents of documents: texts, or token ids where they are tokenized already."""
        by_file: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for document in documents:
            by_file.setdefault((document["registration"], document["file_id"]), []).append(document)
        for (registration, file_id), mine in by_file.items():
            dataset = self._datasets[registration]
            if registration not in self._files:
                self._files[registration] = registered_files(self._lake, dataset.name, registration)
            file, path = self._files[registration][file_id], parse_path(dataset.text)
            check_unchanged(file, dataset.name, registration)
            spans = _spans(sorted(mine, key=lambda document: int(document["row"])))
            yield from read_columns(get_format(dataset.format), file, spans, [path], dataset.options, self._cache)[path]


def _spans(documents: Sequence[Mapping[str, Any]]) -> Spans:
    row = np.array([document["row"] for document in documents], np.int64)
    start, stop = (
        np.array([-1 if document[name] is None else document[name] for document in documents], np.int64)
        for name in ("byte_start", "byte_stop")
    )
    return Spans(row_start=row, row_stop=row + 1, byte_start=start, byte_stop=stop)
