"""`mixlake plot` writes the plots that it is asked for, under the names that it says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mixlake.catalog import Catalog
from mixlake.conf.cli import main
from mixlake.loaders import make_loader
from mixlake.mixing import Run

Call = Callable[..., str]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    (folder / "n.jsonl").write_text("\n".join(f'{{"text": "text {n}", "n": {n}}}' for n in range(200)))
    catalog = Catalog.create(str(folder / "lake"))
    catalog.register("numbers", str(folder / "n.jsonl"), properties={"n": "n", "half": "n < 100"})
    mixture = {"components": {"short": {"where": "n < 50", "weight": 1}, "long": {"weight": 3}}}
    Run.start(catalog, "exp1", mixture, chunk_size=20, lanes=2).schedule(100)
    Run.start(catalog, "empty", mixture)
    return folder / "lake"


@pytest.fixture
def plot(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        main(["plot", f"lake={lake}", *arguments])
        return capsys.readouterr().out

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_plots_of_a_run_are_those_that_there_is_something_for(plot: Call, tmp_path: Path) -> None:
    assert len(plot("run=exp1", "to=out").splitlines()) == 5
    assert names(tmp_path / "out") == [f"exp1-{k}.png" for k in ("mixture", "passes", "shares", "stages", "weights")]
    plot("run=empty")
    assert names(tmp_path) == ["empty-stages.png", "empty-weights.png", "out"]


def test_one_plot_is_written_where_it_is_wanted(plot: Call, tmp_path: Path) -> None:
    assert plot("shares", "run=exp1", "over=units") == "exp1-shares.png\n"
    assert plot("property", "property=n", "by=half", "where='n > 9'", "to=n.svg") == "n.svg\n"
    assert "false (100)" in (tmp_path / "n.svg").read_text(encoding="utf-8")
    assert "true (90)" in (tmp_path / "n.svg").read_text(encoding="utf-8")


def test_waiting_is_plotted_from_what_a_loader_said(plot: Call, lake: Path, tmp_path: Path) -> None:
    loader = make_loader(Run.load(Catalog.open(str(lake)), "exp1"), batch_size=2, sequence_length=64)
    lines = [loader.stats().to_json() for _ in loader]
    (tmp_path / "stats.jsonl").write_text("\n".join(lines))
    assert plot("waiting", "stats=stats.jsonl") == "waiting.png\n"
    assert (tmp_path / "waiting.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shars", "run=exp1"], "there is no plot 'shars'; plots: all, mixture, .* Did you mean 'shares'?"),
        (["shares"], "mixlake plot shares needs run=…"),
        (["property", "property=m"], "unknown property 'm'"),
        (["losses", "run=exp1"], "run 'exp1' has no feedback"),
        (["shares", "run=exp1", "to=a.bmp"], "'a.bmp' names no format"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    plot: Call, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        plot(*arguments)
    assert re.match(f"mixlake: {message}".replace("?", r"\?"), capsys.readouterr().err)
