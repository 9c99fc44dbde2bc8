"""Experiments with mixtures: which to train on, and what losses the models had that were.

Arrays: E experiments, K components, M losses; mixtures are shares, shape (E, K), rows sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.records import Progress
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.run import Run
from mixlake.mixing.run_table import list_runs
from mixlake.mixing.simplex import within
from mixlake.mixing.tilting import prior

_LEAST_SHARE = 1e-4
"""Smaller ones are left out: a proxy model would hardly see such a component."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Experiments:
    """Runs with their mixtures and losses."""

    names: tuple[str, ...]
    mixtures: FloatArray
    """Shape (E, K)."""
    targets: tuple[str, ...]
    """What the losses are of: components, or validation sets."""
    losses: FloatArray
    """Nats per token, shape (E, M); nan where an experiment has none."""


def design(
    prior_K: FloatArray,
    num: int,
    floor: FloatArray,
    cap: FloatArray,
    *,
    concentration: tuple[float, float] = (0.3, 3.0),
    temperature: float = 2.0,
    seed: int = 0,
) -> FloatArray:
    """Return mixtures to experiment with, shape (num, K): the prior, then random ones around it.

    They are drawn from Dirichlet distributions around the tempered prior, some of which are nearly one component alone
    and some nearly the prior, as RegMix does (Liu et al. 2024, arXiv 2407.01492, section 3.1).

    Args:
        prior_K: shares, sum 1.
        num: how many.
        floor: least share of each component, shape (K,).
        cap: largest share of each.
        concentration: range of the Dirichlet parameters' mean, drawn evenly in its logarithm; 1 is even over all
            mixtures where the prior is even.
        temperature: the distributions' mean is the prior to the power 1/temperature: more than 1 is more even.
        seed: of the draws.
    """
    random = np.random.Generator(np.random.Philox(key=seed))
    centre = prior_K ** (1 / temperature)
    centre = np.maximum(centre / centre.sum(), 1e-3 / len(centre))
    mixtures = [within(prior_K, floor, cap)]
    low, high = np.log(concentration)
    while len(mixtures) < num:
        strength = len(centre) * np.exp(random.uniform(low, high))
        drawn = np.maximum(random.dirichlet(strength * centre), 1e-12)
        shares = within(drawn, floor, cap)
        shares = within(np.where((shares < _LEAST_SHARE) & (floor == 0), 0.0, shares).round(5), floor, cap)
        mixtures.append(shares)
    return np.array(mixtures)


def from_runs(
    catalog: Catalog,
    pattern: str,
    components: Sequence[str],
    *,
    last: float = 0.1,
    at_step: int | None = None,
    progress: Progress | None = None,
) -> Experiments:
    """Return the runs of a lake as experiments, with the losses of each at the same step of training.

    Where every run has evaluations, their losses are taken: of the last step at which all were evaluated. Else it is
    the training losses of each component, over the last steps that all have reported.

    Args:
        catalog: of the lake.
        pattern: of the runs' names: ``probe-*``.
        components: which the runs have, in any order.
        last: part of the steps, up to that one, whose training losses are averaged by token.
        at_step: that step; None is the last that all have.
        progress: called after each run.

    Raises:
        ConfigError: there are no such runs, they have other components, changed their weights, or lack losses.
    """
    known = [row["run"] for row in list_runs(catalog).to_pylist()]
    names = [name for name in known if fnmatchcase(name, pattern)]
    if not names:
        raise ConfigError(f"no run is called {pattern!r} in {catalog.lake.uri}; there are: {listed(known)}")
    runs = []
    for number, name in enumerate(names):
        runs.append(Run.load(catalog, name))
        if progress is not None:
            progress(number + 1, len(names), "runs")
    for run in runs:
        _check_components(run, components)
    evaluations = [run.evaluations.read() for run in runs]
    if all(evaluations):
        step = _common_step(names, [set(found) for found in evaluations], at_step, "evaluations")
        targets = list(dict.fromkeys(name for found in evaluations for name in found[step]))
        losses = [np.array([found[step].get(name, np.nan) for name in targets]) for found in evaluations]
    else:
        _refuse_some(names, evaluations, "evaluations")
        step, losses = _training_losses(runs, components, last, at_step)
        targets = list(components)
    mixtures = [_constant_shares(run, components, step) for run in runs]
    return Experiments(names=tuple(names), mixtures=np.array(mixtures), targets=tuple(targets), losses=np.array(losses))


