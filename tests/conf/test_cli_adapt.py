"""Adaptive runs from the command line: declared by group, adapted in a process, replayed with another policy."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixlake.catalog import Catalog
from mixlake.conf.cli import main
from mixlake.mixing import Run
from mixlake.mixing.feedback import StepLosses


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    (folder / "n.jsonl").write_text("\n".join(f'{{"text": "text {n}", "n": {n}}}' for n in range(200)))
    catalog = Catalog.open(str(folder / "lake"), create=True)
    catalog.register("numbers", str(folder / "n.jsonl"), properties={"n": "n"})
    mixture = folder / "my" / "mixture"
    mixture.mkdir(parents=True)
    (mixture / "two.yaml").write_text(
        "components:\n  short: {where: n < 50, weight: 1}\n  long: {weight: 3}\non_exhausted: repeat\n"
    )
    return folder


@pytest.fixture
def mixlake(lake: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(command: str, *arguments: str) -> str:
        main([command, f"lake={lake / 'lake'}", *arguments])
        return capsys.readouterr().out

    return run


def report(run: Run, num: int) -> None:
    tokens = np.array([30, 70], np.int64)
    run.feedback.append(
        [
            StepLosses(step=s, loss_sum=tokens * np.array([4.0, 1.0]), num_tokens=tokens, weights_version=1, chunk=s)
            for s in range(num)
        ]
    )


def test_a_run_is_declared_adapted_and_replayed(lake: Path, mixlake: Callable[..., str]) -> None:
    declared = ["--config-dir", str(lake / "my"), "mixture=two", "chunk_size=4"]
    mixlake("run", *declared, "name=exp1", "adapt=odm", "adapt.interval=10", "adapt.delay=5")
    run = Run.load(Catalog.open(str(lake / "lake")), "exp1")
    assert run.config.adapt is not None
    assert (run.config.adapt.interval, run.delay) == (10, 5)
    report(run, 40)
    assert "40 steps taken in; the last one is 39" in mixlake("adapt", "run=exp1")
    run.schedule(60)
    listed = mixlake("weights", "run=exp1")
    assert listed.count("adapt") >= 3
    assert "declared" in listed
    assert "reward" not in listed
    assert '"reward": ' in mixlake("weights", "run=exp1", "details=true")
    own = mixlake("adapt", "--replay", "run=exp1")
    assert "the same" in own
    assert "not the same" not in own
    other = mixlake("adapt", "--replay", "run=exp1", "adapt=average", "adapt.interval=10", "rows=4")
    assert "AverageLoss on the 40 steps of exp1" in other
    assert "not the same" in other
    assert other.count("recorded") == 4 + 1
    assert "80.00%" in other  # 4 of 4 + 1


def test_runs_from_others_adapt_alike_unless_they_do_not(lake: Path, mixlake: Callable[..., str]) -> None:
    declared = ["--config-dir", str(lake / "my"), "mixture=two"]
    mixlake("run", *declared, "name=a", "adapt=odm", "adapt.bounds.floor=0.1")
    mixlake("run", "--from", "a", "name=b")
    mixlake("run", "--from", "a", "name=c", "adapt=null")
    mixlake("fork", "run=a", "name=d", "at_chunk=0", "adapt=none")
    catalog = Catalog.open(str(lake / "lake"))
    a, b, c, d = (Run.load(catalog, name).config for name in "abcd")
    assert a.adapt == b.adapt is not None
    assert a.config_hash == b.config_hash
    assert c.adapt is None
    assert d.adapt is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "name=x", "mixture=two", "adapt=odm", "adapt.policy.reward_scale=much"],
            "adapt.policy.reward_scale is 'much'; expected float",
        ),
        (["run", "name=x", "mixture=two", "adapt=odm", "+adapt.policy.speed=1"], "adapt.policy has no 'speed'"),
        (["run", "name=x", "mixture=two", "adapt=odmm"], "odmm"),
        (["adapt", "run=plain"], "run 'plain' does not adapt its weights"),
        (["adapt", "run=plain", "adapt=odm"], "adapt=… is for --replay"),
        (["adapt", "--replay", "run=plain"], "has no policy of its own to replay"),
    ],
)
def test_what_is_wrong_is_refused(
    lake: Path, mixlake: Callable[..., str], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    catalog = Catalog.open(str(lake / "lake"))
    if "plain" not in [row["run"] for row in catalog.sql("SELECT run FROM runs").to_pylist()]:
        mixlake("run", "--config-dir", str(lake / "my"), "mixture=two", "name=plain")
    with pytest.raises(SystemExit):
        mixlake(arguments[0], *(["--config-dir", str(lake / "my")] if arguments[0] == "run" else []), *arguments[1:])
    assert message in capsys.readouterr().err


def test_a_process_adapts_until_the_run_ends(lake: Path, mixlake: Callable[..., str]) -> None:
    mixlake(
        "run",
        "--config-dir",
        str(lake / "my"),
        "mixture=two",
        "chunk_size=4",
        "name=follow",
        "adapt=odm",
        "adapt.interval=10",
        "length={chunks: 30}",
    )
    run = Run.load(Catalog.open(str(lake / "lake")), "follow")
    command = [
        str(Path(sys.executable).with_name("mixlake")),
        "adapt",
        f"lake={lake / 'lake'}",
        "run=follow",
        "follow=true",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        report(run, 25)
        run.schedule(1000)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "the last one is 24" in output
    decisions: list[Any] = run.decisions.read()
    assert [decision.step for decision in decisions] == [9, 19]


@pytest.mark.parametrize("name", ["ado", "ado_jax", "ado_mixtera", "average", "exponentiated", "odm"])
def test_every_group_starts_a_run(lake: Path, mixlake: Callable[..., str], name: str) -> None:
    mixlake("run", "--config-dir", str(lake / "my"), "mixture=two", f"name=with-{name}", f"adapt={name}")
    config = Run.load(Catalog.open(str(lake / "lake")), f"with-{name}").config
    assert config.adapt is not None
    assert config.adapt.bounds.floor == 0.0
