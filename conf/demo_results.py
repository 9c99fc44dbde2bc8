"""What the demo found: losses, shares, and how the weights followed the losses."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mixlake.conf.display import print_rows
from mixlake.mixing import Run
from mixlake.mixing.quotas import SCALE

_MAX_VERSIONS = 12
"""Weights versions that are shown; of more, some that are evenly far apart."""


@dataclass(slots=True)
class Training:
    """What a training run leaves behind. K components."""

    loss_sums: list[torch.Tensor] = field(default_factory=list)
    """Per step, summed loss in nats, shape (K,)."""
    num_tokens: list[torch.Tensor] = field(default_factory=list)
    """Per step, delivered tokens with a loss, shape (K,)."""
    delivered: list[torch.Tensor] = field(default_factory=list)
    """Per step, delivered tokens, shape (K,)."""
    wanted: list[torch.Tensor] = field(default_factory=list)
    """Per step, the tokens that the weights in force asked for, shape (K,)."""
    first_steps: dict[int, int] = field(default_factory=dict)
    """By weights version, the first step that had it."""
    digest: str = ""
    """SHA-256 of all input ids in the order of delivery."""
    last_batch: dict[str, Any] = field(default_factory=dict)

    def mean_losses(self, steps: slice) -> torch.Tensor:
        """Return the mean loss per component over some steps, shape (K,); NaN where there was no token."""
        return torch.stack(self.loss_sums[steps]).sum(0) / torch.stack(self.num_tokens[steps]).sum(0)


def print_results(console: Console, run: Run, training: Training, sequence_length: int) -> None:
    """Print per component what was declared, what was delivered, and how the loss went."""
    delivered_SK = torch.stack(training.delivered).cumsum(0)
    wanted_SK = torch.stack(training.wanted).cumsum(0)
    total = delivered_SK[-1].sum()
    window = max(1, len(training.delivered) // 10)
    start, end = training.mean_losses(slice(0, window)), training.mean_losses(slice(-window, None))
    declared, last = (run.shares(version) for version in (1, max(training.first_steps)))
    rows = [
        {
            "component": name,
            "declared share": f"{declared[index] / SCALE:.2%}",
            "share at end": f"{last[index] / SCALE:.2%}",
            "asked for": f"{wanted_SK[-1][index] / total:.2%}",
            "delivered": f"{delivered_SK[-1][index] / total:.2%}",
            "tokens": int(delivered_SK[-1][index]),
            "loss at start": f"{start[index]:.3f}",
            "loss at end": f"{end[index]:.3f}",
        }
        for index, name in enumerate(run.components)
    ]
    title = f"{len(training.delivered)} steps, {int(total):,} tokens (losses in nats, means of {window} steps)"
    print_rows(console, rows, list(rows[0]), title)
    distance = float((delivered_SK - wanted_SK).abs().max())
    console.print(
        f"at every step each component was within {distance:,.0f} tokens of what the weights asked for until then "
        f"(one sequence per lane: {run.config.lanes * sequence_length:,})\n"
    )


def print_weights(console: Console, run: Run, training: Training) -> None:
    """Print the weights versions that training has seen, with their causes, and draw them where that is possible."""
    versions = [row for row in run.weights().to_pylist() if row["version"] in training.first_steps]
    most = min(_MAX_VERSIONS, len(versions))
    shown = [versions[index * (len(versions) - 1) // max(most - 1, 1)] for index in range(most)]
    rows = [
        {
            "version": row["version"],
            "cause": row["cause"],
            "decided at step": row["step"] if row["cause"] == "adapt" else None,
            "in force from": training.first_steps[row["version"]],
            **{entry["component"]: f"{entry['weight']:.2%}" for entry in row["weights"]},
            "learned fastest": _fastest(row["details"]),
        }
        for row in shown
    ]
    of = "" if len(shown) == len(versions) else f"{len(shown)} of "
    print_rows(console, rows, list(rows[0]), f"{of}{len(versions)} weights versions that training has seen")
    where = f"run={run.name} lake={run.catalog.lake.uri}"
    console.print(f"mixlake weights {where} lists all that were decided on, with the laws behind them", soft_wrap=True)
    if importlib.util.find_spec("matplotlib") is None:
        console.print(
            f"pip install 'mixlake[plots]', and mixlake plot {where} draws them", markup=False, soft_wrap=True
        )
    else:
        from mixlake.mixing.plots import plot_losses, plot_weights  # noqa: PLC0415  (needs matplotlib)

        folder = Path(run.catalog.lake.uri, "plots")
        folder.mkdir(exist_ok=True)
        for name, plot in (("weights", plot_weights(run)), ("losses", plot_losses(run))):
            console.print(f"drawn: {plot.save(folder / f'{run.name}-{name}.png')}", soft_wrap=True)
    console.print()


def _fastest(details: str | None) -> str:
    """Return the component that a policy's laws say is learned fastest, if they say anything."""
    parts = json.loads(details or "{}")
    speeds = {name: part.get("speed") for name, part in parts.items() if isinstance(part, dict)}
    known = {name: speed for name, speed in speeds.items() if speed is not None}
    return max(known, key=lambda name: known[name]) if known else ""
