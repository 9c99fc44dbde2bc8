"""Workers by fork, forkserver and spawn, ours and torch's: the same batches, and errors that tell what is wrong."""

import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from mixlake.catalog import ConfigError, MixlakeError
from mixlake.loaders import SampleDataset, make_loader
from mixlake.mixing import Run

MakeRun = Callable[..., Run]


def rows(batch: dict[str, Any]) -> list[bytes]:
    return [row.tobytes() for row in batch["input_ids"].numpy()]


def every_address(run: Run) -> list[tuple[str, int, int]]:
    found = run.catalog.sql("SELECT registration, file_id, row FROM samples").to_pylist()
    return [(row["registration"], row["file_id"], row["row"]) for row in found]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])  # the other tests have fresh ones
def test_our_workers_give_the_same_batches_however_they_start(make_run: MakeRun, method: str) -> None:
    run, twin = make_run(unit="bytes"), make_run(unit="bytes")
    options: dict[str, Any] = {"batch_size": 6, "sequence_length": 256, "timeout": 60}
    loader = make_loader(run, num_workers=2, multiprocessing_context=method, **options)
    assert [rows(batch) for batch in loader] == [rows(batch) for batch in make_loader(twin, **options)]
    assert loader.stats().read.num_samples == 900


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_torchs_workers_deliver_everything_once_and_schedule_the_run_meanwhile(make_run: MakeRun, method: str) -> None:
    run = make_run()
    dataset = SampleDataset(run, timeout=60)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=method)
    assert Counter(tuple(sample["sample"]) for sample in loader) == Counter(every_address(run))


SCRIPT = """
import sys
from mixlake.catalog import Catalog
from mixlake.loaders import make_loader
from mixlake.mixing import Run

def shorter(sample):
    return {{**sample, "text": sample["text"][:5]}}

def main():
    run = Run.load(Catalog.open(sys.argv[1]), sys.argv[2])
    options = {{"tokenizer": None, "transform": {transform}, "multiprocessing_context": "{method}"}}
    print(sum(len(batch["text"]) for batch in make_loader(run, batch_size=50, num_workers=1, **options)))

{begin}
"""
GUARDED, UNGUARDED = "if __name__ == '__main__': main()", "main()"


def run_script(folder: Path, run: Run, **parts: str) -> "subprocess.CompletedProcess[str]":
    script = folder / "trainer.py"
    script.write_text(SCRIPT.format(**parts))
    command = [sys.executable, str(script), run.catalog.lake.uri, run.name]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(("begin", "transform"), [(UNGUARDED, "None"), (GUARDED, "shorter")])
def test_a_script_that_forks_needs_a_guard_only_where_workers_need_something_of_it(
    make_run: MakeRun, tmp_path: Path, begin: str, transform: str
) -> None:
    done = run_script(tmp_path, make_run(), begin=begin, transform=transform, method="fork")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "900\n"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("fork", "a worker imports the main module for something that is defined there, and that starts workers"),
        ("spawn", r"it could not even begin, and wrote why to the standard error of this process; a script"),
    ],
)
def test_a_function_of_a_script_without_a_guard_is_explained(
    make_run: MakeRun, tmp_path: Path, method: str, message: str
) -> None:
    done = run_script(tmp_path, make_run(), begin=UNGUARDED, transform="shorter", method=method)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_function_of_a_notebook_is_explained(make_run: MakeRun) -> None:
    run = make_run()
    script = SCRIPT.format(transform="shorter", method="fresh", begin=UNGUARDED)
    command = [sys.executable, "-", run.catalog.lake.uri, run.name]
    done = subprocess.run(command, check=False, input=script, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "a worker needs something that is defined where Python reads from no file, as in a notebook" in done.stderr


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_function_that_workers_cannot_import_is_named(
    make_run: MakeRun, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleeting.py").write_text("def transform(sample): return sample")
    monkeypatch.syspath_prepend(tmp_path)
    fleeting = importlib.import_module("fleeting")
    (tmp_path / "fleeting.py").unlink()
    loader = make_loader(
        make_run(),
        batch_size=4,
        tokenizer=None,
        transform=fleeting.transform,
        num_workers=1,
        multiprocessing_context=method,
    )
    with pytest.raises(ModuleNotFoundError, match="No module named 'fleeting'") as caught:
        list(loader)
    assert "in worker 0 of the loader:" in caught.value.__notes__[0]


def test_a_lambda_is_refused_before_a_worker_starts(make_run: MakeRun) -> None:
    loader = make_loader(make_run(), batch_size=4, tokenizer=None, transform=lambda sample: sample, num_workers=1)
    with pytest.raises(ConfigError, match=r"workers import what they call.*define it at the top of a module"):
        list(loader)


class PickyError(Exception):
    def __init__(self, text: str, number: int) -> None:
        super().__init__(f"{text} {number}")


def raise_picky(sample: dict[str, Any]) -> dict[str, Any]:
    raise PickyError("the real text", len(sample))


def yield_unsendable(sample: dict[str, Any]) -> Any:
    return (value for value in sample.values())


@pytest.mark.parametrize(
    ("transform", "kind", "message"),
    [
        (raise_picky, MixlakeError, "worker 0 of the loader failed: PickyError: the real text 3"),
        (yield_unsendable, TypeError, "cannot pickle 'generator' object"),
    ],
)
def test_what_cannot_be_sent_is_told(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, transform: Any, kind: type[Exception], message: str
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # workers import this module for its function
    loader = make_loader(make_run(), batch_size=4, tokenizer=None, transform=transform, num_workers=1, timeout=60)
    with pytest.raises(kind, match=message):
        list(loader)