def from_table(path: str, components: Sequence[str], catalog: Catalog | None = None) -> Experiments:
    """Return the experiments of a CSV or Parquet file.

    Its columns are ``loss.NAME`` for each loss, and for each component ``weight.NAME``; or ``run``, whose weights are
    taken from the lake.

    Raises:
        ConfigError: the file cannot be read, or lacks columns.
    """
    try:
        table = pq.read_table(path) if Path(path).suffix == ".parquet" else pa_csv.read_csv(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"losses={path}: {error}") from error
    names = table.column_names
    targets = [name.removeprefix("loss.") for name in names if name.startswith("loss.")]
    known = ("run", *(f"weight.{name}" for name in components))
    unknown = [name for name in names if name not in known and not name.startswith("loss.")]
    if unknown or not targets:
        hint = nearest(unknown[0], known) if unknown else ""
        raise ConfigError(
            f"losses={path} has the columns {listed(names)}; expected loss.NAME, and run or {listed(known[1:])}.{hint}"
        )
    labels = list(map(str, table["run"].to_pylist())) if "run" in names else [f"row {n}" for n in range(len(table))]
    if set(known[1:]) <= set(names):
        weights = np.array([_numbers(table, name, path) for name in known[1:]]).T
        if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(axis=1) > 0).all()):
            raise ConfigError(f"losses={path}: weights must be numbers, 0 or more, and some of each row more than 0")
        mixtures = weights / weights.sum(axis=1, keepdims=True)
    elif "run" in names and catalog is not None and not any(name.startswith("weight.") for name in names):
        runs = [Run.load(catalog, label) for label in labels]
        for run in runs:
            _check_components(run, components)
        mixtures = np.array([_constant_shares(run, components, None) for run in runs])
    else:
        lacking = [name for name in known[1:] if name not in names]
        raise ConfigError(f"losses={path} lacks {listed(lacking)}, and has no column run to take weights from")
    losses = np.array([_numbers(table, f"loss.{name}", path) for name in targets]).T
    return Experiments(names=tuple(labels), mixtures=mixtures, targets=tuple(targets), losses=losses)


def _numbers(table: pa.Table, name: str, path: str) -> FloatArray:
    try:
        column = table[name].cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise ConfigError(f"losses={path}: column {name!r} is no number everywhere: {error}") from error
    result: FloatArray = column.to_numpy().astype(np.float64)
    return result


def _check_components(run: Run, components: Sequence[str]) -> None:
    if set(run.components) != set(components):
        raise ConfigError(
            f"run {run.name!r} mixes {listed(run.components)}, but the mixture has {listed(components)}; leave the run "
            "out with runs=…"
        )


def _constant_shares(run: Run, components: Sequence[str], step: int | None) -> FloatArray:
    """Return a run's shares, which did not change before it had taken a step."""
    rows = run.weights().to_pylist()
    reached = None
    if step is not None:
        reached = max((losses.chunk for losses in run.feedback.read() if losses.step <= step), default=None)
    first = {entry["component"]: entry["weight"] for entry in rows[0]["weights"]}
    for row in rows[1:]:
        weights = {entry["component"]: entry["weight"] for entry in row["weights"]}
        if (reached is None or row["chunk"] < reached) and weights != first:
            raise ConfigError(
                f"run {run.name!r} changed its weights at chunk {row['chunk']} ({row['cause']}): its losses are not of "
                "one mixture. Leave it out with runs=…, or look at an earlier step with at_step=…"
            )
    by_name = dict(zip(run.components, prior(run.program).tolist(), strict=True))
    return np.array([by_name[name] for name in components])


def _training_losses(
    runs: Sequence[Run], components: Sequence[str], last: float, at_step: int | None
) -> tuple[int, list[FloatArray]]:
    feedback = [run.feedback.read() for run in runs]
    names = [run.name for run in runs]
    _refuse_some(names, feedback, "losses")
    step = min(steps[-1].step for steps in feedback) if at_step is None else at_step
    means = []
    for run, steps in zip(runs, feedback, strict=True):
        if steps[-1].step < step:
            raise ConfigError(f"at_step is {step}, but run {run.name!r} has losses up to step {steps[-1].step}")
        window = [losses for losses in steps if step - last * (step + 1) < losses.step <= step]
        tokens = np.sum([losses.num_tokens for losses in window], axis=0)
        sums = np.sum([losses.loss_sum for losses in window], axis=0)
        mean = np.where(tokens > 0, sums / np.maximum(tokens, 1), np.nan)
        means.append(mean[[run.components.index(name) for name in components]])
    return step, means


def _refuse_some(names: Sequence[str], found: Sequence[object], what: str) -> None:
    """Refuse experiments of which some have what others lack; for losses, also where all lack them."""
    lacking = [name for name, values in zip(names, found, strict=True) if not values]
    if lacking and (what == "losses" or len(lacking) < len(names)):
        raise ConfigError(f"runs without {what}: {listed(lacking)}; leave them out with runs=…, or let them report")


def _common_step(names: Sequence[str], steps: Sequence[set[int]], at_step: int | None, what: str) -> int:
    common = set.intersection(*steps)
    if at_step is not None:
        lacking = [name for name, mine in zip(names, steps, strict=True) if at_step not in mine]
        if lacking:
            raise ConfigError(f"at_step is {at_step}, of which these runs have no {what}: {listed(lacking)}")
        return at_step
    if not common:
        raise ConfigError(f"the {len(names)} runs have no step in common at which all have {what}")
    return max(common)


def bounds(value: float | Mapping[str, float], components: Sequence[str], name: str, default: float) -> FloatArray:
    """Return a number for all components, or numbers by name, as an array (K,); ``default`` for those not named.

    Raises:
        ConfigError: a component is unknown, or a number is not between 0 and 1.
    """
    by_name = value if isinstance(value, Mapping) else dict.fromkeys(components, value)
    for key, number in by_name.items():
        if key not in components:
            raise ConfigError(
                f"{name}: unknown component {key!r}; there are: {listed(components)}.{nearest(key, components)}"
            )
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1:
            raise ConfigError(f"{name}.{key} is {number!r}; expected a number from 0 to 1")
    return np.array([by_name.get(component, default) for component in components], np.float64)
