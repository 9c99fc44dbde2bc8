"""What another policy would have made of the losses of a run, beside what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from mixlake.catalog import ConfigError
from mixlake.conf.display import Answer, Rows
from mixlake.mixing import Adapt, Run
from mixlake.mixing.adaptation import replay
from mixlake.mixing.decisions import Decision
from mixlake.mixing.tilting import prior


def replay_answer(run: Run, declared: Mapping[str, Any] | None, num_rows: int) -> Answer:
    """Return the weights of both over the steps. The losses are those of the run: the other policy never trained.

    Args:
        run: the run.
        declared: the other policy, as `mixlake.mixing.Adapt` takes it; None is the run's own.
        num_rows: steps to show, at most.

    Raises:
        ConfigError: there is no policy, or it is wrong.
    """
    adapt = Adapt.from_config(declared) if declared else run.config.adapt
    if adapt is None:
        raise ConfigError(f"run {run.name!r} has no policy of its own to replay; choose one with adapt=…")
    feedback = run.feedback.read()
    recorded, replayed = run.decisions.read(), replay(adapt, run.program, run.delay, feedback)
    start = dict(zip(run.components, prior(run.program).tolist(), strict=True))
    steps = [losses.step for losses in feedback]
    shown = sorted({steps[len(steps) * (number + 1) // num_rows - 1] for number in range(min(num_rows, len(steps)))})
    rows = []
    for step in shown:
        pair = [_weights_at(step, decisions, start) for decisions in (recorded, replayed)]
        distance = sum(abs(pair[0][name] - pair[1][name]) for name in start) / 2
        for whose, weights in zip(("recorded", "replayed"), pair, strict=True):
            shares = {name: f"{weight:.2%}" for name, weight in weights.items()}
            rows.append({"step": step, "weights": whose, **shares, "distance": f"{distance:.3f}"})
    told = (
        f"{adapt.policy['_target_']} on the {len(steps):,} steps of {run.name}: {len(replayed):,} decisions, "
        f"{len(recorded):,} recorded, {'the same' if recorded == replayed else 'not the same'}"
    )
    data = {"policy": adapt.policy, "num_steps": len(steps), "recorded": recorded, "replayed": replayed}
    return Answer(data=data, view=Group(Text(told), Rows(rows, ["step", "weights", *start, "distance"])))


def _weights_at(step: int, decisions: Sequence[Decision], start: Mapping[str, float]) -> Mapping[str, float]:
    """Return the weights that were decided on last at a step."""
    before = [decision.weights for decision in decisions if decision.step <= step]
    return before[-1] if before else start
