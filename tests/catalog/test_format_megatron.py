"""The ``megatron`` format: documents of token ids by byte range, and indexes that do not go with them."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import DataError, DataFile, Span, format_megatron, megatron_index, token_blocks
from mixlake.catalog.format_megatron import MegatronFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FieldPath, FilePart

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8}
Documents = list[list[list[int]]]
"""Documents of sequences of token ids."""
DOCUMENTS: Documents = [[[1, 2, 3]], [[4], [5, 6]], [], [[7, 8, 9, 10]], [[], [11]]]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def index_bytes(
    lengths: Sequence[int],
    bounds: Sequence[int],
    kind: str,
    *,
    pointers: Sequence[int] | None = None,
    modes: Sequence[int] | None = None,
    version: int = 1,
) -> bytes:
    """Return an index as Megatron-LM lays it out."""
    if pointers is None:
        pointers = (np.cumsum([0, *lengths])[:-1] * np.dtype(kind).itemsize).tolist()
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", version, CODES[kind], len(lengths), len(bounds))
    arrays = [np.array(lengths, "<i4"), np.array(pointers, "<i8"), np.array(bounds, "<i8")]
    if modes is not None:
        arrays.append(np.array(modes, np.int8))
    return header + b"".join(array.tobytes() for array in arrays)


def write(path: Path, documents: Documents, kind: str = "uint16", **index: Any) -> DataFile:
    sequences = [sequence for document in documents for sequence in document]
    bounds = np.cumsum([0, *map(len, documents)])
    path.write_bytes(np.array([token for sequence in sequences for token in sequence], kind).tobytes())
    path.with_suffix(".idx").write_bytes(index_bytes([len(s) for s in sequences], bounds.tolist(), kind, **index))
    return found(path)


def found(path: Path) -> DataFile:
    (file,) = find_files([str(path)], format_name="megatron")[1]
    return file


def tokens_of(document: list[list[int]]) -> list[int]:
    return [token for sequence in document for token in sequence]


def scan(file: DataFile, *names: str, problems: Problems | None = None) -> list[Block]:
    problems = problems or Problems()
    parts = MegatronFormat().parts(0, file, {}, problems)
    return list(MegatronFormat().scan(parts, dict.fromkeys([(name,) for name in names], pa.null()), {}, problems))


def values_of(blocks: list[Block], name: str) -> list[Any]:
    return [value for block in blocks for value in block.columns[(name,)].to_pylist()]


def spans_of(blocks: list[Block]) -> list[Span]:
    return [
        Span(row_start=row, row_stop=row + 1, byte_start=start, byte_stop=stop)
        for block in blocks
        if block.byte_starts is not None and block.byte_stops is not None
        for row, start, stop in zip(
            block.rows.tolist(), block.byte_starts.tolist(), block.byte_stops.tolist(), strict=True
        )
    ]


def read(
    file: DataFile, spans: list[Span], fields: list[FieldPath] | None = None, cache: ReadCache | None = None
) -> list[dict[str, Any]]:
    records = MegatronFormat().read(file, spans, fields, {}, cache or ReadCache())
    return [{**record, "tokens": record["tokens"].tolist()} if "tokens" in record else record for record in records]


# Scanning and reading


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
def test_each_document_is_a_sample_whose_bytes_are_its_tokens(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / "größe 雪.bin", DOCUMENTS, kind)
    (block,) = scan(file, "tokens", "num_tokens", "document", "sequence_lengths", "nosuch")
    item = np.dtype(kind).itemsize
    assert block.rows.tolist() == [0, 1, 2, 3, 4]
    assert [(span.byte_start // item, span.byte_stop // item) for span in spans_of([block])] == [
        (0, 3),
        (3, 6),
        (6, 6),
        (6, 10),
        (10, 11),
    ]
    assert {path[0]: column.to_pylist() for path, column in block.columns.items()} == {
        "tokens": [tokens_of(document) for document in DOCUMENTS],
        "num_tokens": [3, 3, 0, 4, 1],
        "document": [0, 1, 2, 3, 4],
        "sequence_lengths": [[3], [1, 2], [], [4], [0, 1]],
    }
    assert block.columns[("tokens",)].type == pa.list_(pa.from_numpy_dtype(kind))
    assert block.num_bytes == file.num_bytes


def test_documents_are_read_back_with_all_their_fields_or_some(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS)
    spans = spans_of(scan(file))
    assert read(file, spans[1:2]) == [{"tokens": [4, 5, 6], "num_tokens": 3, "document": 1, "sequence_lengths": [1, 2]}]
    assert read(file, [spans[4], spans[2]], [("tokens",)]) == [{"tokens": [11]}, {"tokens": []}]
    assert read(file, spans, [("num_tokens",)]) == [{"num_tokens": num} for num in (3, 3, 0, 4, 1)]
    (record,) = MegatronFormat().read(file, spans[:1], None, {}, ReadCache())
    assert record["tokens"].dtype == np.uint16
    assert record["tokens"].flags.writeable


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    documents=st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=4), max_size=3), min_size=1, max_size=12),
    block_bytes=st.integers(1, 30),
    part_documents=st.integers(1, 12),
)
def test_any_documents_are_read_back_by_row_and_bytes_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    documents: Documents,
    block_bytes: int,
    part_documents: int,
) -> None:
    file = write(tmp_path_factory.mktemp("any") / "a.bin", documents)
    wanted = [tokens_of(document) for document in documents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_blocks, "_BYTES_PER_BLOCK", block_bytes)
        patch.setattr(format_megatron, "_DOCUMENTS_PER_PART", part_documents)
        parts = MegatronFormat().parts(0, file, {}, Problems())
        spans: list[Span] = []
        tokens: list[list[int]] = []
        for part in parts:
            blocks = list(MegatronFormat().scan([part], {("tokens",): pa.null()}, {}, Problems()))
            assert (
                sum(block.num_records for block in blocks)
                == (part.stop if part.stop >= 0 else len(documents)) - part.start
            )
            tokens += values_of(blocks, "tokens")
            spans += [moved(span, part.start) for span in spans_of(blocks)]
    assert tokens == wanted
    assert [span.row_start for span in spans] == list(range(len(documents)))
    cache = ReadCache(0)
    order = data.draw(st.permutations(range(len(spans))))
    assert [record["tokens"] for record in read(file, [spans[i] for i in order], cache=cache)] == [
        wanted[i] for i in order
    ]
    for first in range(len(spans)):
        last = data.draw(st.integers(first, len(spans) - 1))
        whole = Span(
            row_start=first,
            row_stop=last + 1,
            byte_start=spans[first].byte_start,
            byte_stop=spans[last].byte_stop,
        )
        assert [record["tokens"] for record in read(file, [whole], cache=cache)] == wanted[first : last + 1]


def moved(span: Span, rows: int) -> Span:
    return Span(
        row_start=span.row_start + rows,
        row_stop=span.row_stop + rows,
        byte_start=span.byte_start,
        byte_stop=span.byte_stop,
    )


def test_the_modes_of_a_multimodal_dataset_are_fields(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS, modes=[0, 1, 0, 1, 1, 0])
    blocks = scan(file, "sequence_modes")
    assert values_of(blocks, "sequence_modes") == [[0], [1, 0], [], [1], [1, 0]]
    assert read(file, spans_of(blocks)[1:2])[0]["sequence_modes"] == [1, 0]
    assert ("sequence_modes",) not in scan(write(tmp_path / "b.bin", DOCUMENTS), "sequence_modes")[0].columns


@pytest.mark.parametrize("documents", [[], [[]], [[[]]]])
def test_a_file_without_tokens_is_sound(tmp_path: Path, documents: Documents) -> None:
    blocks = scan(write(tmp_path / "a.bin", documents), "tokens", "num_tokens")
    assert values_of(blocks, "num_tokens") == [0] * len(documents)
    assert values_of(blocks, "tokens") == [[]] * len(documents)


@pytest.mark.parametrize("below", ["", "/*", "/*.bin"])
def test_the_index_beside_a_file_is_no_file_of_its_own(tmp_path: Path, below: str) -> None:
    write(tmp_path / "a_text_document.bin", DOCUMENTS)
    for name in (None, "megatron"):
        data_format, files = find_files([f"{tmp_path}{below}"], format_name=name)
        assert data_format.name == "megatron"
        assert [file.path for file in files] == ["a_text_document.bin"]


# Damaged input


def refusal(file: DataFile, *names: str) -> str:
    """Return why a scan refuses the file; a lenient one leaves it out for the same reason."""
    with pytest.raises(DataError) as caught:
        scan(file, *names)
    problems = Problems(OnError.SKIP)
    assert [row for block in scan(file, *names, problems=problems) for row in block.rows] == []
    assert [str(problem) for problem in problems.found] == [str(caught.value)]
    return str(caught.value)


def test_a_file_without_its_index_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS)
    os.remove(tmp_path / "a.idx")
    assert refusal(file) == (
        f"{file.uri}: needs {tmp_path}/a.idx, which cannot be read (No such file or directory); "
        "for raw ids there is format='numpy'"
    )


def test_a_file_of_another_length_than_its_index_says_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS)
    os.truncate(file.uri, 20)
    file = found(tmp_path / "a.bin")
    assert refusal(file) == f"{file.uri}: the file has 20 bytes, and {tmp_path}/a.idx is of one with 22"


@pytest.mark.parametrize("length", [0, 8, 33, 34, 80, 145])
def test_a_torn_index_is_refused(tmp_path: Path, length: int) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS)
    os.truncate(tmp_path / "a.idx", length)
    reason = "is torn: " if length >= 34 else "is not an index of Megatron's (MMIDIDX), or it is torn"
    assert refusal(file).startswith(f"{file.uri}: {tmp_path}/a.idx {reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"TNTIDX\0\0" + b"\0" * 60, "is not an index of Megatron's (MMIDIDX), or it is torn"),
        (
            index_bytes([11], [0, 1], "uint16", version=2),
            "has version 2; expected version 1 and items of an integer type",
        ),
        (
            index_bytes([11], [0, 1], "float32"),
            "has items of type float32; expected version 1 and items of an integer type",
        ),
        (index_bytes([11], [0], "uint16"), "has 1 sequences, and documents over 0 to 0 of them"),
        (index_bytes([11], [], "uint16"), "has 1 sequences, and documents over none of them"),
    ],
    ids=["old", "version", "type", "no document", "no bounds"],
)
def test_an_index_of_another_kind_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS)
    (tmp_path / "a.idx").write_bytes(content)
    assert refusal(file) == f"{file.uri}: {tmp_path}/a.idx {reason}"


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (
            index_bytes([3, 4, 4], [0, 1, 2, 3], "uint16", pointers=[0, 8, 14]),
            "sequence 1 does not follow the one before it",
        ),
        (index_bytes([3, -4, 12], [0, 1, 2, 3], "uint16"), "sequence 1 does not follow the one before it"),
        (index_bytes([99, -92, 4], [0, 1, 2, 3], "uint16"), "sequence 0 does not follow the one before it"),
        (index_bytes([3, 4, 4], [0, 2, 1, 3], "uint16"), "documents 0 to 3 have no sequences in order"),
        (index_bytes([3, 4, 4], [0, 9, 2, 3], "uint16"), "documents 0 to 3 have no sequences in order"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path: Path, index: bytes, reason: str) -> None:
    file = write(tmp_path / "a.bin", [[list(range(11))]])
    (tmp_path / "a.idx").write_bytes(index)
    assert refusal(file, "tokens") == f"{file.uri}: its index is damaged: {reason}"


def test_of_a_damaged_index_only_the_part_that_is_damaged_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.bin", [[[n, n]] for n in range(9)], pointers=[0, 4, 8, 12, 17, 20, 24, 28, 32])
    monkeypatch.setattr(format_megatron, "_DOCUMENTS_PER_PART", 3)
    problems = Problems(OnError.SKIP)
    blocks = scan(file, "document", problems=problems)
    assert [value for block in blocks if len(block.rows) for value in block.columns[("document",)].to_pylist()] == [
        0,
        1,
        2,
        6,
        7,
        8,
    ]
    assert [block.num_records for block in blocks] == [3, 3, 3]
    assert len(problems.found) == 1


def test_an_index_that_has_changed_since_is_refused_when_it_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS)
    spans = spans_of(scan(file))
    megatron_index.open_index.cache_clear()
    (tmp_path / "a.idx").write_bytes(index_bytes([2, 9], [0, 1, 2], "uint16"))
    message = f"{file.uri}, documents 0 to 1: they were at bytes 0 to 6, and its index has them at 0 to 4"
    with pytest.raises(DataError, match=exactly(message)):
        read(file, spans[:1])
    with pytest.raises(DataError, match=exactly(f"{file.uri}: document 4 is not there; the file has 2 documents")):
        read(file, spans[4:])


def test_a_part_may_be_a_whole_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin", DOCUMENTS)
    (block,) = MegatronFormat().scan([FilePart(file_id=3, file=file)], {}, {}, Problems())
    assert (block.file_ids.tolist(), block.place(4)) == ([3] * 5, "document 4")
