"""The ``numpy`` format: arrays and raw memmaps of token ids, however documents are told apart in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ConfigError, DataError, DataFile, Span, token_blocks
from mixlake.catalog.format_numpy import NumpyFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block

END = 9
TOKENS = (("tokens",),)


def found(path: Path) -> DataFile:
    (file,) = find_files([str(path)], format_name="numpy")[1]
    return file


def saved(path: Path, array: np.ndarray[Any, Any]) -> DataFile:
    np.save(path, array)
    return found(path)


def raw(path: Path, array: np.ndarray[Any, Any], before: bytes = b"") -> DataFile:
    path.write_bytes(before + array.tobytes())
    return found(path)


def scan(file: DataFile, *names: str, problems: Problems | None = None, **options: Any) -> list[Block]:
    problems = problems or Problems()
    parts = NumpyFormat().parts(0, file, options, problems)
    return list(NumpyFormat().scan(parts, dict.fromkeys([(name,) for name in names], pa.null()), options, problems))


def spans_of(blocks: list[Block]) -> list[Span]:
    return [
        Span(row_start=row, row_stop=row + 1, byte_start=start, byte_stop=stop)
        for block in blocks
        if block.byte_starts is not None and block.byte_stops is not None
        for row, start, stop in zip(block.rows, block.byte_starts, block.byte_stops, strict=True)
    ]


def documents(file: DataFile, **options: Any) -> list[list[int]]:
    """Return the documents as a scan gives them, having seen that each is read back by its bytes."""
    blocks = scan(file, "tokens", "num_tokens", "document", **options)
    scanned: list[list[int]] = [ids for block in blocks for ids in block.columns["tokens",].to_pylist()]
    assert [num for block in blocks for num in block.columns["num_tokens",].to_pylist()] == list(map(len, scanned))
    records = NumpyFormat().read(file, spans_of(blocks), None, options, ReadCache())
    assert [record["document"] for record in records] == list(range(len(scanned)))
    assert [record["tokens"].tolist() for record in records] == scanned
    return scanned


@pytest.mark.parametrize("kind", ["uint8", "uint16", "<i4", "int64", ">u2"])
def test_every_row_of_two_dimensions_is_a_document(tmp_path: Path, kind: str) -> None:
    array = np.arange(12).reshape(4, 3).astype(kind)
    assert documents(saved(tmp_path / "größe 雪.npy", array)) == array.tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[9, 1, 2, 9, 9, 3, 4]]),
        ({"end": END}, [[9], [1, 2, 9], [9], [3, 4]]),
        ({"begin": END}, [[9, 1, 2], [9], [9, 3, 4]]),
        ({"length": 3}, [[9, 1, 2], [9, 9, 3], [4]]),
        ({"length": 7}, [[9, 1, 2, 9, 9, 3, 4]]),
        ({"begin": 1}, [[9], [1, 2, 9, 9, 3, 4]]),
        ({"end": 4}, [[9, 1, 2, 9, 9, 3, 4]]),
    ],
)
def test_ids_in_one_dimension_are_cut_as_the_options_say(
    tmp_path: Path, options: dict[str, int], expected: list[list[int]]
) -> None:
    ids = np.array([9, 1, 2, 9, 9, 3, 4], np.uint16)
    assert documents(saved(tmp_path / "a.npy", ids), **options) == expected
    assert documents(raw(tmp_path / "a.bin", ids), dtype="uint16", **options) == expected
    assert documents(raw(tmp_path / "b.bin", ids, b"x" * 5), dtype="<u2", offset=5, **options) == expected


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_an_array_without_ids_has_no_documents(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert documents(saved(tmp_path / "a.npy", np.empty(shape, np.uint16))) == []


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    cut=st.sampled_from(["begin", "end", "length", None]),
    block_bytes=st.integers(1, 40),
    at_a_time=st.integers(1, 20),
    data=st.data(),
)
def test_any_documents_are_read_back_by_row_and_bytes_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory,
    ids: list[int],
    cut: str | None,
    block_bytes: int,
    at_a_time: int,
    data: st.DataObject,
) -> None:
    options: dict[str, Any] = {cut: data.draw(st.integers(1, 4))} if cut else {}
    file = saved(tmp_path_factory.mktemp("any") / "a.npy", np.array(ids, np.int32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_blocks, "_BYTES_PER_BLOCK", block_bytes)
        patch.setattr("mixlake.catalog.format_numpy._IDS_AT_A_TIME", at_a_time)
        blocks = scan(file, **options)
        wanted = documents(file, **options)
    assert [token for document in wanted for token in document] == ids
    spans = spans_of(blocks)
    first = data.draw(st.integers(0, len(spans) - 1))
    last = data.draw(st.integers(first, len(spans) - 1))
    together = Span(
        row_start=first, row_stop=last + 1, byte_start=spans[first].byte_start, byte_stop=spans[last].byte_stop
    )
    records = NumpyFormat().read(file, [together, spans[0]], list(TOKENS), options, ReadCache())
    assert [record["tokens"].tolist() for record in records] == [*wanted[first : last + 1], wanted[0]]


def test_the_format_is_inferred_and_a_refresh_takes_new_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([1, 2, END, 3, END], np.uint16))
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    catalog.register("ids", str(tmp_path), options={"end": END}, properties={"num_tokens": "num_tokens"})
    np.save(tmp_path / "b.npy", np.array([[4, 5]], np.uint16)[0])
    catalog.refresh("ids")
    counts = catalog.sql("SELECT num_tokens FROM samples ORDER BY num_tokens").to_pylist()
    assert [count["num_tokens"] for count in counts] == [2, 2, 3]


# Wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin": 1, "end": 2}, "begin and end are given; expected one of them at most"),
        ({"length": 0}, "length is 0; expected a whole number from 1 on"),
        ({"end": "eos"}, "end is 'eos'; expected a whole number from 0 on"),
        ({"end": 70000}, "end is 70000, and ids of {uri} are uint16, up to 65535"),
        ({"offset": 8}, "offset goes with dtype: it is for files without a header"),
        ({"dtype": "float32"}, "dtype is 'float32'; expected a type of integers, such as uint16 or <u4"),
        ({"dtype": "words"}, "dtype is 'words'; expected a type of integers, such as uint16 or <u4"),
        ({"dtype": "uint16"}, "dtype is 'uint16', but {uri} has a header, which says the type"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: Mapping[str, Any], message: str) -> None:
    file = saved(tmp_path / "a.npy", np.arange(4, dtype=np.uint16))
    with pytest.raises(ConfigError, match=f"^{re.escape('options of format ' + repr('numpy'))}: ") as caught:
        scan(file, **options)
    assert str(caught.value) == f"options of format 'numpy': {message.format(uri=file.uri)}"


def test_rows_are_not_cut_once_more(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npy", np.zeros((2, 3), np.uint16))
    with pytest.raises(ConfigError, match=r"end is given, but .*a\.npy has two dimensions: its rows are the documents"):
        scan(file, end=END)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3), "it holds an array of float64 and shape (3,); expected integers in one or two dimensions"),
        (np.zeros((1, 1, 1), np.int32), "it holds an array of int32 and shape (1, 1, 1); expected integers"),
        (np.asfortranarray(np.zeros((2, 3), np.int32)), "it holds an array of int32 and shape (2, 3) in columns; exp"),
    ],
)
def test_arrays_of_something_else_are_refused(tmp_path: Path, array: np.ndarray[Any, Any], reason: str) -> None:
    refused(saved(tmp_path / "a.npy", array), reason)


def test_torn_and_headless_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(9, dtype=np.uint16))
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    refused(found(tmp_path / "b.npy"), "it has 145 bytes, and (9,) ids of uint16 take 146")
    file = raw(tmp_path / "c.npy", np.arange(9, dtype=np.uint16))
    refused(file, "it has no header of an array (", "; of raw ids, options.dtype says the type")
    refused(raw(tmp_path / "d.bin", np.zeros(7, np.uint8)), "it has 7 bytes, and (3,) ids of uint16", dtype="uint16")
    (tmp_path / "e.npy").write_bytes(b"")
    refused(found(tmp_path / "e.npy"), "it has no header of an array (")


def refused(file: DataFile, *reasons: str, **options: Any) -> None:
    """See that a scan refuses the file; a lenient one leaves it out for the same reason."""
    with pytest.raises(DataError) as caught:
        scan(file, **options)
    assert all(reason in str(caught.value) for reason in reasons), str(caught.value)
    problems = Problems(OnError.SKIP)
    assert scan(file, problems=problems, **options) == []
    assert [str(problem) for problem in problems.found] == [str(caught.value)]


def test_documents_that_are_not_there_any_more_are_refused_when_they_are_read(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npy", np.array([1, END, 2, END], np.uint16))
    first, second = spans_of(scan(file, end=END))
    both = Span(row_start=0, row_stop=2, byte_start=first.byte_start, byte_stop=second.byte_stop)
    np.save(tmp_path / "a.npy", np.array([1, 2, 2, END], np.uint16))
    with pytest.raises(DataError, match="documents 0 to 2: they were at bytes 128 to 136, and are not there any more"):
        NumpyFormat().read(file, [both], None, {"end": END}, ReadCache())
    behind = Span(row_start=1, row_stop=2, byte_start=132, byte_stop=140)
    with pytest.raises(DataError, match="documents 1 to 2: they were at bytes 132 to 140, and are not there any more"):
        NumpyFormat().read(file, [behind], None, {"end": END}, ReadCache())
