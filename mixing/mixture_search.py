"""The best mixture that laws foretell, within bounds, and how far it can be trusted.

Arrays: E experiments, K components, M losses, G groups of experiments that are left out in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed
from mixlake.catalog.records import IntArray, Progress
from mixlake.mixing.experiments import Experiments
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.mixture_laws import MixtureLaw
from mixlake.mixing.policies import BoolArray
from mixlake.mixing.simplex import nearest, within

_NUM_GROUPS = 16
"""Experiments are left out one by one, or where there are more than this, in as many groups."""
_NUM_SIMULATED = 20_000
_NUM_AVERAGED = 64
_MAX_STEPS = 500


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedMixture:
    """What was found. Errors are standard errors by the jackknife: how much it hangs on single experiments."""

    components: tuple[str, ...]
    shares: FloatArray
    """Of the best mixture, shape (K,)."""
    share_errors: FloatArray
    targets: tuple[str, ...]
    importance: FloatArray
    """Of each loss, shape (M,), sum 1: the weighted mean is minimised."""
    predicted: FloatArray
    """Losses of the best mixture in nats, shape (M,)."""
    predicted_errors: FloatArray
    declared: FloatArray
    """Losses foretold for the declared weights, shape (M,)."""
    law_error: FloatArray
    """Root mean square error for experiments that the law has not seen, in nats, shape (M,)."""
    mean_error: FloatArray
    """The same of the other experiments' mean loss, which any law should beat."""
    gain: float
    """How much lower the weighted mean loss is than with the declared weights, in nats."""
    gain_error: float
    best_experiment: str
    """The experiment with the lowest weighted mean loss, of those that have all losses; empty where none has."""
    best_loss: float
    num_experiments: int


def find_mixture(
    experiments: Experiments,
    components: Sequence[str],
    prior_K: FloatArray,
    floor: FloatArray,
    cap: FloatArray,
    *,
    make_law: Callable[[], MixtureLaw],
    importance: FloatArray | None = None,
    extrapolate: bool = False,
    progress: Progress | None = None,
) -> FittedMixture:
    """Return the mixture whose weighted mean loss is lowest by the laws, one law for each loss.

    Args:
        experiments: at least K + 2 for each loss.
        components: K names.
        prior_K: the declared shares, which the best mixture is compared with.
        floor: least share of each component, shape (K,).
        cap: largest share of each.
        make_law: returns a law that is not fitted.
        importance: of each loss, 0 or more; None is alike.
        extrapolate: whether shares may be beyond those that the experiments had.
        progress: called after each refit.

    Raises:
        ConfigError: experiments are too few, or no mixture is within the bounds.
    """
    mixtures, losses = experiments.mixtures, experiments.losses
    _check_enough(experiments, len(components))
    weights = _normalised(np.ones(losses.shape[1]) if importance is None else importance)
    floor, cap = _checked_bounds(floor, cap, components, None if extrapolate else mixtures)
    order = _best(losses, weights)
    laws = _fitted(make_law, experiments, np.ones(len(mixtures), np.bool_))
    shares = lowest(laws, weights, [within(start, floor, cap) for start in (prior_K, *mixtures[order])], floor, cap)
    predicted, declared = predictions(laws, np.stack([shares, prior_K]))
    refits, unseen, groups = [], losses.copy(), np.arange(len(mixtures)) % min(_NUM_GROUPS, len(mixtures))
    for group, others in _refitted(make_law, experiments, groups, progress):
        unseen[groups == group] = predictions(others, mixtures[groups == group])
        theirs = lowest(others, weights, [shares], floor, cap)
        refits.append((theirs, *predictions(others, np.stack([shares, prior_K]))))
    theirs_GK, best_GM, declared_GM = (np.array(part) for part in zip(*refits, strict=True))
    return FittedMixture(
        components=tuple(components),
        shares=shares,
        share_errors=_jackknife(theirs_GK),
        targets=experiments.targets,
        importance=weights,
        predicted=predicted,
        predicted_errors=_jackknife(best_GM),
        declared=declared,
        law_error=np.sqrt(np.nanmean((unseen - losses) ** 2, axis=0)),
        mean_error=np.sqrt(np.nanmean((_means_without(losses, groups) - losses) ** 2, axis=0)),
        gain=float((declared - predicted) @ weights),
        gain_error=float(_jackknife((declared_GM - best_GM) @ weights)),
        best_experiment=experiments.names[order[0]] if order else "",
        best_loss=float(losses[order[0]] @ weights) if order else np.nan,
        num_experiments=len(mixtures),
    )


def _fitted(make_law: Callable[[], MixtureLaw], experiments: Experiments, which: BoolArray) -> list[MixtureLaw]:
    """Return a law for each loss, fitted to some of the experiments."""
    laws = []
    for losses in experiments.losses.T:
        mine = which & np.isfinite(losses)
        law = make_law()
        law.fit(experiments.mixtures[mine], losses[mine])
        laws.append(law)
    return laws


def _refitted(
    make_law: Callable[[], MixtureLaw], experiments: Experiments, groups: IntArray, progress: Progress | None
) -> Iterator[tuple[int, list[MixtureLaw]]]:
    """Yield every group of experiments, and the laws that the others make."""
    num = int(groups.max()) + 1
    for group in range(num):
        yield group, _fitted(make_law, experiments, groups != group)
        if progress is not None:
            progress(group + 1, num, "refits")


