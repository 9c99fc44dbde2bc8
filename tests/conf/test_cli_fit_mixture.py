"""From experiments to the best mixture by the command line: written, run, reported, fitted, explained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml

from mixlake.catalog import Catalog
from mixlake.conf.cli import main
from mixlake.mixing import Run
from mixlake.mixing.feedback import StepLosses

COMPONENTS = ("a", "code.b", "code.c")
SLOPES = np.array([[-2.0, 0.2, 0.1], [0.3, -1.5, 0.0], [0.2, -0.2, -1.2]])
MIXTURE = """
components:
  a: {where: n % 3 = 0, weight: 2}
  code:
    weight: 2
    components:
      b: {where: n % 3 = 1, weight: 1}
      c: {weight: 3}
on_exhausted: repeat
"""


def losses_of(mixture: np.ndarray) -> np.ndarray:
    losses: np.ndarray = 1.5 + np.exp(SLOPES @ mixture)
    return losses


def best_mean_loss() -> float:
    """By looking at every mixture of a grid."""
    grid = [np.array([i, j, 200 - i - j]) / 200 for i in range(201) for j in range(201 - i)]
    return min(float(losses_of(shares).mean()) for shares in grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    (folder / "n.jsonl").write_text("\n".join(f'{{"text": "text {n}", "n": {n}}}' for n in range(600)))
    Catalog.create(str(folder / "lake")).register("numbers", str(folder / "n.jsonl"), properties={"n": "n"})
    (folder / "my" / "mixture").mkdir(parents=True)
    (folder / "my" / "mixture" / "nested.yaml").write_text(MIXTURE)
    return folder


@pytest.fixture
def mixlake(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> str:
        main([*arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refusal(mixlake: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            mixlake("fit-mixture", "--config-dir", "my", "mixture=nested", *arguments)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


FIT = ("fit-mixture", "--config-dir", "my", "mixture=nested")


def report(run: Run) -> None:
    """Ten steps of losses as the law has them, the last one without warm-up."""
    shares = np.array([leaf.share for leaf in run.program.stage_leaves[0]])
    tokens = np.maximum((shares * 1e6).astype(np.int64), 1)
    steps = [
        StepLosses(
            step=step,
            loss_sum=tokens * (losses_of(shares) + 9 - step),
            num_tokens=tokens,
            weights_version=1,
            chunk=step,
        )
        for step in range(10)
    ]
    run.feedback.append(steps)


def test_mixtures_are_written_run_reported_fitted_and_explained(folder: Path, mixlake: Callable[..., str]) -> None:
    said = mixlake(*FIT, "into=sweep", "experiments=9", "floor=0.02")
    command = said.split("A run for each:\n")[1].split()
    assert command[:3] == ["mixlake", "run", "-m"]
    assert sorted(path.name for path in (folder / "sweep" / "mixture").iterdir())[0] == "probe_0.yaml"
    mixlake(*[word.strip("'") for word in command[1:]], "chunk_size=64")
    catalog = Catalog.open(str(folder / "lake"))
    names = [row["run"] for row in catalog.sql("SELECT run FROM runs").to_pylist()]
    assert len(names) == 9
    for name in names:
        report(Run.load(catalog, name))
    said = mixlake(*FIT, "into=my/mixture/best.yaml", "runs=probe-*", "floor=0.05")
    assert "mean loss" in said
    text = (folder / "my" / "mixture" / "best.yaml").read_text()
    assert "ExponentialLaw fitted to 9 experiments, probe-*" in text
    best = yaml.safe_load(text)
    inner = best["components"]["code"]["components"]
    shares = np.array([best["components"]["a"]["weight"], inner["b"]["weight"], inner["c"]["weight"]])
    assert shares.sum() == pytest.approx(1, abs=1e-4)
    assert shares.min() >= 0.05 - 1e-5
    assert losses_of(shares).mean() == pytest.approx(best_mean_loss(), abs=1e-3)
    explained = mixlake("explain", "--config-dir", "my", "mixture=best", "length={samples: 100}")
    assert f"{shares[0]:.2%}" in explained


def test_evaluations_are_taken_where_all_runs_have_them(folder: Path, mixlake: Callable[..., str]) -> None:
    mixlake(*FIT, "into=sets", "experiments=5", "name=sets")
    mixlake("run", "-m", "--config-dir", "sets", "name=sets", "mixture=glob(sets_*)")
    catalog = Catalog.open(str(folder / "lake"))
    for number in range(5):
        run = Run.load(catalog, f"sets-mixture-sets_{number}")
        shares = np.array([leaf.share for leaf in run.program.stage_leaves[0]])
        for step in (100, 200):
            run.evaluations.append(step, {"wiki": float(losses_of(shares)[0]) + 1 / step, "code": 3.0 - shares[2]})
    said = mixlake(
        *FIT,
        "into=sets/best.yaml",
        "runs=sets-*",
        "importance={code: 1}",
        "fit=linear",
        "cap={code.c: 0.6}",
        "extrapolate=true",
    )
    assert "code" in said
    best = yaml.safe_load((folder / "sets" / "best.yaml").read_text())["components"]
    assert best["code"]["components"]["c"]["weight"] == pytest.approx(0.6)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_weights_and_losses_is_fitted_too(folder: Path, mixlake: Callable[..., str], suffix: str) -> None:
    mixlake(*FIT, f"into=table{suffix}", "experiments=12", "seed=3")
    table = pa_csv.read_csv(folder / f"table{suffix}" / "probe.csv")
    mixtures = np.array([table[f"weight.{name}"].to_pylist() for name in COMPONENTS]).T
    table = table.append_column("loss.web", pa.array([float(losses_of(shares)[0]) for shares in mixtures]))
    path = folder / f"losses{suffix}"
    (pq.write_table if suffix == ".parquet" else pa_csv.write_csv)(table, path)
    mixlake(*FIT, f"losses={path}", f"into=best{suffix}.yaml", "floor=0.01")
    best = yaml.safe_load((folder / f"best{suffix}.yaml").read_text())["components"]
    assert best["a"]["weight"] == pytest.approx(mixtures[:, 0].max(), abs=1e-4)  # no further than was looked


def test_components_that_are_inferred_are_written_out(folder: Path, mixlake: Callable[..., str]) -> None:
    mixlake("add-property", "name=rest", "n % 2")
    (folder / "my" / "mixture" / "by_rest.yaml").write_text("{kind: inferred, by: rest, on_exhausted: repeat}")
    mixlake("fit-mixture", "--config-dir", "my", "mixture=by_rest", "into=inferred", "experiments=3")
    explained = mixlake("explain", "--config-dir", "inferred", "mixture=probe_1", "length={samples: 100}")
    written = yaml.safe_load((folder / "inferred" / "mixture" / "probe_1.yaml").read_text())
    assert f"{written['components']['0']['weight']:.2%}" in explained


def test_what_is_wrong_is_refused(folder: Path, mixlake: Callable[..., str], refusal: Callable[..., str]) -> None:
    mixlake(*FIT, "into=few", "experiments=2", "name=few")
    mixlake("run", "-m", "--config-dir", "few", "name=few", "mixture=glob(few_*)")
    assert "expected experiments=NUMBER to write mixtures, or runs=NAMES" in refusal("into=x")
    assert "no run is called 'fow-*'" in refusal("into=x", "runs=fow-*")
    assert "runs without losses: few-mixture-few_0" in refusal("into=x", "runs=few-*")
    catalog = Catalog.open(str(folder / "lake"))
    for number in range(2):
        report(Run.load(catalog, f"few-mixture-few_{number}"))
    assert "2 experiments have a loss of 'a', but for 3 components it takes 5 or more" in refusal(
        "into=x", "runs=few-*"
    )
    assert "has losses up to step 9" in refusal("into=x", "runs=few-*", "at_step=20")
    assert "exists already" in refusal("into=few", "experiments=2", "name=few")
    assert "floor: unknown component 'b'" in refusal("into=x", "experiments=2", "floor.b=0.1")
    assert "floors that are at most the caps" in refusal("into=x", "experiments=2", "floor=0.5")
    assert "there is no loss 'wiki'" in refusal("into=x", "runs=few-*", "importance.wiki=1")
    (folder / "bad.csv").write_text("weight.a,weight.code.b,losses\n1,2,3\n")
    assert "expected loss.NAME" in refusal("into=x", f"losses={folder}/bad.csv")


def test_a_run_that_changed_its_weights_is_no_experiment(
    folder: Path, mixlake: Callable[..., str], refusal: Callable[..., str]
) -> None:
    mixlake("run", "--config-dir", "my", "mixture=nested", "name=moved", "chunk_size=16")
    run = Run.load(Catalog.open(str(folder / "lake")), "moved")
    run.schedule(2)
    run.set_weights({"a": 0.9})
    run.schedule(2)
    report(run)
    assert "run 'moved' changed its weights at chunk 2 (manual)" in refusal("into=x", "runs=moved")
