"""Which part is whose: by numbers, and by groups and meshes of real processes that talk through gloo."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import ConfigError
from mixlake.loaders import make_loader
from mixlake.loaders.placement import place

TRAINERS = """
import json, multiprocessing, sys
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from mixlake.catalog import Catalog, ConfigError
from mixlake.loaders import make_loader, merge_states
from mixlake.mixing import Run

def train(process, shape, kind, folder, phase, lake, name, state, num_batches):
    num = shape[0] * shape[1]
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{phase}", rank=process, world_size=num)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
    group = mesh["data"] if kind == "mesh" else mesh["data"].get_group()
    run = Run.load(Catalog.open(lake), name)
    options = {"batch_size": 8 // shape[0], "sequence_length": 64, "timeout": 60, "lookahead": 1}
    if num > 1:
        try:
            make_loader(run, **options)
            raise AssertionError("not refused")
        except ConfigError as error:
            assert f"torch.distributed runs {num} processes" in str(error)
    loader = make_loader(run, group=group, **options)
    if state:
        loader.load_state_dict(state)
    rows = []
    for _, batch in zip(range(num_batches), loader):
        rows.append([row.numpy().tobytes().hex() for row in batch["input_ids"]])
        dist.barrier()
    placement = loader.dataset.reading.placement
    mine = {"rank": placement.rank, "schedules": placement.schedules, "rows": rows, "state": loader.state_dict()}
    everything = [None] * num
    dist.all_gather_object(everything, mine)
    if process == 0:
        state = merge_states([each.pop("state") for each in everything])
        with open(f"{folder}/phase-{phase}", "w") as out:
            json.dump({"state": state, "processes": everything}, out)
    dist.destroy_process_group()

if __name__ == "__main__":
    folder, lake, name, phases = sys.argv[1:]
    state = None
    for phase, (shape, kind, num_batches) in enumerate(json.loads(phases)):
        arguments = (shape, kind, folder, phase, lake, name, state, num_batches)
        start = multiprocessing.get_context("fork").Process  # before a lake is opened; it saves the imports
        processes = [start(target=train, args=(process, *arguments)) for process in range(shape[0] * shape[1])]
        [process.start() for process in processes]
        [process.join() for process in processes]
        assert [process.exitcode for process in processes] == [0] * len(processes)
        state = json.load(open(f"{folder}/phase-{phase}"))["state"]
"""


def test_worlds_of_one_two_and_four_processes_go_on_from_one_another(make_run: Any, tmp_path: Path) -> None:
    run, twin = make_run(unit="bytes", chunk_size=8), make_run(unit="bytes", chunk_size=8)
    whole = [
        row.numpy().tobytes().hex()
        for b in make_loader(twin, batch_size=8, sequence_length=64)
        for row in b["input_ids"]
    ]
    script = tmp_path / "trainers.py"
    script.write_text(TRAINERS)
    phases = [
        ((1, 1), "mesh", 3),
        ((2, 1), "process group", 5),
        ((2, 2), "mesh", 4),
        ((4, 1), "process group", 6),
        ((1, 2), "mesh", 100_000),
    ]
    command = [sys.executable, str(script), str(tmp_path), run.catalog.lake.uri, run.name, json.dumps(phases)]
    subprocess.run(command, check=True, timeout=240)
    delivered: list[str] = []
    for phase, ((world_size, _), _, _) in enumerate(phases):
        processes = json.loads((tmp_path / f"phase-{phase}").read_text())["processes"]
        assert sum(process["schedules"] for process in processes) == 1
        by_rank: dict[int, Any] = {}
        for process in processes:
            assert by_rank.setdefault(process["rank"], process["rows"]) == process["rows"]
        assert sorted(by_rank) == list(range(world_size))
        for batches in zip(*(by_rank[rank] for rank in range(world_size)), strict=True):
            delivered += [row for rows in zip(*batches, strict=True) for row in rows]
    assert delivered == whole


def test_without_a_word_a_process_is_alone() -> None:
    placement = place(rank=None, world_size=None, group=None, schedules=None, num_lanes=4)
    assert (placement.rank, placement.world_size, placement.schedules, placement.is_alone) == (0, 1, True, True)


@pytest.mark.parametrize(
    ("rank", "schedules", "expected"), [(0, None, True), (1, None, False), (0, False, False), (1, True, True)]
)
def test_rank_0_schedules_unless_something_else_is_said(rank: int, schedules: bool | None, expected: bool) -> None:
    placement = place(rank=rank, world_size=2, group=None, schedules=schedules, num_lanes=4)
    assert placement.schedules is expected
    assert placement.leads is (rank == 0)


def test_a_group_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank=1 and world_size=None are known from group=; give one or the other"):
        place(rank=1, world_size=None, group="data", schedules=None, num_lanes=4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="group is 'data'; expected a ProcessGroup or DeviceMesh"):
        place(rank=None, world_size=None, group="data", schedules=None, num_lanes=4)  # type: ignore[arg-type]