def predictions(laws: Sequence[MixtureLaw], mixtures: FloatArray) -> FloatArray:
    """Return the losses of mixtures by some laws, shape (E, M)."""
    return np.stack([np.asarray(law.predict(mixtures), np.float64) for law in laws], axis=1)


def lowest(
    laws: Sequence[MixtureLaw], weights: FloatArray, starts: Sequence[FloatArray], floor: FloatArray, cap: FloatArray
) -> FloatArray:
    """Return the shares within bounds whose weighted mean loss is lowest.

    Where the laws know their gradients it is found by descent from each start; the exponential law is convex, so one is
    as good as another. Where they do not, as trees, by simulation: the mean of the best of many random mixtures, as
    RegMix has it (arXiv 2407.01492, section 3.3).
    """
    if not all(hasattr(law, "gradient") for law in laws):
        random = np.random.Generator(np.random.Philox(key=0))
        drawn = random.dirichlet(np.ones(len(floor)), _NUM_SIMULATED)
        drawn = np.array([*starts, *(floor + (1 - floor.sum()) * drawn)])
        drawn = drawn[(drawn <= cap + 1e-12).all(axis=1)]
        order = np.argsort(predictions(laws, drawn) @ weights, kind="stable")
        best: FloatArray = drawn[order[:_NUM_AVERAGED]].mean(axis=0)
        return best
    found = [_descended(laws, weights, start, floor, cap) for start in starts]
    return min(found, key=lambda shares: float(predictions(laws, shares[None])[0] @ weights))


def _descended(
    laws: Sequence[MixtureLaw], weights: FloatArray, shares: FloatArray, floor: FloatArray, cap: FloatArray
) -> FloatArray:
    """Return the end of a descent by projected gradients, with steps as Barzilai and Borwein choose them (1988)."""

    def gradient(at: FloatArray) -> FloatArray:
        parts = [weight * law.gradient(at[None])[0] for law, weight in zip(laws, weights, strict=True)]  # type: ignore[attr-defined]
        return cast(FloatArray, np.sum(parts, axis=0))

    def value(at: FloatArray) -> float:
        return float(predictions(laws, at[None])[0] @ weights)

    slope, here = gradient(shares), value(shares)
    length = 0.1 / max(float(np.abs(slope).max()), 1e-12)
    for _ in range(_MAX_STEPS):
        move = nearest(shares - length * slope, floor, cap) - shares
        part = 1.0
        while (there := value(shares + part * move)) > here + 1e-4 * part * float(slope @ move) and part > 1e-8:
            part /= 2
        if here - there <= 1e-14 * abs(here):
            break
        shares, before, here = shares + part * move, slope, there
        slope = gradient(shares)
        bend = float(move @ (slope - before)) * part
        length = part**2 * float(move @ move) / bend if bend > 0 else 10 * length
    return within(shares, floor, cap)


def _best(losses: FloatArray, weights: FloatArray) -> list[int]:
    """Return the three best experiments that have all losses."""
    total = losses @ weights
    order = np.argsort(total, kind="stable")
    return [int(index) for index in order[:3] if np.isfinite(total[index])]


def _means_without(losses: FloatArray, groups: IntArray) -> FloatArray:
    return np.array([np.nanmean(losses[groups != group], axis=0) for group in groups])


def _normalised(weights: FloatArray) -> FloatArray:
    result: FloatArray = weights / weights.sum()
    return result


def _jackknife(values_G: FloatArray) -> FloatArray:
    """Return standard errors from estimates that each lack one group (Tukey 1958)."""
    num = len(values_G)
    result: FloatArray = np.sqrt((num - 1) / num * ((values_G - values_G.mean(axis=0)) ** 2).sum(axis=0))
    return result


def _check_enough(experiments: Experiments, num: int) -> None:
    for target, losses in zip(experiments.targets, experiments.losses.T, strict=True):
        found = int(np.isfinite(losses).sum())
        if found < num + 2:
            lacking = [n for n, loss in zip(experiments.names, losses, strict=True) if not np.isfinite(loss)]
            without = f"; without it are {listed(lacking)}" if lacking else ""
            raise ConfigError(
                f"{found} experiments have a loss of {target!r}, but for {num} components it takes {num + 2} or more, "
                f"and better three times as many{without}"
            )


def _checked_bounds(
    floor: FloatArray, cap: FloatArray, components: Sequence[str], seen: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Return floors and caps, within the range of the mixtures that were seen, if these are given."""
    if seen is not None:
        floor, cap = np.maximum(floor, seen.min(axis=0)), np.minimum(cap, seen.max(axis=0))
    for name, low, high in zip(components, floor, cap, strict=True):
        if low > high:
            raise ConfigError(
                f"no share of {name!r} is at least {low:g} and at most {high:g}, which are the bounds and the range of "
                "the experiments; with extrapolate=true the latter is no bound"
            )
    if floor.sum() > 1 + 1e-9 or cap.sum() < 1 - 1e-9:
        raise ConfigError(
            f"the floors of {listed(components)} sum to {floor.sum():.4g} and the caps to {cap.sum():.4g}; expected at "
            "most 1, and at least 1"
        )
    return floor, cap
