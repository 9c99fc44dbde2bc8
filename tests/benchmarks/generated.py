"""Lakes made for benchmarks: the index of files that do not exist, written as registration writes it."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from mixlake.catalog import Catalog, schema
from mixlake.catalog.sample_writer import SampleWriter
from mixlake.mixing import Mixture

LANGUAGES = ("en", "de", "fr", "es", "it")
SHARES = (0.40, 0.25, 0.15, 0.12, 0.08)
NUM_SOURCES = 500
NUM_KINDS = 4
SAMPLES_PER_FILE = 10_000
ROWS_PER_BLOCK = 10_000
_PROPERTIES = {
    "language": pa.string(),
    "source": pa.int32(),
    "kind": pa.int32(),
    "num_bytes": pa.int64(),
    "num_tokens": pa.int64(),
}
_BYTES_PER_TOKEN = 4
_FILES_PER_WRITE = 100


def make_lake(folder: str, num_samples: int, *, interleaved: bool = True) -> Catalog:
    """Return the catalog of a lake with one dataset; languages alternate from row to row, or only from file to file."""
    catalog = Catalog.create(folder)
    registration = "generated-000000000000"
    num_files = num_samples // SAMPLES_PER_FILE
    fixed = [field for field in schema.TABLES[schema.SAMPLES].columns if field.name != schema.REGISTRATION]
    columns = pa.schema([*fixed, *(pa.field(name, kind) for name, kind in _PROPERTIES.items())])
    random = np.random.Generator(np.random.Philox(0))
    with SampleWriter(catalog.lake, registration) as writer:
        for first in range(0, num_files, _FILES_PER_WRITE):
            files = np.arange(first, min(first + _FILES_PER_WRITE, num_files))
            writer.write(_rows(files, num_files, random, interleaved).cast(columns))
        writer.commit(columns)
    rows = [
        {
            "registration": registration,
            "file_id": number,
            "uri": f"/nowhere/{number:06}.jsonl",
            "path": f"{number:06}.jsonl",
            "num_bytes": 1,
            "modified": datetime.now(UTC),
            "num_samples": SAMPLES_PER_FILE,
        }
        for number in range(num_files)
    ]
    _append(catalog, schema.FILES, rows)
    properties = [{"name": n, "type": str(kind), "expression": n, "origin": "sql"} for n, kind in _PROPERTIES.items()]
    dataset = {
        "dataset": "generated",
        "registration": registration,
        "uris": ["/nowhere"],
        "format": "jsonl",
        "text": "text",
        "options": "{}",
        "properties": properties,
        "num_files": num_files,
        "num_samples": num_samples,
        "num_bytes": num_files,
        "registered_at": datetime.now(UTC),
        "part": 0,
        "exclude": [],
        "removals": [],
    }
    _append(catalog, schema.DATASETS, [dataset])
    return catalog


def five_components(**settings: object) -> Mixture:
    """One component per language, in natural proportions."""
    pairs = zip(LANGUAGES, SHARES, strict=True)
    components = {name: {"where": f"language = '{name}'", "weight": share} for name, share in pairs}
    return Mixture.from_dict({"components": components, "on_exhausted": "redistribute", **settings})


def many_components() -> Mixture:
    """500 components over about 2,000 cells: most sources by themselves, the others by kind."""
    components = {
        f"source_{number}": {"where": f"source = {number}", "weight": 1} for number in range(NUM_SOURCES - NUM_KINDS)
    }
    components |= {f"kind_{number}": {"where": f"kind = {number}", "weight": 1} for number in range(NUM_KINDS)}
    return Mixture.from_dict({"components": components, "on_exhausted": "redistribute"})


def _rows(files: np.ndarray, num_files: int, random: np.random.Generator, interleaved: bool) -> pa.Table:
    num = len(files) * SAMPLES_PER_FILE
    sizes = random.integers(500, 3000, num)
    stops = np.cumsum(sizes.reshape(len(files), -1), axis=1).ravel()
    file_id = np.repeat(files, SAMPLES_PER_FILE)
    bounds = np.cumsum(SHARES)[:-1]
    place = random.random(num) if interleaved else file_id / num_files
    language = pa.array(LANGUAGES).take(pa.array(np.searchsorted(bounds, place, side="right")))
    return pa.table(
        {
            "file_id": pa.array(file_id, pa.int32()),
            "block": pa.array((files[0] * SAMPLES_PER_FILE + np.arange(num)) // ROWS_PER_BLOCK, pa.int32()),
            "row": np.tile(np.arange(SAMPLES_PER_FILE), len(files)),
            "byte_start": stops - sizes,
            "byte_stop": stops - 1,
            "language": language,
            "source": pa.array(random.integers(0, NUM_SOURCES, num), pa.int32()),
            "kind": pa.array(random.integers(0, NUM_KINDS, num), pa.int32()),
            "num_bytes": sizes - 1,
            "num_tokens": sizes // _BYTES_PER_TOKEN,
        }
    )


def _append(catalog: Catalog, table: str, rows: list[dict[str, object]]) -> None:
    catalog.lake.append(table, pa.Table.from_pylist(rows, schema=schema.TABLES[table].columns), action="generate")
