"""A lake of 2,400 tiny samples in about 40 blocks, shared by all tests that only read it or start runs of their own."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, Run

PROPERTIES = {
    "language": "language",
    "kind": "kind",
    "quality": "quality",
    "n": "n",
    "num_bytes": "octet_length(text)",
    "num_tokens": "num_tokens",
}
NUM_FILES = {"books": 2, "code_2": 1, "web-crawl.v2": 3}
NUM_RECORDS = 400


def make_record(n: int) -> dict[str, Any]:
    """A record whose properties are unrelated to one another, with NULLs and an empty text here and there."""
    mixed = n * 2654435761 % 2**32
    return {
        "text": "x" * (mixed % 90),
        "language": ("de", "en", "fr", None)[mixed // 7 % 4],
        "kind": ("prose", "code", "table")[mixed // 31 % 3],
        "quality": (mixed // 101 % 1000) / 1000,
        "n": n,
        "num_tokens": mixed // 17 % 40,
        "padding": "y" * 150,
    }


@contextmanager
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixlake.catalog.scanning._BYTES_PER_BLOCK", 16_384)
        patch.setattr("mixlake.catalog.text_regions._BYTES_PER_REGION", 16_384)
        yield


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks of some kilobytes, so that small files have many."""
    with _small_blocks():
        yield


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, Sequence[Mapping[str, Any]]], Path]:
    def write(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def make_catalog(write_jsonl: Callable[[Path, Sequence[Mapping[str, Any]]], Path]) -> Callable[..., Catalog]:
    """Return a function that registers records, one JSONL file per dataset, in a new lake in a folder."""

    def make(
        folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]], properties: Mapping[str, str] = PROPERTIES
    ) -> Catalog:
        catalog = Catalog.create(str(folder / "lake"))
        for name, rows in records.items():
            write_jsonl(folder / "data" / f"{name}.jsonl", rows)
            with _small_blocks():
                catalog.register(name, str(folder / "data" / f"{name}.jsonl"), properties=properties)
        return catalog

    return make


@pytest.fixture(scope="session")
def data(
    tmp_path_factory: pytest.TempPathFactory, write_jsonl: Callable[[Path, Sequence[Mapping[str, Any]]], Path]
) -> Path:
    """The folder with the files of the shared lake: `NUM_RECORDS` records in each."""
    folder = tmp_path_factory.mktemp("data")
    numbers = itertools.count()
    for name, num_files in NUM_FILES.items():
        for file in range(num_files):
            records = [make_record(n) for n in itertools.islice(numbers, NUM_RECORDS)]
            write_jsonl(folder / name / f"{file}.jsonl", records)
    return folder


@pytest.fixture(scope="session")
def register_data(data: Path) -> Callable[[Path], Catalog]:
    """Return a function that makes a new lake over the shared files."""

    def register(lake: Path) -> Catalog:
        catalog = Catalog.create(str(lake))
        with _small_blocks():
            for name in NUM_FILES:
                catalog.register(name, str(data / name), properties=PROPERTIES)
        return catalog

    return register


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory, register_data: Callable[[Path], Catalog]) -> Catalog:
    """The shared lake: tests start runs in it, but register nothing."""
    return register_data(tmp_path_factory.mktemp("shared") / "lake")


@pytest.fixture(scope="session")
def frame(catalog: Catalog) -> pd.DataFrame:
    """What the shared lake holds, made from the records and not by querying; only the blocks are read from it."""
    numbers = itertools.count()
    rows = [
        {"dataset": name, "registration": catalog.dataset(name).registrations[0], "file_id": file, "row": row}
        | make_record(next(numbers))
        for name, num_files in NUM_FILES.items()
        for file in range(num_files)
        for row in range(NUM_RECORDS)
    ]
    frame = pd.DataFrame(rows)
    frame["num_bytes"] = frame["text"].str.len()
    blocks = catalog.sql("SELECT registration, file_id, row, block FROM samples").to_pandas()
    return frame.merge(blocks, on=["registration", "file_id", "row"], validate="one_to_one")


@pytest.fixture(scope="session")
def new_name() -> Callable[[], str]:
    """Return a function that gives names for runs, each once."""
    numbers = itertools.count()
    return lambda: f"run-{next(numbers)}"


@pytest.fixture(scope="session")
def make_mixture() -> Callable[..., Mixture]:
    """Return a function from (predicate, weight) or (predicate, weight, on_exhausted) pairs to a mixture."""

    def make(*components: tuple[Any, ...], **settings: Any) -> Mixture:
        keys = ("where", "weight", "on_exhausted")
        declared = {f"c{i}": dict(zip(keys, values, strict=False)) for i, values in enumerate(components)}
        return Mixture.from_dict({"components": declared, **settings})

    return make


@pytest.fixture(scope="session")
def draws(frame: pd.DataFrame) -> Callable[[Run], pd.DataFrame]:
    """Return a function that gives every sample a run over the shared lake has drawn, in order of delivery."""

    def read(run: Run) -> pd.DataFrame:
        parts = []
        for chunk in run.chunks.read(0, 1 << 40):
            order = run.delivery(chunk)
            i = chunk.intervals
            columns = {
                "component": [run.components[index] for index in order.component.tolist()],
                "registration": [chunk.registrations[index] for index in i.registration[order.interval].tolist()],
                "file_id": i.file_id[order.interval],
                "row": order.row,
                "number": i.pass_number[order.interval],
            }
            more = {"chunk": chunk.number, "stage": chunk.stage, "version": chunk.weights_version}
            parts.append(pd.DataFrame(columns).assign(**more))
        return pd.concat(parts, ignore_index=True).merge(frame, on=["registration", "file_id", "row"], how="left")

    return read
