"""Reading in place: files that vanished, grew or were touched since registration are refused, by name."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, DataError
from mixlake.loaders import SampleDataset
from mixlake.loaders.reading import SampleReader
from mixlake.mixing import Mixture, Run


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"text": f"page {number}"}) + "\n" for number in range(20)))
    return path


def start(pages: Path) -> Run:
    catalog = Catalog.open(str(pages.parent / "lake"), create=True)
    catalog.register("pages", str(pages))
    mixture = Mixture.from_dict({"components": {"all": {"where": "true", "weight": 1}}})
    return Run.start(catalog, "run", mixture, chunk_size=8, lanes=2)


def write_ipc(table: pa.Table, path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)


def rewrite(path: Path) -> None:
    path.write_text(path.read_text().replace("page 3", "PAGE 3"))
    os.utime(path, ns=(0, 10**18))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "is gone; it was there when it was registered"),
        (lambda path: path.write_text("short"), "has 5 bytes, and had 390 since it was registered"),
        (rewrite, "was modified since it was registered"),
    ],
)
def test_a_file_that_is_not_what_was_registered_is_refused(pages: Path, change: Any, message: str) -> None:
    run = start(pages)
    assert pages.stat().st_size == 390
    change(pages)
    with pytest.raises(DataError, match=rf"pages\.jsonl of dataset 'pages' {message}"):
        list(SampleDataset(run))


def test_a_change_while_reading_is_noticed_at_the_next_read(pages: Path) -> None:
    samples = iter(SampleDataset(start(pages)))
    first = next(samples)
    assert first["text"].startswith("page ")
    rewrite(pages)
    with pytest.raises(DataError, match="was modified since it was registered"):
        list(samples)


def test_a_file_that_was_cut_off_while_its_samples_were_due_is_an_error(pages: Path) -> None:
    samples = iter(SampleDataset(start(pages)))
    assert next(samples)["text"].startswith("page ")
    os.truncate(pages, 5)
    with pytest.raises(DataError, match="has 5 bytes, and had 390 since it was registered"):
        list(samples)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the page cache cannot be emptied")
def test_what_is_not_in_the_page_cache_is_read_too(pages: Path) -> None:
    run = start(pages)
    in_memory = [sample["text"] for sample in SampleDataset(run)]
    with pages.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert [sample["text"] for sample in SampleDataset(run)] == in_memory
    assert sorted(in_memory) == sorted(f"page {number}" for number in range(20))


def test_every_lane_is_read_from_before_the_first_sample_is_given(pages: Path) -> None:
    run = start(pages)
    run.schedule(10)
    dataset = SampleDataset(run)
    next(iter(dataset))
    assert dataset.counts().num_samples >= 16  # the first chunks of both lanes


@pytest.mark.parametrize("write", [pq.write_table, write_ipc])
def test_samples_are_as_long_as_they_are_when_decoded(tmp_path: Path, write: Any) -> None:
    path = tmp_path / ("texts.parquet" if write is pq.write_table else "texts.arrow")
    write(pa.table({"text": [f"{number:05}" * 4000 for number in range(400)]}), path)
    assert path.stat().st_size < 400 * 2000
    run = start(path)
    run.schedule(10)
    reader = SampleReader(run.catalog, fields=(), cache_bytes=64 << 20)
    chunk, *_ = run.chunks.read(0, 1)
    first = reader.held_bytes(chunk)
    reader.read(chunk, np.arange(len(chunk.intervals)))
    assert (abs(reader.held_bytes(chunk) - 20_000) < 3000).all()
    if write is pq.write_table:
        assert (abs(first - 20_000) < 200).all()


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mixlake-read")]


def test_a_loader_that_is_left_in_the_middle_leaves_no_thread_behind(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"page {number}" for number in range(20)]}), tmp_path / "pages.parquet")
    samples: Any = iter(SampleDataset(start(tmp_path / "pages.parquet")))
    next(samples)
    assert reading_threads()
    samples.close()
    deadline = time.monotonic() + 10
    while reading_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)
