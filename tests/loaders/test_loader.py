"""The loader with real worker processes: the same batches for any number of them, and nothing lost on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mixlake.catalog import ConfigError, DataError
from mixlake.loaders import component_losses, make_loader


def rows(batch: dict[str, Any]) -> list[bytes]:
    return [row.tobytes() for row in batch["input_ids"].numpy()]


def test_batches_have_the_shapes_that_trainers_expect(make_run: Any) -> None:
    batch = next(iter(make_loader(make_run(unit="bytes"), batch_size=3, sequence_length=40)))
    for name in ("input_ids", "labels", "component_ids", "document_ids", "position_ids"):
        assert batch[name].shape == (3, 40)
        assert batch[name].dtype == torch.int64
    assert batch["components"] == ("english", "notes", "others")
    assert int(batch["document_ids"].max()) == len(batch["documents"]) - 1
    assert batch["weights_versions"] == [1, 1, 1]


def test_sample_batches_are_lists(make_run: Any) -> None:
    batch = next(iter(make_loader(make_run(), batch_size=5, tokenizer=None)))
    assert set(batch) == {"text", "component", "sample", "components"}
    assert len(batch["text"]) == 5


@pytest.mark.parametrize(("unit", "tokenizer"), [("samples", "bytes"), ("bytes", "bytes"), ("samples", None)])
def test_any_number_of_workers_gives_the_same_batches(make_run: Any, unit: str, tokenizer: str | None) -> None:
    run = make_run(unit=unit)
    options: dict[str, Any] = {"batch_size": 6, "tokenizer": tokenizer, "sequence_length": 64, "timeout": 60}
    key = "text" if tokenizer is None else "input_ids"
    alone = [list(batch[key]) if tokenizer is None else rows(batch) for batch in make_loader(run, **options)]
    for num_workers in (1, 2):
        batches = make_loader(run, num_workers=num_workers, **options)
        assert [list(b[key]) if tokenizer is None else rows(b) for b in batches] == alone


def test_workers_get_chunks_from_the_scheduler_in_the_background(make_run: Any) -> None:
    run, twin = make_run(unit="bytes", chunk_size=4), make_run(unit="bytes", chunk_size=4)
    expected = [rows(batch) for batch in make_loader(twin, batch_size=4, sequence_length=64)]
    loader = make_loader(run, batch_size=4, sequence_length=64, num_workers=2, lookahead=1, timeout=60)
    assert [rows(batch) for batch in loader] == expected


def test_what_workers_prefetched_is_not_counted_as_delivered(make_run: Any) -> None:
    run = make_run(unit="bytes")
    options: dict[str, Any] = {"batch_size": 4, "sequence_length": 64, "timeout": 60}
    whole = [rows(batch) for batch in make_loader(run, **options)]
    loader = make_loader(run, num_workers=2, **options)
    stream = iter(loader)
    delivered = [rows(next(stream)) for _ in range(7)]
    state = json.loads(json.dumps(loader.state_dict()))
    stream.close()  # type: ignore[attr-defined]
    for num_workers in (0, 1):
        resumed = make_loader(run, num_workers=num_workers, **options)
        resumed.load_state_dict(state)
        assert delivered + [rows(batch) for batch in resumed] == whole


def test_iterating_again_goes_on_where_the_last_iteration_stopped(make_run: Any) -> None:
    run = make_run(unit="bytes")
    whole = [rows(batch) for batch in make_loader(run, batch_size=4, sequence_length=64)]
    loader = make_loader(run, batch_size=4, sequence_length=64)
    first = [rows(batch) for batch, _ in zip(loader, range(3), strict=False)]
    assert first + [rows(batch) for batch in loader] in (whole, whole[:3] + whole[4:])


TRAINER = """
import json, os, signal, sys
from mixlake.catalog import Catalog
from mixlake.loaders import make_loader
from mixlake.mixing import Run

