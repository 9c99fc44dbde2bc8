"""Documents of columnar formats, from registration to packed tokens; tokens are taken as they are."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, ConfigError, DataError
from mixlake.loaders import SampleDataset, TokenDataset
from mixlake.mixing import Mixture, Run

TOKENS = [[7 + number % 90] * (1 + number % 5) for number in range(300)]
Write = Callable[[Path, list[Any]], None]


def write_parquet(path: Path, column: list[Any]) -> None:
    pq.write_table(pa.table({"body": column}), path.with_suffix(".parquet"), row_group_size=16)


def write_arrow(path: Path, column: list[Any]) -> None:
    table = pa.table({"body": column})
    with ipc.new_stream(str(path.with_suffix(".arrow")), table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


def write_megatron(path: Path, documents: list[list[int]]) -> None:
    lengths = np.array([len(document) for document in documents], "<i4")
    pointers = np.cumsum([0, *lengths[:-1] * 2]).astype("<i8")
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(documents), len(documents) + 1)
    bounds = np.arange(len(documents) + 1, dtype="<i8")
    path.with_suffix(".idx").write_bytes(header + lengths.tobytes() + pointers.tobytes() + bounds.tobytes())
    path.with_suffix(".bin").write_bytes(np.concatenate(documents).astype("<u2").tobytes())


def start(folder: Path, **options: Any) -> Run:
    catalog = Catalog.open(str(folder / "lake"), create=True)
    catalog.register("docs", str(folder / "größe 雪"), **options)
    mixture = Mixture.from_dict({"components": {"all": {"where": "true", "weight": 1}}})
    return Run.start(catalog, "run", mixture, chunk_size=32, lanes=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "größe 雪").mkdir()
    return tmp_path / "größe 雪" / "a b"


def packed(run: Run, **options: Any) -> list[list[int]]:
    """Return the tokens of every document of a run, in the order of the addresses."""
    documents: dict[Any, list[int]] = {}
    for sequence in TokenDataset(run, sequence_length=16, **options):
        for number, address in enumerate(sequence.documents):
            documents.setdefault(address, []).extend(sequence.input_ids[sequence.document_ids == number].tolist())
    return [documents[address] for address in sorted(documents)]


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
def test_texts_are_delivered_once_each(path: Path, write: Write) -> None:
    texts = [f"text {number} ä" for number in range(300)]
    write(path, texts)
    run = start(path.parent.parent, text="body", properties={"length": "character_length(body)"})
    assert sorted(sample["text"] for sample in SampleDataset(run)) == sorted(texts)
    assert packed(run) == [[*text.encode(), 256] for text in texts]
    assert run.catalog.sql("SELECT sum(length) AS n FROM samples").to_pylist() == [{"n": sum(map(len, texts))}]


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (write_parquet, {"text": "body", "properties": {"num_tokens": "cardinality(body)"}}),
        (write_arrow, {"text": "body", "properties": {"num_tokens": "cardinality(body)"}}),
        (write_megatron, {"properties": {"num_tokens": "num_tokens"}}),
    ],
)
def test_tokens_are_packed_as_they_are(path: Path, write: Write, options: dict[str, Any]) -> None:
    write(path, TOKENS)
    run = start(path.parent.parent, **options)
    assert packed(run) == TOKENS
    assert sorted(sample["tokens"].tolist() for sample in SampleDataset(run)) == sorted(TOKENS)
    total = run.catalog.sql("SELECT CAST(sum(num_tokens) AS BIGINT) AS n FROM samples").to_pylist()
    assert total == [{"n": sum(map(len, TOKENS))}]


@pytest.mark.parametrize("name", ["a b.npy", "a b.bin"])
def test_arrays_of_tokens_are_packed_document_by_document(path: Path, name: str) -> None:
    documents = [[*tokens, 256] for tokens in TOKENS]
    array = np.concatenate(documents).astype(np.uint16)
    options: dict[str, Any] = {"end": 256}
    if name.endswith(".npy"):
        np.save(path.with_name(name), array)
    else:
        array.tofile(path.with_name(name))
        options["dtype"] = "uint16"
    catalog = Catalog.open(str(path.parent.parent / "lake"), create=True)
    catalog.register("docs", str(path.with_name(name)), format="numpy", options=options)
    mixture = Mixture.from_dict({"components": {"all": {"where": "true", "weight": 1}}})
    assert packed(Run.start(catalog, "run", mixture, chunk_size=32, lanes=2)) == documents


def test_tokens_that_the_tokenizer_does_not_have_are_refused(path: Path) -> None:
    write_megatron(path, [[1, 2], [3, 40000]])
    run = start(path.parent.parent)
    message = (
        r"docs-\w+, file 0, row 1: field 'tokens' has token ids 3 to 40000, but the tokenizer has 257 ids; "
        "load with the tokenizer that made them"
    )
    with pytest.raises(DataError, match=message):
        packed(run)
    assert packed(run, tokenizer=lambda text: [len(text)]) == [[1, 2], [3, 40000]]


def test_a_list_of_something_else_is_no_content(path: Path) -> None:
    write_parquet(path, [["a"], ["b"]])
    message = "text='body': the first record of 'docs' has no such text or tokens; its fields: body."
    with pytest.raises(ConfigError, match=re.escape(message)):
        start(path.parent.parent, text="body")
