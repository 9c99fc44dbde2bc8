"""Files that define a tokenizer: `tokenizer.json`, ranks as tiktoken has them, and Mistral's `tekken.json`."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mixlake.catalog.errors import ConfigError

PATTERNS = {
    "r50k_base": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k_base": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k_base": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How OpenAI's encodings split text, by the name of their file of ranks: the files do not say it."""
_ENDS = {"r50k_base": 50256, "cl100k_base": 100257, "o200k_base": 199999}
"""The id of <|endoftext|> in each of them."""
_OLD_TEKKEN_TOKENS = ("<unk>", "<s>", "</s>")
"""The first special tokens of tekken files that list none."""
_RANK = re.compile(rb"[A-Za-z0-9+/]+=*[ \t]+\d+\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What a tokenizer file says."""

    path: Path
    name: str
    """The kind of file and a hash of all that decides which ids a text gets."""
    size: int
    """One more than the largest id."""
    special_tokens: Mapping[str, int]
    """Tokens that have a name; for a tokenizer.json these are all of them."""
    probes: tuple[str, ...] = ()
    """Names that mean a token where they occur in a text."""
    content: str = field(default="", repr=False)
    """A tokenizer.json; empty for ranks."""
    ranks: Mapping[bytes, int] = field(default_factory=dict, repr=False)
    """Tokens by their bytes; empty for a tokenizer.json."""
    pattern: str = ""
    """How text is split before the ranks apply."""
    first_id: int = 0
    """The id of the token of rank 0."""
    template: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """What begins and ends a document, as far as the file says it; a tokenizer.json is asked with its library."""


def read_vocabulary(path: str | Path, *, pattern: str | None, special_tokens: Mapping[str, int]) -> Vocabulary:
    """Read a tokenizer file.

    Args:
        path: the file.
        pattern: for ranks, the regular expression or the name of an encoding in PATTERNS.
        special_tokens: for ranks, names and ids.

    Raises:
        ConfigError: there is no such file, it is none of the three kinds, or ranks come without a pattern.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(f"tokenizer {str(path)!r} is no file; expected 'bytes', or the path of a tokenizer file")
    content = path.read_bytes()
    if _RANK.fullmatch(content.split(b"\n", 1)[0]):
        return _from_ranks(path, content, pattern, special_tokens)
    if pattern is not None or special_tokens:
        raise ConfigError(f"tokenizer {str(path)!r} is no file of ranks; pattern and special_tokens are for those")
    try:
        definition = json.loads(content)
    except ValueError as error:
        raise _unknown(path, str(error)) from error
    if isinstance(definition, dict) and isinstance(definition.get("model"), dict):
        return _from_json(path, content.decode(), definition)
    if isinstance(definition, dict) and {"config", "vocab"} <= definition.keys():
        return _from_tekken(path, definition)
    raise _unknown(path, "it has no model")


def as_tokenizer_json(vocabulary: Vocabulary) -> str:
    """Return ranks as a tokenizer.json; ids are ranks there.

    Every way to put a token together from two others is a merge, in the order of the ranks: pairs are then merged in
    the order in which tiktoken merges them.
    """
    letters = byte_letters()
    names = {token: "".join(letters[byte] for byte in token) for token in vocabulary.ranks}
    merges = []
    for token in sorted(vocabulary.ranks, key=vocabulary.ranks.__getitem__):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in names and pair[1] in names]
        known.sort(key=lambda pair: (vocabulary.ranks[pair[0]], vocabulary.ranks[pair[1]]))
        merges += [[names[left], names[right]] for left, right in known]
    split = {"type": "Split", "pattern": {"Regex": vocabulary.pattern}, "behavior": "Isolated", "invert": False}
    to_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": {names[token]: rank for token, rank in vocabulary.ranks.items()},
        "merges": merges,
    }
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_letters]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }
    return json.dumps(definition, ensure_ascii=False)


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte in a byte-level tokenizer.json: itself where it can be printed."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _from_json(path: Path, content: str, definition: Mapping[str, Any]) -> Vocabulary:
    tokens = definition["model"].get("vocab") or {}
    if isinstance(tokens, list):  # of (token, score)
        tokens = {token: index for index, (token, _) in enumerate(tokens)}
    added = {str(token["content"]): int(token["id"]) for token in definition.get("added_tokens") or ()}
    names = {**tokens, **added}
    return Vocabulary(
        path=path,
        name=f"tokenizer.json {_digest(content.encode())}",
        size=max(names.values(), default=-1) + 1,
        special_tokens=names,
        probes=tuple(added),
        content=content,
    )


def _from_ranks(path: Path, content: bytes, pattern: str | None, special_tokens: Mapping[str, int]) -> Vocabulary:
    named = path.stem if pattern is None else pattern
    if pattern is None and named not in PATTERNS:
        raise ConfigError(
            f"tokenizer {str(path)!r} is a file of ranks, which does not say how text is split before tokens are "
            f"merged: give TokenizerFile(path, pattern=…) a regular expression, or one of {', '.join(PATTERNS)}"
        )
    if not special_tokens and pattern is None:
        special_tokens = {"<|endoftext|>": _ENDS[named]}
    try:
        pairs = (line.split() for line in content.splitlines() if line.strip())
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise _unknown(path, str(error)) from error
    rule = PATTERNS.get(named, named)
    parts = (content, rule.encode(), repr(sorted(special_tokens.items())).encode())
    return Vocabulary(
        path=path,
        name=f"ranks {_digest(*parts)}",
        size=max(*ranks.values(), *special_tokens.values(), -1) + 1,
        special_tokens=dict(special_tokens),
        ranks=ranks,
        pattern=rule,
    )


def _from_tekken(path: Path, definition: Mapping[str, Any]) -> Vocabulary:
    try:
        config = definition["config"]
        size, num_special = int(config["default_vocab_size"]), int(config["default_num_special_tokens"])
        listed = definition.get("special_tokens")
        if listed is None:
            special = {name: index for index, name in enumerate(_OLD_TEKKEN_TOKENS)}
        else:
            special = {str(token["token_str"]): int(token["rank"]) for token in listed}
        tokens = definition["vocab"][: size - num_special]
        ranks = {base64.b64decode(token["token_bytes"]): int(token["rank"]) for token in tokens}
        pattern = str(config["pattern"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown(path, f"as a tekken file it lacks {error}") from error
    decisive = repr((sorted(ranks.items()), pattern, num_special)).encode()
    return Vocabulary(
        path=path,
        name=f"tekken {_digest(decisive)}",
        size=size,
        special_tokens=special,
        ranks=ranks,
        pattern=pattern,
        first_id=num_special,
        template=tuple((special[name],) if name in special else () for name in ("<s>", "</s>")),  # type: ignore[arg-type]
    )


def _unknown(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"tokenizer {str(path)!r} cannot be read: {reason}; expected a tokenizer.json, a tekken.json, or ranks "
        "(a token in base64 and its rank per line)"
    )


def _digest(*parts: bytes) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
