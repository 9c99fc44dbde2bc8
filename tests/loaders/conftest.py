"""A small lake of real files in three formats, and runs over it."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, Run

LANGUAGES = ("en", "en", "en", "de", "fr")
MakeRun = Callable[..., Run]


def text(seed: random.Random, longest: int) -> str:
    return "".join(seed.choices("abc dé ü\n", k=seed.randint(1, longest)))


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """900 samples: JSON lines, Parquet in row groups of 40, and one file each."""
    folder = tmp_path_factory.mktemp("collection")
    seed = random.Random(7)
    for number in range(3):
        records = [
            {"text": text(seed, 300), "meta": {"language": seed.choice(LANGUAGES), "id": index}} for index in range(150)
        ]
        content = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        (folder / f"part-{number}.jsonl").write_text(content, encoding="utf-8")
    table = pa.table(
        {
            "body": [text(seed, 200) for _ in range(300)],
            "language": [seed.choice(LANGUAGES) for _ in range(300)],
            "unread": [b"x" * 100] * 300,
        }
    )
    pq.write_table(table, folder / "table.parquet", row_group_size=40)
    (folder / "notes").mkdir()
    for number in range(150):
        (folder / "notes" / f"{number:03}.{seed.choice(LANGUAGES)}.txt").write_text(text(seed, 500), encoding="utf-8")
    catalog = Catalog.open(str(folder / "lake"), create=True)
    size = "octet_length(text)"
    catalog.register(
        "lines", str(folder / "*.jsonl"), properties={"language": "meta.language", "kind": "'line'", "num_bytes": size}
    )
    catalog.register(
        "table",
        str(folder / "table.parquet"),
        text="body",
        properties={"language": "language", "kind": "'row'", "num_bytes": "octet_length(body)"},
    )
    catalog.register(
        "notes",
        str(folder / "notes"),
        format="files",
        properties={
            "language": "split_part(name, '.', 2)",
            "kind": "'note'",
            "num_bytes": "num_bytes",
        },
    )
    return catalog


def mixture(**overrides: Any) -> Mixture:
    config: dict[str, Any] = {
        "components": {
            "english": {"where": "language = 'en'", "weight": 0.5},
            "notes": {"where": "kind = 'note'", "weight": 0.2},
            "others": {"where": "language IN ('de', 'fr')", "weight": 0.3},
        },
        "on_exhausted": "redistribute",
    }
    return Mixture.from_dict({**config, **overrides})


@pytest.fixture(scope="session")
def make_run(catalog: Catalog) -> MakeRun:
    numbers = itertools.count()

    def make(*, seed: int = 0, chunk_size: int = 32, lanes: int = 4, **overrides: Any) -> Run:
        name = f"run-{next(numbers)}"
        return Run.start(catalog, name, mixture(**overrides), seed=seed, chunk_size=chunk_size, lanes=lanes)

    return make


@pytest.fixture(scope="session")
def collection(catalog: Catalog) -> Path:
    return Path(catalog.lake.uri).parent


def _workers() -> dict[str, int]:
    names = (b"mixlake-worker-0", b"mixlake-worker-1")
    found: dict[str, int] = {}
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            arguments = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
            found |= {name.decode(): int(pid) for name in names if name in arguments}
    return found


@pytest.fixture
def workers() -> Callable[[], dict[str, int]]:
    """Finds the worker processes that there are: what they are called, and their ids."""
    if not Path("/proc/self/task").exists():
        pytest.skip("it looks for processes in /proc")
    return _workers
