"""Ranks whose lanes give unequally many batches: a trainer that talks to the others in every step never hangs."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import ConfigError
from mixlake.loaders import make_loader, merge_states
from mixlake.mixing import Run

MakeRun = Callable[..., Run]
GLOBAL_BATCH, LENGTH = 8, 256

# Every step is a backward pass of DistributedDataParallel, which waits for all ranks.
TRAINERS = """
import json, multiprocessing, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from mixlake.catalog import Catalog
from mixlake.loaders import make_loader
from mixlake.mixing import Run

def train(process, phase, folder, lake, name, batch, length, ends, shape):
    num = shape[0] * shape[1]
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{phase}", rank=process, world_size=num)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
    run = Run.load(Catalog.open(lake), name)
    place = {"group": mesh["data"]} if num > shape[0] else {"rank": process, "world_size": num}
    loader = make_loader(run, batch_size=batch // shape[0], sequence_length=length, timeout=60, ends=ends, **place)
    model = DistributedDataParallel(torch.nn.Linear(length, 1))
    batches = []
    for batch in loader:
        model(batch["input_ids"].float()).sum().backward()
        rows = [row.numpy().tobytes().hex() for row in batch["input_ids"]]
        batches.append({"rows": rows, "num": int((batch["component_ids"] >= 0).sum()), "documents": batch["documents"]})
    with open(f"{folder}/out-{phase}-{process}", "w") as out:
        rank = loader.dataset.reading.placement.rank
        json.dump({"rank": rank, "batches": batches, "state": loader.state_dict()}, out)
    dist.destroy_process_group()

if __name__ == "__main__":
    phases = json.loads(sys.argv[6])
    for phase, (ends, shape) in enumerate(phases):
        start = multiprocessing.get_context("fork").Process  # before a lake is opened; it saves the imports
        arguments = (phase, *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), ends, shape)
        processes = [start(target=train, args=(process, *arguments)) for process in range(shape[0] * shape[1])]
        [process.start() for process in processes]
        [process.join() for process in processes]
        assert [process.exitcode for process in processes] == [0] * len(processes)
"""


def test_ranks_take_the_same_steps_to_the_end(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(unit="bytes", chunk_size=8)
    alone = list(make_loader(run, batch_size=GLOBAL_BATCH, sequence_length=LENGTH))
    whole = [row.numpy().tobytes().hex() for batch in alone for row in batch["input_ids"]]
    script = tmp_path / "trainers.py"
    script.write_text(TRAINERS)
    phases = [("padded", (4, 1)), ("together", (2, 2))]
    where = [str(tmp_path), run.catalog.lake.uri, run.name, str(GLOBAL_BATCH), str(LENGTH)]
    subprocess.run([sys.executable, str(script), *where, json.dumps(phases)], check=True, timeout=240)
    for phase, (ends, shape) in enumerate(phases):
        outs = [json.loads((tmp_path / f"out-{phase}-{n}").read_text()) for n in range(shape[0] * shape[1])]
        by_rank = {out["rank"]: out["batches"] for out in outs}
        assert len({len(out["batches"]) for out in outs}) == 1
        assert all(by_rank[out["rank"]] == out["batches"] for out in outs)
        batches = [batch for rank in by_rank.values() for batch in rank]
        assert {len(batch["rows"]) for batch in batches} == {GLOBAL_BATCH // shape[0]}
        rows = [
            row
            for step in zip(*(by_rank[rank] for rank in range(shape[0])), strict=True)
            for slot in zip(*(batch["rows"] for batch in step), strict=True)
            for row in slot
        ]
        if ends == "together":
            rest = make_loader(run, batch_size=GLOBAL_BATCH, sequence_length=LENGTH)
            rest.load_state_dict(merge_states([out["state"] for out in outs]))
            left = [row.numpy().tobytes().hex() for batch in rest for row in batch["input_ids"]]
            assert 0 < len(left) < len(whole) / 4
            assert Counter(rows + left) == Counter(whole)
        else:
            documents = {tuple(document) for batch in batches for document in batch["documents"]}
            assert documents == {tuple(document) for batch in alone for document in batch["documents"]}
            num_tokens = sum(int((batch["component_ids"] >= 0).sum()) for batch in alone)
            assert sum(batch["num"] for batch in batches) == num_tokens
            assert any(batch["num"] == 0 for batch in batches)  # a rank that had nothing any more
            assert not Counter(whole) - Counter(rows)


def test_one_rank_alone_leaves_its_last_batch_out_or_has_it_padded(make_run: MakeRun) -> None:
    run = make_run(unit="bytes")
    options: dict[str, Any] = {"batch_size": 7, "sequence_length": LENGTH}
    plain, together, padded = (list(make_loader(run, ends=e, **options)) for e in ("each", "together", "padded"))
    assert len(plain[-1]["input_ids"]) < 7
    assert len(together) == len(plain) - 1
    assert len(padded) == len(plain)
    assert {len(batch["input_ids"]) for batch in [*together, *padded]} == {7}
    num = len(plain[-1]["input_ids"])
    assert (padded[-1]["input_ids"][:num] == plain[-1]["input_ids"]).all()
    assert not padded[-1]["loss_mask"][num:].any()
    assert (padded[-1]["component_ids"][num:] == -1).all()
    assert padded[-1]["weights_versions"][num:] == [0] * (7 - num)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ends": "never"}, "ends is 'never'; expected one of each, together, padded"),
        ({"ends": "padded", "tokenizer": None}, "ends is 'padded', but samples have no padding"),
        ({"ends": "together", "rank": 0, "world_size": 2}, "ends other than 'each' need group=, in which 2 ranks ask"),
    ],
)
def test_what_cannot_be_is_refused(make_run: MakeRun, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loader(make_run(), batch_size=2, **options)
