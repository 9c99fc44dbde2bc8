"""Tokenizers: bytes that survive the round trip, tokenizer.json files, callables."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mixlake.catalog import ConfigError
from mixlake.catalog.tokenizers import ByteTokenizer, load_tokenizer


@given(content=st.binary(max_size=200))
def test_bytes_come_back_whatever_they_are(content: bytes) -> None:
    (ids,) = ByteTokenizer().encode([content.decode("utf-8", "surrogateescape")])
    assert bytes(ids[:-1].tolist()) == content
    assert ids[-1] == 256


def test_a_tokenizer_file_gives_the_librarys_ids_and_one_end(tokenizer_file: Path) -> None:
    reference = Tokenizer.from_file(str(tokenizer_file))
    tokenizer = load_tokenizer(tokenizer_file)
    texts = ["def test_bytes() -> None:", "", "Grüße"]
    end = reference.token_to_id("<|endoftext|>")
    expected = [[*reference.encode(text, add_special_tokens=False).ids, end] for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == expected
    assert tokenizer.vocab_size == reference.get_vocab_size()
    assert tokenizer.pad_id == end


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer '.*tokenizer\.json' cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tokenizer_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs the tokenizers library: pip install 'mixlake\[tokenizers\]'"):
        load_tokenizer(tokenizer_file)
