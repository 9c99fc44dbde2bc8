"""The demo is the real job: on the files of this machine, repeatable, steered by overrides."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pytest

from mixlake.catalog import Catalog
from mixlake.conf.demo_sources import license_of, package_of
from mixlake.mixing import Run

MIXLAKE = Path(sys.executable).with_name("mixlake")
SMALL = ["demo.steps=4", "demo.batch_size=4", "demo.sequence_length=64", "demo.width=32", "demo.layers=1"]


def demo(cwd: Path, *overrides: str) -> str:
    done = subprocess.run(
        [str(MIXLAKE), "demo", *SMALL, *overrides], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    return demo(folder)


def digest(text: str) -> str:
    found = re.search(r"digest of the \d+ batches: ([0-9a-f]{64})", text)
    assert found is not None
    return found[1]


def test_it_registers_explains_trains_and_traces_back(output: str) -> None:
    assert re.search(r"registered stdlib and packages in place: [\d,]+ files", output)
    for component in ("python", "native", "stubs", "docs", "licences"):
        assert len(re.findall(rf"^ +{component} +\d+\.\d+%", output, re.M)) == 2  # explain's table and the results
    assert "losses in nats" in output
    traced = output.split("where the last batch came from")[1]
    num = int(traced.split("the first ")[1].split()[0])
    files = re.findall(r"^  \w+ +\d+ tokens, chunk \d+, weights v1, .*\n    (/.*)$", traced, re.M)
    assert len(files) == num >= 4
    assert all(Path(file).is_file() for file in files)


def test_delivered_shares_are_within_one_sequence_per_lane(output: str) -> None:
    found = re.search(r"within (\d+) tokens of what .* asked for .* \(one sequence per lane: (\d+)\)", output)
    assert found is not None
    assert int(found[1]) <= int(found[2]) == 4 * 64


def test_weights_follow_the_losses_and_what_is_delivered_follows_the_weights(folder: Path) -> None:
    policy = [
        "adapt.policy.ignore_steps=5",
        "adapt.policy.start_step=15",
        "adapt.policy.interval=5",
        "adapt.interval=5",
    ]
    # With more lanes all documents of a rare component may fall to one of them for a while: the others open chunks
    # ahead in search of it, and have new weights that much later.
    sizes = ["demo.steps=120", "demo.batch_size=32", "run.chunk_size=2", "run.lanes=1", "run.name=followed"]
    output = demo(folder, *policy, *sizes)
    table = output.split("weights versions that training has seen")[1].split("mixlake weights")[0]
    rows = re.findall(r"^ +(\d+) +(declared|adapt) +(\d+)? +(\d+) +([\d.% ]+?)  +\w*", table, re.M)
    assert rows[0][1] == "declared"
    assert len({shares for *_, shares in rows}) == len(rows) > 3
    for _, cause, decided, in_force, _ in rows:
        assert cause == "declared" or int(decided) < int(in_force) < 120
    found = re.search(r"within (\d+) tokens of what", output)
    assert found is not None
    assert int(found[1]) <= 64
    assert re.search(r"drawn: .*/plots/followed-weights\.png|mixlake\[plots\]", output)


def test_running_it_twice_gives_the_same_batches(folder: Path, output: str) -> None:
    again = demo(folder)
    assert digest(again) == digest(output)
    assert "run demo-2 in lake" in again


def test_workers_give_the_same_batches(folder: Path, output: str) -> None:
    assert digest(demo(folder, "demo.num_workers=1")) == digest(output)


def test_overrides_change_the_mixture(folder: Path, output: str) -> None:
    changed = demo(folder, "mixture.components.python.weight=0.1", "~mixture.components.native", "run.name=changed")
    assert digest(changed) != digest(output)
    assert re.search(r"python +25\.00%", changed)
    run = Run.load(Catalog.open(str(folder / "mixlake-demo")), "changed")
    assert [component.name for component in run.config.mixture.components] == ["python", "stubs", "docs", "licences"]


def test_packages_and_licences_come_from_the_metadata() -> None:
    records = pa.record_batch(
        {
            "path": [
                "numpy/__init__.py",
                "hydra/core/utils.py",
                f"hydra_core-{version('hydra-core')}.dist-info/METADATA",
                "none/x.py",
            ]
        }
    )
    assert package_of(records).to_pylist() == ["numpy", "hydra-core", "hydra-core", None]
    licences = license_of(records).to_pylist()
    assert "BSD" in licences[0]
    assert licences[1:] == ["MIT License", "MIT License", None]
