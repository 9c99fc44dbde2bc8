"""From text to token ids: bytes, tokenizer files of several kinds, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from mixlake.catalog.errors import ConfigError
from mixlake.catalog.token_lists import TokenLists, framed
from mixlake.catalog.tokenizer_files import Vocabulary, read_vocabulary
from mixlake.catalog.tokenizer_libraries import FASTEST, LIBRARIES, Encoder, Texts, as_strings, choose_encoder

TokenizerSpec: TypeAlias = "str | Path | TokenizerFile | Callable[[str], Sequence[int]]"
"""``bytes``, the path of a tokenizer file, a TokenizerFile, or a callable from text to ids (a module's function, for
workers)."""

_BEGINNINGS = ("<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>", "[BOS]", "[CLS]")
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFile:
    """A tokenizer file, and how to use it.

    The file is a ``tokenizer.json`` of the tokenizers library, a file of ranks as tiktoken has them (a token in base64
    and its rank per line), or Mistral's ``tekken.json``; which one it is, its content says.
    """

    path: str | Path
    bos: str | bool | None = None
    """What begins a document: a token's name, True for the vocabulary's own, False for nothing; None for what the
    file's own template puts there. A document that has it already does not get it twice."""
    eos: str | bool | None = None
    """What ends a document, likewise; None for what the template puts there, else for the vocabulary's own."""
    library: str = FASTEST
    """``fastest`` (gigatoken, where it gives the ids of the reference), or the name of the one to use."""
    pattern: str | None = None
    """For a file of ranks: the regular expression that splits text before tokens are merged, or the name of an encoding
    that has it (``r50k_base``, ``cl100k_base``, ``o200k_base``); None where the file has that name."""
    special_tokens: tuple[tuple[str, int], ...] = ()
    """For a file of ranks: names and ids of tokens that no text contains, such as the one that ends a document."""


class Tokenizer(Protocol):
    """Turns documents into ids, what begins and ends each of them included."""

    @property
    def name(self) -> str:
        """Tells tokenizers apart: two of one name give the same ids."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this; 0 where it is not known."""

    @property
    def pad_id(self) -> int:
        """The id that fills what is left of a sequence."""

    def encode(self, texts: Texts) -> TokenLists:
        """Return the ids of each document."""


class ByteTokenizer:
    """UTF-8 bytes are ids 0 to 255; 256 ends a document.

    Lone surrogates stand for bytes that were not UTF-8 (``surrogateescape``), and become those bytes again.

    >>> ByteTokenizer().encode(["hé"])[0].tolist()
    [104, 195, 169, 256]
    """

    name = "bytes"
    vocab_size = 257
    pad_id = 256

    def encode(self, texts: Texts) -> TokenLists:
        """Return the bytes of each text, and 256."""
        contents = [text.encode("utf-8", "surrogateescape") for text in as_strings(texts)]
        bounds = np.zeros(len(contents) + 1, np.int64)
        np.cumsum([len(content) + 1 for content in contents], out=bounds[1:])
        ids = np.frombuffer(b"\0".join([*contents, b""]), np.uint8).astype(np.int32)
        ids[bounds[1:] - 1] = 256
        return TokenLists(ids=ids, bounds=bounds)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTokenizer:
    """A vocabulary, a library that encodes with it, and what begins and ends a document."""

    vocabulary: Vocabulary
    encoder: Encoder
    bos_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]

    @property
    def name(self) -> str:
        """The kind of file, a hash of its content, and what is put around documents."""
        return f"{self.vocabulary.name} {list(self.bos_ids)} {list(self.eos_ids)}"

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return self.vocabulary.size

    @property
    def pad_id(self) -> int:
        """The id that ends documents, or 0."""
        return self.eos_ids[-1] if self.eos_ids else 0

    def encode(self, texts: Texts) -> TokenLists:
        """Return the ids of each text; names of special tokens within it count as the library says."""
        return framed(self.encoder.encode(texts), self.bos_ids, self.eos_ids)


class CallableTokenizer:
    """Any function from text to ids; it decides itself what begins and ends a document."""

    vocab_size = 0
    pad_id = 0

    def __init__(self, function: Callable[[str], Sequence[int]]) -> None:
        self._function = function
        self.name = f"callable {getattr(function, '__qualname__', type(function).__qualname__)}"

    def encode(self, texts: Texts) -> TokenLists:
        """Return what the function gives for each text."""
        return TokenLists.of([self._function(text) for text in as_strings(texts)])


def load_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """Return the tokenizer that a spec names.

    Raises:
        ConfigError: the file is missing or cannot be read, lacks a token that is asked for, or the spec is none of
            those there are.
        ImportError: the library that the file needs is not installed.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if isinstance(spec, (str, Path)):
        spec = TokenizerFile(path=spec)
    if isinstance(spec, TokenizerFile):
        return _load_file(spec)
    if callable(spec):
        return CallableTokenizer(spec)
    raise ConfigError(
        f"tokenizer is {spec!r}; expected 'bytes', the path of a tokenizer file, a TokenizerFile, or a callable"
    )


def settled(spec: TokenizerSpec, tokenizer: Tokenizer) -> TokenizerSpec:
    """Return a spec that names the library which was chosen, so that other processes need not choose again."""
    if not isinstance(tokenizer, FileTokenizer):
        return spec
    file = spec if isinstance(spec, TokenizerFile) else TokenizerFile(path=str(spec))
    return replace(file, library=tokenizer.encoder.library)


def _load_file(file: TokenizerFile) -> FileTokenizer:
    if file.library not in (FASTEST, *LIBRARIES):
        raise ConfigError(f"tokenizer library is {file.library!r}; expected one of {', '.join((FASTEST, *LIBRARIES))}")
    vocabulary = read_vocabulary(file.path, pattern=file.pattern, special_tokens=dict(file.special_tokens))
    encoder, template = choose_encoder(vocabulary, file.library)
    ends = _known(vocabulary, _ENDS)
    return FileTokenizer(
        vocabulary=vocabulary,
        encoder=encoder,
        bos_ids=_asked(file.bos, template[0], _BEGINNINGS, vocabulary, "bos"),
        eos_ids=_asked(file.eos, template[1] or ends, _ENDS, vocabulary, "eos"),
    )


def _asked(
    asked: str | bool | None, default: tuple[int, ...], names: Sequence[str], vocabulary: Vocabulary, setting: str
) -> tuple[int, ...]:
    """Return the ids that a setting names."""
    if asked is None:
        return default
    if asked is False:
        return ()
    found = default if asked is True and default else _known(vocabulary, names if asked is True else (str(asked),))
    if not found:
        wanted = f"none of {', '.join(names)}" if asked is True else f"no token {asked!r}"
        raise ConfigError(f"tokenizer {str(vocabulary.path)!r} has {wanted}, which {setting}={asked!r} asks for")
    return found


def _known(vocabulary: Vocabulary, names: Sequence[str]) -> tuple[int, ...]:
    found = (vocabulary.special_tokens.get(name) for name in names)
    return next(((token,) for token in found if token is not None), ())
