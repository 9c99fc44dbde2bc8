"""From text to token ids: bytes, `tokenizer.json` files, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from mixlake.catalog.errors import ConfigError
from mixlake.catalog.records import IntArray

TokenizerSpec: TypeAlias = str | Path | Callable[[str], Sequence[int]]
"""``bytes``, the path of a tokenizer.json, or a callable from text to ids (a module's function, for workers)."""

_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")


class Tokenizer(Protocol):
    """Turns documents into ids; every document ends with ``eos_id`` where there is one."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this; 0 where it is not known."""

    @property
    def pad_id(self) -> int:
        """The id that fills the end of a lane's last sequence."""

    def encode(self, texts: Sequence[str]) -> list[IntArray]:
        """Return the ids of each document."""


class ByteTokenizer:
    """UTF-8 bytes are ids 0 to 255; 256 ends a document.

    Lone surrogates stand for bytes that were not UTF-8 (``surrogateescape``), and become those bytes again.

    >>> ByteTokenizer().encode(["hé"])[0].tolist()
    [104, 195, 169, 256]
    """

    vocab_size = 257
    pad_id = 256

    def encode(self, texts: Sequence[str]) -> list[IntArray]:
        """Return the bytes of each text, and 256."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> IntArray:
        content = text.encode("utf-8", "surrogateescape")
        ids = np.empty(len(content) + 1, np.int64)
        ids[:-1] = np.frombuffer(content, np.uint8)
        ids[-1] = 256
        return ids


class JsonTokenizer:
    """A `tokenizer.json` file, read by the tokenizers library; special tokens are not added, but for the last one."""

    def __init__(self, path: str | Path) -> None:
        try:
            from tokenizers import Tokenizer as Backend  # noqa: PLC0415  (an extra)
        except ImportError as error:
            raise ImportError(
                f"tokenizer {str(path)!r} needs the tokenizers library: pip install 'mixlake[tokenizers]'"
            ) from error
        if not Path(path).is_file():
            raise ConfigError(f"tokenizer {str(path)!r} is no file; expected 'bytes', or the path of a tokenizer.json")
        try:
            self._backend: Any = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for files it cannot read
            raise ConfigError(f"tokenizer {str(path)!r} cannot be read: {error}") from error
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        known = (self._backend.token_to_id(token) for token in _END_OF_TEXT)
        self.eos_id: int | None = next((token_id for token_id in known if token_id is not None), None)
        self.pad_id: int = 0 if self.eos_id is None else self.eos_id

    def encode(self, texts: Sequence[str]) -> list[IntArray]:
        """Return the ids of each text, and the id that ends a document where the vocabulary has one."""
        end = [] if self.eos_id is None else [self.eos_id]
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids + end, np.int64) for encoding in encodings]


class CallableTokenizer:
    """Any function from text to ids; it decides itself what ends a document."""

    vocab_size = 0
    pad_id = 0

    def __init__(self, function: Callable[[str], Sequence[int]]) -> None:
        self._function = function

    def encode(self, texts: Sequence[str]) -> list[IntArray]:
        """Return what the function gives for each text."""
        return [np.asarray(self._function(text), np.int64) for text in texts]


def load_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """Return the tokenizer that a spec names.

    Raises:
        ConfigError: the file is missing or cannot be read, or the spec is none of the three.
        ImportError: the tokenizers library is not installed.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if isinstance(spec, (str, Path)):
        return JsonTokenizer(spec)
    if callable(spec):
        return CallableTokenizer(spec)
    raise ConfigError(f"tokenizer is {spec!r}; expected 'bytes', the path of a tokenizer.json, or a callable")