if __name__ == "__main__":
    lake, name, state_file, out_file, num_steps = sys.argv[1:]
    loader = make_loader(Run.load(Catalog.open(lake), name), batch_size=4, sequence_length=64, num_workers=1)
    if os.path.exists(state_file):
        loader.load_state_dict(json.load(open(state_file)))
    for step, batch in enumerate(loader):
        with open(out_file, "a") as out:
            out.writelines(bytes(row.numpy().astype("uint16").tobytes()).hex() + "\\n" for row in batch["input_ids"])
        with open(state_file + ".tmp", "w") as out:
            json.dump(loader.state_dict(), out)
        os.replace(state_file + ".tmp", state_file)
        if step + 1 == int(num_steps):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_trainer_goes_on_with_the_batch_after_its_last(make_run: Any, tmp_path: Path) -> None:
    run = make_run(unit="bytes", lanes=2)
    twin = make_run(unit="bytes", lanes=2)
    whole = [
        row.numpy().astype("uint16").tobytes().hex()
        for batch in make_loader(twin, batch_size=4, sequence_length=64)
        for row in batch["input_ids"]
    ]
    script, out = tmp_path / "trainer.py", tmp_path / "out"
    script.write_text(TRAINER)
    for num_steps in (9, 30, 100_000):
        arguments = [run.catalog.lake.uri, run.name, str(tmp_path / "state"), str(out), str(num_steps)]
        done = subprocess.run([sys.executable, str(script), *arguments], check=False, timeout=120)
        assert done.returncode == (0 if num_steps == 100_000 else -signal.SIGKILL)
    assert out.read_text().splitlines() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0 and num_workers is 0; expected 1 or more, and 0 or more"),
        ({"num_workers": 5}, "num_workers is 5, but rank 0 has 4 lanes; every worker needs one"),
        (
            {"num_workers": 1, "multiprocessing_context": "thread"},
            "multiprocessing_context is 'thread'; expected one of fresh, fork, forkserver, spawn",
        ),
        ({"sequence_length": 1}, "sequence_length is 1; expected 2 or more"),
        ({"packing": "tight"}, "packing is 'tight'; expected one of concat, best_fit"),
        ({"overlap": 2}, "overlap is 2; expected 0 or 1"),
        ({"tokenizer": "no.json"}, "tokenizer 'no.json' is no file; expected 'bytes', or the path of a tokenizer file"),
        (
            {"tokenizer": 3},
            "tokenizer is 3; expected 'bytes', the path of a tokenizer file, a TokenizerFile, or a callable",
        ),
        ({"fields": ["a"]}, "fields goes with tokenizer=None; tokens are made of the text alone"),
    ],
)
def test_wrong_settings_are_refused(make_run: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loader(make_run(), **{"batch_size": 2, **options})


def test_an_error_in_a_worker_reaches_the_trainer(make_run: Any, collection: Path) -> None:
    run = make_run(filter="kind = 'row'", components={"all": {"where": "true", "weight": 1}})
    path = collection / "table.parquet"
    before = os.stat(path)
    try:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
        with pytest.raises(DataError, match=r"table\.parquet of dataset 'table' was modified since it") as caught:
            list(make_loader(run, batch_size=2, num_workers=1))
        assert "\n" not in str(caught.value)
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_component_losses_equal_a_loop_over_tokens(make_run: Any) -> None:
    batch = next(iter(make_loader(make_run(unit="bytes"), batch_size=3, sequence_length=40)))
    logits = torch.randn(3, 40, 257, generator=torch.Generator().manual_seed(0))
    loss_sum, num_tokens = component_losses(logits, batch)
    expected, counts = [0.0] * 3, [0] * 3
    for b in range(3):
        for t in range(40):
            label, component = int(batch["labels"][b, t]), int(batch["component_ids"][b, t])
            if label >= 0:
                expected[component] -= float(torch.log_softmax(logits[b, t], -1)[label])
                counts[component] += 1
    assert torch.allclose(loss_sum, torch.tensor(expected), rtol=1e-5)
    assert num_tokens.tolist() == counts
