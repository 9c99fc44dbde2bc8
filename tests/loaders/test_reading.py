"""Reading in place: files that vanished, grew or were touched since registration are refused, by name."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import Catalog, DataError
from mixlake.loaders import SampleDataset
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
