"""Tokenizers: bytes that survive the round trip, tokenizer.json files, callables."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mixlake.catalog import ConfigError
from mixlake.loaders import ByteTokenizer, TokenDataset, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE trained on this module."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


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


def test_a_run_is_packed_with_a_tokenizer_file_and_with_a_callable(make_run: Any, tokenizer_file: Path) -> None:
    run = make_run(unit="bytes")
    reference = Tokenizer.from_file(str(tokenizer_file))
    by_file = list(TokenDataset(run, tokenizer=str(tokenizer_file), sequence_length=64))
    end = int(reference.token_to_id("<|endoftext|>") or 0)
    by_callable = TokenDataset(run, tokenizer=lambda text: [*reference.encode(text).ids, end], sequence_length=64)
    assert all((a.labels == b.labels).all() for a, b in zip(by_file, by_callable, strict=True))


def test_a_callable_may_give_no_tokens_at_all(make_run: Any) -> None:
    run = make_run(unit="samples")
    sequences = TokenDataset(run, tokenizer=lambda text: [1] * (len(text) % 3), sequence_length=10)
    total = sum(int((sequence.document_ids >= 0).sum()) for sequence in sequences)
    lengths = run.catalog.sql("SELECT count(*) AS n FROM samples").to_pylist()[0]["n"]
    assert 0 < total < 2 * lengths


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer '.*tokenizer\.json' cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tokenizer_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs the tokenizers library: pip install 'mixlake\[tokenizers\]'"):
        load_tokenizer(tokenizer_file)
