"""Tokens written once: the same documents, the properties they had, whole shards whoever interrupts."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixlake.catalog import Catalog, ConfigError, tokenize
from mixlake.loaders import TokenDataset
from mixlake.mixing import Mixture, Run

NUM_FILES, NUM_RECORDS = 5, 40
KEPT = "SELECT row_number() OVER (ORDER BY file_id, row) AS n, language, length, tags FROM samples WHERE dataset = '{}'"


def text(file: int, index: int) -> str | None:
    return None if (file, index) == (2, 7) else f"größe {file} " * (index % 9) + str(index)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Records of several files, one without a text; some are removed."""
    for file in range(NUM_FILES):
        records = [
            {"body": text(file, index), "language": ["de", "en"][index % 2], "tags": [f"t{index % 3}"]}
            for index in range(NUM_RECORDS)
        ]
        lines = "\n".join(json.dumps(record) for record in records)
        (tmp_path / f"{file}.jsonl").write_text(lines, encoding="utf-8")
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    properties = {"language": "language", "length": "character_length(body)", "tags": "tags"}
    catalog.register("docs", str(tmp_path / "*.jsonl"), text="body", properties=properties)
    catalog.remove("length = 2 AND language = 'en'", reason="a test")
    return catalog


def samples(catalog: Catalog, dataset: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = catalog.sql(KEPT.format(dataset) + " ORDER BY 1").to_pylist()
    return found


def tokens(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.bin")))


def test_a_dataset_is_tokenized_with_its_properties_and_in_its_order(catalog: Catalog, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    tokenize(
        catalog,
        "docs",
        "ids",
        tmp_path / "ids",
        tokenizer="bytes",
        progress=lambda n, total, _: done.append((n, total)),
    )
    assert samples(catalog, "ids") == samples(catalog, "docs")
    kept = [
        body
        for file in range(NUM_FILES)
        for index in range(NUM_RECORDS)
        if (body := text(file, index)) is None or len(body) != 2 or index % 2 == 0
    ]
    expected = [[] if body is None else [*body.encode(), 256] for body in kept]
    assert tokens(tmp_path / "ids") == np.array([token for ids in expected for token in ids], "<u2").tobytes()
    counts = catalog.sql("SELECT num_tokens FROM samples WHERE dataset = 'ids' ORDER BY file_id, row").to_pylist()
    assert [count["num_tokens"] for count in counts] == list(map(len, expected))
    assert done[-1] == (len(kept), len(kept))
    assert {prop["name"]: prop["type"] for prop in catalog.properties().to_pylist() if prop["dataset"] == "ids"} == {
        **{prop["name"]: prop["type"] for prop in catalog.properties().to_pylist() if prop["dataset"] == "docs"},
        "num_tokens": "int64",
    }
    assert not catalog.refresh("ids").changed


def test_training_reads_the_same_documents_as_it_would_have_tokenized(catalog: Catalog, tmp_path: Path) -> None:
    catalog.remove("length IS NULL", reason="no text")
    tokenize(catalog, "docs", "ids", tmp_path / "ids", tokenizer="bytes", tokens_per_shard=2000)
    found = []
    for dataset in ("docs", "ids"):
        mixture = Mixture.from_dict({"components": {"all": {"where": f"dataset = '{dataset}'", "weight": 1}}})
        run = Run.start(catalog, dataset, mixture, lanes=1, chunk_size=32)
        sequences = list(TokenDataset(run, sequence_length=64))
        ids = np.concatenate([sequence.ids for sequence in sequences]).tolist()
        documents = " ".join(map(str, ids)).split(" 256")
        found.append(sorted(document.strip() for document in documents))  # the first has no space before it
    assert found[0] == found[1]


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_whoever_is_interrupted_goes_on_behind_the_last_whole_shard(
    catalog: Catalog, tmp_path: Path, stop: int
) -> None:
    tokenize(catalog, "docs", "whole", tmp_path / "whole", tokenizer="bytes")
    calls: list[int] = []

    def interrupted(done: int, _: int, __: str) -> None:
        calls.append(done)
        if len(calls) == stop:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"tokenizer": "bytes", "tokens_per_shard": 1}
    with pytest.raises(KeyboardInterrupt):
        tokenize(catalog, "docs", "ids", tmp_path / "ids", progress=interrupted, **options)
    assert "ids" not in {dataset.name for dataset in catalog.list_datasets()}
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "ids").glob("*.idx")}
    tokenize(catalog, "docs", "ids", tmp_path / "ids", **options)
    assert len(first) == stop - 1
    assert all((tmp_path / "ids" / name).stat().st_mtime_ns == when for name, when in first.items())
    assert tokens(tmp_path / "ids") == tokens(tmp_path / "whole")
    assert samples(catalog, "ids") == samples(catalog, "docs")


KILLED = """
import os, signal, sys
from mixlake.catalog import Catalog, tokenize

lake, folder, stop = sys.argv[1:]
calls = []

def progress(*_):
    calls.append(1)
    if len(calls) == int(stop):
        os.kill(os.getpid(), signal.SIGKILL)

tokenize(Catalog.open(lake), "docs", "ids", folder, tokenizer="bytes", tokens_per_shard=1, progress=progress)
"""


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "ids"
    arguments = [sys.executable, "-c", KILLED, catalog.lake.uri, str(folder), "3"]
    assert subprocess.run(arguments, check=False, timeout=120).returncode == -signal.SIGKILL
    assert len(list(folder.glob("*.idx"))) == 2
    assert list(folder.glob("*.unfinished"))
    tokenize(catalog, "docs", "ids", folder, tokenizer="bytes", tokens_per_shard=1)
    tokenize(catalog, "docs", "whole", tmp_path / "whole", tokenizer="bytes")
    assert tokens(folder) == tokens(tmp_path / "whole")
    assert samples(catalog, "ids") == samples(catalog, "docs")


def test_a_folder_of_something_else_is_refused(catalog: Catalog, tmp_path: Path, tokenizer_file: Path) -> None:
    with pytest.raises(ConfigError, match="is not empty, and holds no tokens; choose another"):
        tokenize(catalog, "docs", "ids", tmp_path, tokenizer="bytes")
    tokenize(catalog, "docs", "ids", tmp_path / "ids", tokenizer="bytes")
    with pytest.raises(ConfigError, match=r"holds tokens of .*'bytes'.*, not of .*tokenizer\.json .*; choose another"):
        tokenize(catalog, "docs", "other", tmp_path / "ids", tokenizer=tokenizer_file)
    with pytest.raises(ConfigError, match=r"dataset 'ids': field 'tokens' is list.* expected text to tokenize"):
        tokenize(catalog, "ids", "again", tmp_path / "again", tokenizer="bytes")
