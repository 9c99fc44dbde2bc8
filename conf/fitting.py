"""`mixlake fit-mixture`: mixtures to experiment with, and the best one that their losses foretell."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig
from rich.console import Group, RenderableType
from rich.text import Text

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.conf.composed import instance, open_catalog, plain, read_mixture
from mixlake.conf.display import Answer, ProgressDisplay, Rows
from mixlake.mixing.experiments import bounds, design, from_runs, from_table
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.mixture import Kind
from mixlake.mixing.mixture_search import FittedMixture, find_mixture
from mixlake.mixing.program import Leaf
from mixlake.mixing.resolution import program_of
from mixlake.mixing.tilting import prior


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sought:
    """The mixture whose weights are sought, at a catalog version."""

    declared: Mapping[str, Any]
    leaves: Sequence[Leaf]
    components: tuple[str, ...]
    prior: FloatArray
    floor: FloatArray
    cap: FloatArray

    def with_shares(self, shares: FloatArray) -> dict[str, Any]:
        """Return the declaration with other weights; what was inferred becomes components that say what they are."""
        weights = dict(zip(self.components, shares.tolist(), strict=True))
        if self.declared.get("kind", "static") == Kind.STATIC.value:
            components, _ = _reweighted(self.declared["components"], weights, "")
            return {**self.declared, "components": components}
        kept = ("filter", "unit", "on_exhausted", "max_passes", "order_by", "shuffle")
        components = {
            leaf.name: {"where": " AND ".join(f"({p})" for p in leaf.requires), "weight": weights[leaf.name]}
            for leaf in self.leaves
        }
        return {**{key: self.declared[key] for key in kept if key in self.declared}, "components": components}


def fit_mixture(config: DictConfig) -> Answer:
    """Write experiments, or the mixture that a law fitted to them finds best.

    Raises:
        ConfigError: it is not clear which, a value is wrong, or the experiments are too few.
    """
    given = [key for key in ("experiments", "runs", "losses") if config[key] is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{listed(f'{key}=…' for key in given)} {'are' if given else 'is'} given; expected experiments=NUMBER to "
            "write mixtures, or runs=NAMES or losses=FILE to fit a law to what came out"
        )
    catalog = open_catalog(config)
    sought = _sought(catalog, config)
    if config.experiments is not None:
        return _write_experiments(sought, config)
    with ProgressDisplay("reading experiments") as progress:
        if config.losses is not None:
            experiments = from_table(config.losses, sought.components, catalog)
        else:
            experiments = from_runs(
                catalog, config.runs, sought.components, last=config.last, at_step=config.at_step, progress=progress
            )
    importance = _importance(plain(config.importance), experiments.targets)
    with ProgressDisplay(f"fitting {len(experiments.targets)} losses") as progress:
        found = find_mixture(
            experiments,
            sought.components,
            sought.prior,
            sought.floor,
            sought.cap,
            make_law=lambda: instance(plain(config.fit.law)),
            importance=importance,
            extrapolate=config.extrapolate,
            progress=progress,
        )
    law = str(config.fit.law._target_).rpartition(".")[2]
    header = _header(
        found, sought, f"{law} fitted to {found.num_experiments} experiments, {config.runs or config.losses}"
    )
    text = header + yaml.safe_dump(sought.with_shares(_rounded(found.shares)), sort_keys=False, allow_unicode=True)
    _write({Path(config.into): text}, is_replaced=config.replace)
    return Answer(data={**_plain(found), "into": config.into}, view=_view(sought, found, config.into))


def _sought(catalog: Catalog, config: DictConfig) -> _Sought:
    mixture = read_mixture(config)
    program = program_of(catalog, mixture)
    names = program.components
    if len(names) < 2:
        raise ConfigError(f"the mixture has {listed(names)} alone; to fit weights takes two components or more")
    floor = bounds(plain(config.floor), names, "floor", 0.0)
    cap = bounds(plain(config.cap), names, "cap", 1.0)
    if (floor > cap).any() or floor.sum() > 1 or cap.sum() < 1:
        raise ConfigError(
            f"floor is {plain(config.floor)} and cap is {plain(config.cap)}; expected floors that are at most the caps "
            "and sum to 1 at most, and caps that sum to 1 at least"
        )
    return _Sought(
        declared=plain(config.mixture),
        leaves=program.stage_leaves[0],
        components=names,
        prior=prior(program),
        floor=floor,
        cap=cap,
    )


def _write_experiments(sought: _Sought, config: DictConfig) -> Answer:
    low, high = config.concentration
    if not 0 < low <= high or not config.temperature > 0 or config.experiments < 1:
        raise ConfigError(
            f"concentration is {plain(config.concentration)}, temperature {config.temperature} and experiments "
            f"{config.experiments}; expected two numbers above 0, the smaller one first, above 0, and 1 or more"
        )
    mixtures = design(
        sought.prior,
        config.experiments,
        sought.floor,
        sought.cap,
        concentration=(low, high),
        temperature=config.temperature,
        seed=config.seed,
    )
    folder, digits = Path(config.into), len(str(len(mixtures) - 1))
    names = [f"{config.name}_{number:0{digits}}" for number in range(len(mixtures))]
    files = {
        folder / "mixture" / f"{name}.yaml": yaml.safe_dump(
            sought.with_shares(shares), sort_keys=False, allow_unicode=True
        )
        for name, shares in zip(names, mixtures, strict=True)
    }
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["run", *(f"weight.{name}" for name in sought.components)])
    rows = list(zip(names, mixtures.tolist(), strict=True))
    writer.writerows([name, *shares] for name, shares in rows)
    _write({**files, folder / f"{config.name}.csv": table.getvalue()}, is_replaced=config.replace)
    lake = "" if config.lake == "lake" else f"lake={config.lake} "
    command = f"mixlake run -m {lake}--config-dir {folder} name={config.name} 'mixture=glob({config.name}_*)'"
    least = len(sought.components) + 2
    few = f"\nTo fit a law takes {least} or more." if len(names) < least else ""
    return Answer.of_report(
        {"mixtures": {name: dict(zip(sought.components, row, strict=True)) for name, row in rows}, "command": command},
        f"{len(names)} mixtures of {len(sought.components)} components are in {folder / 'mixture'}, and as a table in "
        f"{folder / config.name}.csv. A run for each:\n  {command}{few}",
    )


def _reweighted(declared: Mapping[str, Any], weights: Mapping[str, float], around: str) -> tuple[dict[str, Any], float]:
    """Return components with the shares of their innermost ones as weights, and what these sum to."""
    components: dict[str, Any] = {}
    total = 0.0
    for name, component in declared.items():
        if component.get("components"):
            inner, weight = _reweighted(component["components"], weights, f"{around}{name}.")
            if not weight:  # weights inside must not all be zero
                inner = component["components"]
            components[name] = {**component, "weight": round(weight, 6), "components": inner}
        else:
            weight = weights[f"{around}{name}"]
            components[name] = {**component, "weight": weight}
        total += weight
    return components, total


def _rounded(shares: FloatArray) -> FloatArray:
    result: FloatArray = shares.round(5)
    return result


def _importance(given: Mapping[str, float] | None, targets: Sequence[str]) -> FloatArray | None:
    if given is None:
        return None
    for name, value in given.items():
        if name not in targets:
            raise ConfigError(
                f"importance: there is no loss {name!r}; there are: {listed(targets)}.{nearest(name, targets)}"
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < np.inf:
            raise ConfigError(f"importance.{name} is {value!r}; expected a number, 0 or more")
    if not sum(given.values()):
        raise ConfigError("importance: no loss counts")
    return np.array([given.get(name, 0.0) for name in targets], np.float64)


def _view(sought: _Sought, found: FittedMixture, into: str) -> RenderableType:
    shares = [
        {"component": name, "declared": f"{was:.2%}", "best": f"{now:.2%}", "±": f"{error:.2%}"}
        for name, was, now, error in zip(found.components, sought.prior, found.shares, found.share_errors, strict=True)
    ]
    losses, told = _losses(found), _summary(found)
    useless = [n for n, law, mean in zip(found.targets, found.law_error, found.mean_error, strict=True) if law >= mean]
    if useless:
        told += (
            f"\nThe law foretells {listed(useless)} no better than the mean of the other experiments does: take more "
            "of them, train them longer, or choose another law with fit=…"
        )
    return Group(Rows(shares, list(shares[0])), Rows(losses, list(losses[0])), Text(f"{told}\nwritten to {into}"))


def _plain(found: FittedMixture) -> dict[str, Any]:
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in values.items()}


def _losses(found: FittedMixture) -> list[dict[str, str]]:
    columns = (found.declared, found.predicted, found.predicted_errors, found.law_error, found.mean_error)
    names = ("declared", "best", "±", "law's error", "mean's error")
    return [
        {"loss": name, **{key: f"{column[index]:.4f}" for key, column in zip(names, columns, strict=True)}}
        for index, name in enumerate(found.targets)
    ]


def _summary(found: FittedMixture) -> str:
    mean = float(found.predicted @ found.importance)
    best = f"; the best experiment, {found.best_experiment}, has {found.best_loss:.4f}" if found.best_experiment else ""
    gain = f"{found.gain:.4f} ± {found.gain_error:.4f} lower than with the declared weights"
    return f"mean loss {mean:.4f} nats, {gain}{best}"


def _header(found: FittedMixture, sought: _Sought, origin: str) -> str:
    """Return what is foretold as comments."""
    rows = _losses(found)
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    lines = [origin + ".", _summary(found) + ".", ""]
    lines += [
        "  ".join(row[key].rjust(width) for key, width in widths.items()) for row in [{k: k for k in widths}, *rows]
    ]
    lines += [
        "",
        "Errors: ± is how much it hangs on single experiments (jackknife); the law's is for experiments that it",
    ]
    lines += ["has not seen, and the mean's that of their mean loss. Shares, declared and best:", ""]
    width = max(map(len, found.components))
    lines += [
        f"{name.rjust(width)}  {was:7.2%}  {now:7.2%} ± {error:.2%}"
        for name, was, now, error in zip(found.components, sought.prior, found.shares, found.share_errors, strict=True)
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _write(files: Mapping[Path, str], *, is_replaced: bool) -> None:
    """Write files, none of them half; refuse all where one is there already."""
    there = [str(path) for path in files if path.exists()]
    if there and not is_replaced:
        raise ConfigError(f"{listed(there, 3)} exists already; choose another into=…, or replace=true")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
