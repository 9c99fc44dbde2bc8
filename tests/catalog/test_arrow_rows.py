"""Decoded row groups in temporary files: the same rows, outside the memory that is held, and gone when nobody looks."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from mixlake.catalog.arrow_rows import Decoded

_BYTES = 2 << 20


def decoded() -> Decoded:
    table = pa.table({"text": ["größer", None, "x" * _BYTES], "ids": [[1, 2], [], None]})
    return Decoded.sized(table, is_trusted=True)[0]


def test_a_spilled_row_group_has_the_same_rows_and_no_memory_of_its_own() -> None:
    before = pa.total_allocated_bytes()
    group = decoded()
    assert pa.total_allocated_bytes() - before >= _BYTES
    expected = group.table.to_pylist()
    spilled, num_bytes = group.spilled()
    del group
    assert pa.total_allocated_bytes() - before < _BYTES / 8
    assert _BYTES <= num_bytes < 2 * _BYTES
    assert spilled.table.to_pylist() == expected
    assert spilled.table.take(pa.array([2, 0]))["ids"].to_pylist() == [None, [1, 2]]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_no_file_stays_open_nor_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    spilled, _ = decoded().spilled()
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert spilled.table.num_rows == 3


def test_what_cannot_be_looked_into_stays_so() -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    group, _ = Decoded.sized(pa.table({"text": broken}), is_trusted=False)
    assert not group.is_sound
    assert not group.spilled()[0].is_sound


def test_a_disk_that_takes_no_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"):
        decoded().spilled()
