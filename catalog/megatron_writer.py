"""Writes token ids as Megatron-LM's indexed datasets (see `mixlake.catalog.megatron_index`), a sequence per document.

The names that readers look for appear last: whoever is killed before leaves temporary files, which are written anew.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from mixlake.catalog.megatron_index import HEADER, MAGIC, TOKEN_TYPES, VERSION
from mixlake.catalog.token_lists import TokenLists

_CODES = {np.dtype(kind): code for code, kind in TOKEN_TYPES.items()}


class MegatronWriter:
    """Writes ``STEM.bin``, ``STEM.idx`` and beside them ``STEM.properties``: an Arrow file with a row per document."""

    def __init__(self, stem: Path, token_type: np.dtype[Any], columns: pa.Schema) -> None:
        self._stem = stem
        self._token_type = token_type
        self._files = ExitStack()
        self._tokens = self._files.enter_context(self._temporary(".bin").open("wb"))
        properties = self._files.enter_context(pa.OSFile(str(self._temporary(".properties")), "wb"))
        self._properties = self._files.enter_context(ipc.new_file(properties, columns))
        self._lengths: list[np.ndarray[Any, Any]] = []
        self.num_tokens = 0
        """Tokens written so far."""
        self.num_documents = 0
        """Documents written so far."""

    def write(self, tokens: TokenLists, properties: pa.Table) -> None:
        """Append some documents."""
        self._tokens.write(np.ascontiguousarray(tokens.ids, self._token_type).data)
        self._properties.write_table(properties)
        self._lengths.append(tokens.lengths)
        self.num_tokens += len(tokens.ids)
        self.num_documents += len(tokens)

    def finish(self) -> None:
        """Write the index, and give the files their names: that of the index comes last."""
        self._files.close()
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int64)
        pointers = (np.cumsum(lengths) - lengths) * self._token_type.itemsize
        header = HEADER.pack(MAGIC, VERSION, _CODES[self._token_type], len(lengths), len(lengths) + 1)
        with self._temporary(".idx").open("wb") as index:
            index.write(header + lengths.astype("<i4").tobytes() + pointers.astype("<i8").tobytes())
            index.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
        for suffix in (".bin", ".properties", ".idx"):
            with self._temporary(suffix).open("rb") as written:
                os.fsync(written.fileno())
            os.replace(self._temporary(suffix), self._stem.with_suffix(suffix))

    def __enter__(self) -> MegatronWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def _temporary(self, suffix: str) -> Path:
        return self._stem.with_suffix(f"{suffix}.unfinished")
