"""Libraries that turn texts into ids with a vocabulary: a reference for each kind, and a faster one that must agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from mixlake.catalog.errors import ConfigError
from mixlake.catalog.token_lists import TokenLists
from mixlake.catalog.tokenizer_files import Vocabulary, as_tokenizer_json

Texts: TypeAlias = "Sequence[str] | pa.Array"
"""Texts as a sequence of strings, or as an Arrow column of strings without nulls."""
Template: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""What a tokenizer's own template puts before and after a text."""

FASTEST = "fastest"
_PROBES = (
    "The quick brown fox doesn't jump over 13 lazy dogs; it'll SLEEP, we've heard. I'm HERE'S CAN'T ye'd",
    "Grüße aus Köln: das Straßenfest kostet 1.234,56 € — „schön“, nicht?",
    "Les élèves n'ont pas mangé l'œuf à Noël ; c'est tout.",
    "Быстрая лисица прыгает через ленивую собаку. Ёлка №5",
    "素早い茶色の狐は、のろまな犬を飛び越える。カタカナ、ひらがな。我们在北京学习机器学习。",
    "안녕하세요 세계. مرحبا بالعالم ١٢٣ שלום עולם हिन्दी में लिखा हुआ पाठ ไม่มีช่องว่าง",
    "👍🏽 family: 👨‍👩‍👧‍👦 flags 🇩🇪🇫🇷 e\u0301 \u200b\ufeff n\u0303 ①½ⅷ ﬁ",
    "def f(x):\n\tif x != 0:  # comment\n\t\treturn {'a': [1, 2.5e-3]}\r\n\r\n    pass\n\n\n",
    "   leading and trailing   \n \n\t\t  \u00a0\u3000\u2028 end  ",
    "12345678901234567890 3.14159 1,000,000 0xDEADBEEF",
    "a" * 700 + " " * 300 + "=" * 129 + "\n" * 20 + "ab" * 150,
    "\x00\x01\x7f control \ufffd \U0010ffff <|x|> </y> <s> [z]",
    "https://example.org/a_b-c?d=%20&e=f#g user@host.net C:\\path\\file.txt $x^2$ a_b__c",
    "",
    " ",
    "\n",
)
"""Texts on which a library must agree with the reference: languages, numbers, code, white space, emoji, odd characters.
"""


class Encoder(Protocol):
    """Turns texts into ids, with nothing before or after them."""

    @property
    def library(self) -> str:
        """The library's name."""

    def encode(self, texts: Texts) -> TokenLists:
        """Return the ids of each text. Lone surrogates count as U+FFFD."""


class TokenizersEncoder:
    """The tokenizers library: the reference for a tokenizer.json."""

    library = "tokenizers"

    def __init__(self, vocabulary: Vocabulary) -> None:
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415  (an extra)
        except ImportError as error:
            raise _missing(vocabulary, "tokenizers") from error
        try:
            self._backend: Any = Tokenizer.from_str(vocabulary.content)
        except Exception as error:  # the library raises bare Exception for files it cannot read
            raise ConfigError(f"tokenizer {str(vocabulary.path)!r} cannot be read: {error}") from error
        self._backend.no_truncation()  # a file may be set to cut or to pad what it encodes
        self._backend.no_padding()

    def encode(self, texts: Texts) -> TokenLists:
        """Return the ids of each text."""
        return _despite_surrogates(self._encode, as_strings(texts))

    def template(self, vocabulary: Vocabulary) -> Template:
        """Return what the file's template puts before and after a text.

        Raises:
            ConfigError: it does more to a text than that.
        """
        plain = self._backend.encode("a", add_special_tokens=False).ids
        whole = self._backend.encode("a", add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start]), tuple(whole[start + len(plain) :])
        raise ConfigError(
            f"tokenizer {str(vocabulary.path)!r} has a template that changes texts; none that does is read"
        )

    def _encode(self, texts: Sequence[str]) -> TokenLists:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return TokenLists.of([encoding.ids for encoding in encodings])


class TiktokenEncoder:
    """The tiktoken library: the reference for ranks. Names of special tokens within a text are text."""

    library = "tiktoken"

    def __init__(self, vocabulary: Vocabulary) -> None:
        try:
            import tiktoken  # noqa: PLC0415  (an extra)
        except ImportError as error:
            raise _missing(vocabulary, "tiktoken") from error
        try:
            self._backend = tiktoken.Encoding(
                vocabulary.name, pat_str=vocabulary.pattern, mergeable_ranks=dict(vocabulary.ranks), special_tokens={}
            )
        except Exception as error:  # of the library's own kinds, for patterns and ranks that it cannot use
            raise ConfigError(f"tokenizer {str(vocabulary.path)!r} cannot be read: {error}") from error
        self._first_id = vocabulary.first_id

    def encode(self, texts: Texts) -> TokenLists:
        """Return the ids of each text."""
        return _shifted(_despite_surrogates(self._encode, as_strings(texts)), self._first_id)

    def _encode(self, texts: Sequence[str]) -> TokenLists:
        encode = self._backend.encode_to_numpy
        return TokenLists.of([encode(text, disallowed_special=()) for text in texts])


