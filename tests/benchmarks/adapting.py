"""What adapting costs: fits and steps of ADO beside their limits, and the fit beside 384 starts of L-BFGS-B.

python -m tests.benchmarks.adapting
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core, and before numpy is there

import time
from collections.abc import Callable

import numpy as np

from mixlake.mixing.laws import fit_laws
from mixlake.mixing.policies import Policy, Setting
from mixlake.mixing.policy_ado import Ado
from mixlake.mixing.policy_ado_published import AuthorsAdo
from tests.benchmarks.report import Line, alone, show
from tests.mixing.general_optimiser import best_of_many_starts, traces


def seconds(case: Callable[[], object], times: int = 3) -> float:
    """CPU seconds, the least of several runs."""
    found = []
    for _ in range(times):
        began = time.process_time()
        case()
        found.append(time.process_time() - began)
    return min(found)


def fit_time(num: int) -> float:
    counts, losses, _ = traces(num, 150, noise=0.01, last=2000)  # every tenth of 2,000 steps, the first 500 ignored
    return seconds(lambda: fit_laws(counts, losses, np.ones_like(losses)))


def general_optimiser(num: int) -> tuple[float, float, float]:
    """Seconds of both for one component, and how much lower the general one's objective gets, at most."""
    counts, losses, _ = traces(num, 150, noise=0.01, last=2000)
    laws = fit_laws(counts, losses, np.ones_like(losses))
    began = time.process_time()
    best = [best_of_many_starts(counts[k], losses[k]) for k in range(num)]
    theirs = (time.process_time() - began) / num
    ours = seconds(lambda: fit_laws(counts, losses, np.ones_like(losses))) / num
    return ours, theirs, float((laws.objective - np.array(best)).max())


def step_times(num: int, num_steps: int) -> tuple[float, float, float]:
    """Median seconds of a step without a fit, and of the last fits of `Ado` and `AuthorsAdo`."""
    setting = Setting(components=tuple(f"c{k}" for k in range(num)), prior=np.full(num, 1 / num))
    policies: tuple[Policy, Policy] = (
        Ado(setting, interval=1000),
        AuthorsAdo(setting, ignore_steps=500, start_step=1000, interval=1000, sequence_length=1024),
    )
    rng = np.random.default_rng(0)
    taken: tuple[list[float], list[float]] = ([], [])
    for step in range(num_steps + 1):
        tokens = rng.multinomial(512, setting.prior) * 1024
        losses = 2 + 3 * (step + 1.0) ** -0.3 + 0.02 * rng.standard_normal(num)
        for policy, times in zip(policies, taken, strict=True):
            began = time.process_time()
            policy.update(step, losses * tokens, tokens, 1)
            times.append(time.process_time() - began)
    fits = [max(times[-1000:]) for times in taken]
    return float(np.median(taken[0][-900:])), fits[0], fits[1]


def main() -> None:
    (few, _), (many, _) = alone(fit_time, 22), alone(fit_time, 200)
    (ours, theirs, gap), _ = alone(general_optimiser, 3)
    (step, _, _), _ = alone(step_times, 22, 2_000)
    (long_step, fit, authors_fit), _ = alone(step_times, 22, 20_000)
    lines = [
        Line(what="fit of 22 components, 2,000 steps", ours=few, limit=0.5, unit="s"),
        Line(what="fit of 200 components, 2,000 steps", ours=many, limit=5, unit="s"),
        Line(what="fit of one, beside 384 starts of L-BFGS-B", ours=ours, limit=theirs, unit="s"),
        Line(what="how much lower its objective is, at most", ours=max(gap, 0.0), limit=1e-12, unit=""),
        Line(what="a step of 22 components", ours=step * 1e3, limit=1, unit="ms"),
        Line(what="the same after 20,000 steps", ours=long_step * 1e3, limit=1, unit="ms"),
        Line(what="a step with a fit, after 20,000 steps", ours=fit, limit=0.5, unit="s"),
        Line(what="the same by the authors' rules", ours=authors_fit, limit=2, unit="s"),
    ]
    show("Adapting, CPU time of one core", lines)


if __name__ == "__main__":
    main()
