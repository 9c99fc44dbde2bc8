"""The plot of waiting shows what happened between one look at a loader's statistics and the next."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixlake.catalog import ConfigError
from mixlake.catalog.figures import Plot
from mixlake.loaders import Stats, make_loader
from mixlake.loaders.plots import plot_waiting
from mixlake.loaders.stats import Counts, read_stats


def stats(num: int, seconds: float, waiting: float, tokens: int) -> Stats:
    return Stats(
        num_batches=num,
        num_items=num * 8,
        num_tokens=tokens,
        seconds=seconds,
        waiting_seconds=waiting,
        read=Counts(num_bytes=10),
        num_ready=(1, 2),
    )


def axes_of(plot: Plot) -> list[Any]:
    return plot.figure.axes


def test_waiting_and_rates_are_those_of_each_stretch() -> None:
    plot = plot_waiting([stats(10, 4.0, 1.0, 4000), stats(30, 8.0, 4.0, 12_000)])
    above, below = axes_of(plot)
    waited = above.patches[0].get_data()
    assert (waited.values.tolist(), waited.edges.tolist()) == ([0.25, 0.75], [0, 10, 30])
    assert below.patches[0].get_data().values.tolist() == [1000, 2000]
    assert (below.get_xlabel(), below.get_ylabel()) == ("batch", "tokens per second")
    assert [text.get_text() for text in above.texts] == ["waited 4.0 s of 8.0 s (50.0%)"]


def test_without_batches_there_is_nothing_to_show() -> None:
    with pytest.raises(ConfigError, match="no statistics with batches"):
        plot_waiting([stats(0, 0.0, 0.0, 0)])


def test_statistics_of_a_loader_are_kept_in_a_file(tmp_path: Path, make_run: Any) -> None:
    loader = make_loader(make_run(), batch_size=4, sequence_length=64)
    kept = []
    with (tmp_path / "stats.jsonl").open("w") as file:
        for number, _ in enumerate(loader):
            if number % 50 == 0:
                kept.append(loader.stats())
                file.write(kept[-1].to_json() + "\n")
    assert read_stats(tmp_path / "stats.jsonl") == kept
    _, below = axes_of(plot_waiting(kept))
    tokens = np.diff([0, *(one.num_tokens for one in kept)]) / np.diff([0, *(one.seconds for one in kept)])
    assert np.allclose(below.patches[0].get_data().values, tokens)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"num_batches": 1}\n')
    with pytest.raises(ConfigError, match=r"is no line of loader\.stats\(\)\.to_json\(\)"):
        read_stats(tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stats(tmp_path / "b")