class GigatokenEncoder:
    """The gigatoken library, many times as fast, for byte-level and SentencePiece-like BPE."""

    library = "gigatoken"

    def __init__(self, vocabulary: Vocabulary) -> None:
        try:
            import gigatoken  # noqa: PLC0415  (an extra)
        except ImportError as error:
            raise _missing(vocabulary, "gigatoken") from error
        content = vocabulary.content or as_tokenizer_json(vocabulary)
        try:
            self._backend: Any = gigatoken.Tokenizer.from_json(content)
        except (RuntimeError, ValueError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ConfigError(f"tokenizer {str(vocabulary.path)!r} cannot be read by gigatoken: {reason}") from error
        self._first_id = vocabulary.first_id

    def encode(self, texts: Texts) -> TokenLists:
        """Return the ids of each text."""
        if isinstance(texts, pa.Array):
            return self._encode(_awkward(texts))
        return _despite_surrogates(self._encode, texts)

    def _encode(self, texts: Any) -> TokenLists:
        if not len(texts):
            return TokenLists.of([])
        layout = self._backend.encode_batch(texts).layout
        bounds = layout.offsets.data
        ids = layout.content.data[bounds[0] : bounds[-1]].view(np.int32)
        return _shifted(TokenLists(ids=ids, bounds=bounds - bounds[0]), self._first_id)


LIBRARIES: dict[str, Callable[[Vocabulary], Encoder]] = {
    "gigatoken": GigatokenEncoder,
    "tiktoken": TiktokenEncoder,
    "tokenizers": TokenizersEncoder,
}


def choose_encoder(vocabulary: Vocabulary, library: str) -> tuple[Encoder, Template]:
    """Return an encoder, and what the vocabulary's template puts around texts.

    Args:
        vocabulary: what to encode with.
        library: the one to use; FASTEST takes gigatoken where its ids are the reference's on some twenty probe texts,
            and else, with a warning, the reference.

    Raises:
        ConfigError: the library cannot use the vocabulary, or does not give the reference's ids.
        ImportError: it is not installed.
    """
    reference: TiktokenEncoder | TokenizersEncoder
    if vocabulary.ranks:
        reference, template = TiktokenEncoder(vocabulary), vocabulary.template
    else:
        reference = TokenizersEncoder(vocabulary)
        template = reference.template(vocabulary)
    if library == reference.library:
        return reference, template
    try:
        if library not in (FASTEST, GigatokenEncoder.library):
            raise ConfigError(
                f"tokenizer {str(vocabulary.path)!r} cannot be read by {library}; expected one of "
                f"{FASTEST}, {GigatokenEncoder.library}, {reference.library}"
            )
        encoder = GigatokenEncoder(vocabulary)
        _check_agreement(encoder, reference, vocabulary)
    except (ConfigError, ImportError) as error:
        if library != FASTEST:
            raise
        warnings.warn(
            f"{error}. It is read by {reference.library}, which is some ten times slower; "
            f"TokenizerFile(path, library={reference.library!r}) asks for that",
            stacklevel=2,
        )
        return reference, template
    return encoder, template


def as_strings(texts: Texts) -> Sequence[str]:
    """Return texts as strings."""
    if isinstance(texts, pa.Array):
        strings: list[str] = texts.to_pylist()
        return strings
    return texts


def _check_agreement(encoder: Encoder, reference: Encoder, vocabulary: Vocabulary) -> None:
    named = tuple(f"a {name}{name} b{name}\n" for name in vocabulary.probes[:64])
    texts = [*_PROBES, *named, *("".join(_PROBES[start:]) for start in range(0, len(_PROBES), 4))]
    for text, ids, expected in zip(texts, encoder.encode(texts), reference.encode(texts), strict=True):
        if not np.array_equal(ids, expected):
            raise ConfigError(
                f"tokenizer {str(vocabulary.path)!r} gives other ids in {encoder.library} than in {reference.library}, "
                f"as for {text[:60]!r}"
            )


def _despite_surrogates(encode: Callable[[Sequence[str]], TokenLists], texts: Sequence[str]) -> TokenLists:
    """Encode texts; those that are no Unicode (lone surrogates) with U+FFFD in their place, as decoders put it."""
    texts = texts if isinstance(texts, list) else list(texts)
    try:
        return encode(texts)
    except (TypeError, UnicodeEncodeError):
        sound = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        if sound == texts:
            raise
        return encode(sound)


def _awkward(texts: pa.Array) -> Any:
    """Return a column of strings as an awkward array over the same memory."""
    import awkward as ak  # noqa: PLC0415  (comes with gigatoken)

    column = texts if texts.type == pa.large_string() else texts.cast(pa.large_string())
    _, offsets, content = column.buffers()
    bounds = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    characters = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
    inner = ak.contents.NumpyArray(characters, parameters={"__array__": "char"})
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(bounds), inner, parameters={"__array__": "string"}))


def _shifted(lists: TokenLists, first_id: int) -> TokenLists:
    return TokenLists(ids=lists.ids + np.int32(first_id), bounds=lists.bounds) if first_id else lists


def _missing(vocabulary: Vocabulary, library: str) -> ImportError:
    return ImportError(
        f"tokenizer {str(vocabulary.path)!r} needs the {library} library: pip install 'mixlake[{library}]'"
    )
