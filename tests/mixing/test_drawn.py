"""What a run has drawn is counted as its chunks say, in samples and in the units of its mixture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, Run
from mixlake.mixing.drawn import drawn

Make = Callable[..., Mixture]
GERMAN, ENGLISH = ("language = 'de'", 1, "repeat"), ("language = 'en'", 3, "redistribute")


def counted(draws: pd.DataFrame, run: Run, value: str | None = None) -> Any:
    """The same from every single sample, by pandas."""
    values = pd.Series(1, draws.index) if value is None else draws[value]
    table = values.groupby([draws["chunk"], draws["component"]]).sum().unstack(fill_value=0)
    return table.reindex(columns=list(run.components), fill_value=0).to_numpy()


@pytest.mark.parametrize("unit", ["samples", "bytes", "tokens"])
def test_every_sample_is_counted_with_its_units(
    catalog: Catalog, make_mixture: Make, new_name: Callable[[], str], draws: Callable[[Run], pd.DataFrame], unit: str
) -> None:
    run = Run.start(catalog, new_name(), make_mixture(GERMAN, ENGLISH, unit=unit), chunk_size=64)
    run.schedule(9)
    found, samples = drawn(run), draws(run)
    assert found.chunk_N.tolist() == list(range(9))
    assert found.samples_NK.tolist() == counted(samples, run).tolist()
    assert found.units_NK.tolist() == counted(samples, run, None if unit == "samples" else f"num_{unit}").tolist()
    assert found.asked.tolist() == [0.25, 0.75]
    assert np.abs(found.shares - found.asked).max() < 0.02


def test_estimated_tokens_are_bytes_times_the_ratio(tmp_path: Path, make_catalog: Callable[..., Catalog]) -> None:
    records = [{"text": "x" * n, "language": "de" if n % 2 else "en"} for n in range(1, 100)]
    properties = {"language": "language", "num_bytes": "octet_length(text)"}
    catalog = make_catalog(tmp_path, {"pages": records}, properties)
    config = {"unit": "tokens", "components": {"c0": {"where": "language = 'de'", "weight": 1}, "c1": {"weight": 3}}}
    run = Run.start(catalog, "exp1", config, chunk_size=8, tokens_per_byte={"c0": 0.5, "c1": 0.25})
    run.schedule(100)
    found = drawn(run)
    c0, c1 = (sum(n for n in range(1, 100) if n % 2 == odd) for odd in (1, 0))
    assert found.units_NK.sum(axis=0)[1] == c1 * 0.25  # which ends the run
    assert 0 < found.units_NK.sum(axis=0)[0] < c0 * 0.5
    assert np.abs(found.shares - [0.25, 0.75]).max() < 0.05


def test_a_fork_counts_the_chunks_of_the_run_that_it_goes_on_from(
    catalog: Catalog, make_mixture: Make, new_name: Callable[[], str], draws: Callable[[Run], pd.DataFrame]
) -> None:
    run = Run.start(catalog, new_name(), make_mixture(GERMAN, ENGLISH, unit="bytes"), chunk_size=32)
    run.schedule(8)
    fork = run.fork(new_name(), at_chunk=5, mixture=make_mixture(GERMAN, ENGLISH, ("true", 4), unit="bytes"))
    fork.schedule(4)
    found = drawn(fork)
    assert found.chunk_N.tolist() == list(range(9))
    assert found.units_NK.tolist() == counted(draws(fork), fork, "num_bytes").tolist()
    assert found.weights_NK[[0, 8]].tolist() == [[0.25, 0.75, 0.0], [0.125, 0.375, 0.5]]


def test_a_run_without_chunks_has_drawn_nothing(
    catalog: Catalog, make_mixture: Make, new_name: Callable[[], str]
) -> None:
    found = drawn(Run.start(catalog, new_name(), make_mixture(GERMAN, ENGLISH)))
    assert (found.samples_NK.shape, found.shares.tolist()) == ((0, 2), [0.0, 0.0])
