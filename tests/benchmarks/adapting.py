"""What adapting costs: reports beside a training step, decisions until a chunk has them, fits and steps of ADO.

python -m tests.benchmarks.adapting
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core, and before numpy is there

import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mixlake.catalog import Catalog
from mixlake.conf.demo_model import ByteTransformer
from mixlake.loaders import Loader, make_loader, sum_by_component
from mixlake.mixing import Run
from mixlake.mixing.laws import fit_laws
from mixlake.mixing.loss_history import BinnedHistory, SmoothedHistory
from mixlake.mixing.policies import Policy, Setting
from mixlake.mixing.policy_ado import Ado
from tests.benchmarks.report import Line, alone, show
from tests.mixing.general_optimiser import best_of_many_starts, traces

NEVER = 1 << 40
KINDS = ("a", "b", "c")


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


def general_optimiser() -> tuple[float, float, float]:
    """Seconds of both for one component, and how much lower the general one's objective gets."""
    counts, losses, _ = traces(1, 150, noise=0.01, last=2000)
    laws = fit_laws(counts, losses, np.ones_like(losses))
    began = time.process_time()
    best = best_of_many_starts(counts[0], losses[0])
    theirs = time.process_time() - began
    return seconds(lambda: fit_laws(counts, losses, np.ones_like(losses))), theirs, float(laws.objective[0] - best)


def step_times(policy: Policy, num: int, num_steps: int) -> list[float]:
    """CPU seconds of each step."""
    rng = np.random.default_rng(0)
    tokens = rng.multinomial(512, np.full(num, 1 / num), size=64) * 1024
    noise = 0.02 * rng.standard_normal((64, num))
    taken = []
    for step in range(num_steps):
        losses = 2 + 3 * (step + 1.0) ** -0.3 + noise[step % 64]
        began = time.process_time()
        policy.update(step, losses * tokens[step % 64], tokens[step % 64], 1)
        taken.append(time.process_time() - began)
    return taken


def steps_of_ado() -> tuple[float, float]:
    """Median seconds of a step without a fit, and seconds of one with a fit, the least of those near step 2,000."""
    setting = Setting(components=tuple(f"c{k}" for k in range(22)), prior=np.full(22, 1 / 22))
    taken = step_times(Ado(setting, ignore_steps=100, start_step=1900, interval=50), 22, 2001)
    return float(np.median(taken[1901:1950])), min(taken[1900::50])


def long_history(num_steps: int) -> tuple[float, int, int]:
    """CPU seconds of fits to what is kept of so many steps, and the points of `Ado` and of the published rules."""
    binned, smoothed = BinnedHistory(22), SmoothedHistory(22, first=500)
    rng = np.random.default_rng(0)
    tokens, noise = rng.multinomial(512, np.full(22, 1 / 22), size=64) * 1024, 0.02 * rng.standard_normal((64, 22))
    for step in range(num_steps):
        losses, counts = 2 + 3 * (step + 1.0) ** -0.3 + noise[step % 64], np.full(22, (step + 1) * 512.0)
        binned.add(counts, losses * tokens[step % 64], tokens[step % 64], (step + 1) * 512.0)
        smoothed.add(counts, losses)
    points = binned.points()
    return seconds(lambda: fit_laws(*points)), points[0].shape[1], smoothed.points()[0].shape[1]


def started(folder: Path, name: str, adapt: Mapping[str, Any] | None) -> Run:
    """A run over documents of three kinds, in small chunks."""
    uri, rng = str(folder / "lake"), random.Random(0)
    if not (folder / "pages.jsonl").exists():
        records = [{"text": "".join(rng.choices("abcdefgh \n", k=900)), "kind": rng.choice(KINDS)} for _ in range(3000)]
        (folder / "pages.jsonl").write_text("\n".join(map(json.dumps, records)))
        properties = {"kind": "kind", "num_bytes": "octet_length(text)"}
        Catalog.open(uri, create=True).register("pages", str(folder / "pages.jsonl"), properties=properties)
    components = {kind: {"where": f"kind = '{kind}'", "weight": 1} for kind in KINDS}
    mixture = {"components": components, "unit": "bytes", "on_exhausted": "repeat"}
    return Run.start(Catalog.open(uri), name, mixture, adapt=adapt, chunk_size=8, lanes=4)


def ado(interval: int, delay: int | None = None) -> dict[str, Any]:
    options = {"ignore_steps": 20, "start_step": 40, "interval": interval}
    policy = {"_target_": "mixlake.mixing.policy_ado.Ado", **options}
    return {"policy": policy, "interval": interval, "tolerance": 0.0, "delay": delay}


def feedback_costs() -> tuple[float, float, float, float]:
    """CPU seconds of a small model's step; of its feedback, in all threads; of that with a policy; and of the call.

    The model is the demo's. Feedback is the sums, the reports and storing them; the policy is ADO, with a fit at every
    hundredth step.
    """
    torch.set_num_threads(1)  # threads that wait for one another would count
    torch.manual_seed(0)
    model = ByteTransformer(vocab_size=257, width=96, layers=3, sequence_length=128)
    optimizer = torch.optim.AdamW(model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        runs = [started(Path(folder), "plain", None), started(Path(folder), "adapted", ado(100))]
        loaders = [make_loader(run, batch_size=16, sequence_length=128) for run in runs]
        steps = []
        for batch in islice(loaders[0], 20):
            began = time.process_time()
            logits = model(batch)
            losses = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")
            torch.autograd.backward(losses.mean())
            optimizer.step()
            optimizer.zero_grad()
            steps.append(time.process_time() - began)
        summing = seconds(lambda: sum_by_component(losses, batch), times=20)
        sums = sum_by_component(losses, batch)
        (plain, waiting), (adapted, _) = (reports(loader, sums, 1000) for loader in loaders)
        return float(np.median(steps)), summing + plain, summing + adapted, summing + waiting


def reports(loader: Loader[Any], sums: tuple[torch.Tensor, torch.Tensor], num: int) -> tuple[float, float]:
    """CPU seconds per report in all threads, and the median of those that the caller waits."""
    (loss_sum, num_tokens), rates, noise = sums, torch.tensor([0.1, 0.2, 0.3]), torch.Generator().manual_seed(0)
    waits, began = [], time.process_time()
    for step in range(num):
        losses = loss_sum * (0.5 + (step + 1.0) ** -rates + 0.01 * torch.randn(3, generator=noise))
        called = time.perf_counter()
        loader.report(step, losses, num_tokens)
        waits.append(time.perf_counter() - called)
        if step % 50 == 49:
            loader.flush()  # in training as many are stored at a time: 64, and what a decision needs
    return (time.process_time() - began) / num, float(np.median(waits))


def decision_time() -> float:
    """Seconds from the report of a deciding step until a chunk with the new weights is stored; the worst of some."""
    with tempfile.TemporaryDirectory() as folder:
        run = started(Path(folder), "decided", ado(20, delay=1))
        loader = make_loader(run, batch_size=8, sequence_length=128)
        losses, tokens = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([300, 300, 424])
        taken = []
        for step, _ in enumerate(islice(loader, 200)):
            version = run.weights().to_pylist()[-1]["version"]
            began = time.perf_counter()
            loader.report(step, losses * tokens * (step + 1.0) ** -torch.tensor([0.1, 0.2, 0.3]), tokens)
            if step > 40 and step % 20 == 19:
                while run.chunks.read(last := run.chunks.last()[0], last + 1)[0].weights_version == version:
                    run.schedule(1)  # those that training had reached, and the delay: then the first with new weights
                taken.append(time.perf_counter() - began)
                assert run.weights().to_pylist()[-1]["step"] == step
        return max(taken)


def main() -> None:
    (few, _), (many, _) = alone(fit_time, 22), alone(fit_time, 200)
    (ours, theirs, gap), _ = alone(general_optimiser)
    (step, fitting), _ = alone(steps_of_ado)
    (short, points, _), _ = alone(long_history, 10_000)
    (long, more_points, smoothed_points), _ = alone(long_history, 110_000)
    (training, feedback, adapting, waiting), _ = alone(feedback_costs)
    deciding, _ = alone(decision_time)
    lines = [
        Line(
            what="feedback, in all threads, of a small model's step", ours=100 * feedback / training, limit=1, unit="%"
        ),
        Line(what="what of that the trainer waits", ours=100 * waiting / training, limit=1, unit="%"),
        Line(what="feedback and ADO beside training", ours=100 * adapting / training, limit=5, unit="%"),
        Line(what="from the report that decides to the first chunk", ours=deciding, limit=1, unit="s"),
        Line(what="fit of 22 components, 2,000 steps", ours=few, limit=0.5, unit="s"),
        Line(what="fit of 200 components, 2,000 steps", ours=many, limit=5, unit="s"),
        Line(what="fit of one, beside 384 starts of L-BFGS-B", ours=ours, limit=theirs, unit="s"),
        Line(what="how much lower its objective is", ours=max(gap, 0.0), limit=1e-12, unit=""),
        Line(what="a step of 22 components", ours=step * 1e3, limit=1, unit="ms"),
        Line(what="a step with a fit, after 2,000 steps", ours=fitting, limit=0.5, unit="s"),
        Line(what="a fit after 110,000 steps, beside 10,000", ours=long, limit=max(1.5 * short, 0.5), unit="s"),
        Line(what="points after 110,000 steps, beside 10,000", ours=more_points, limit=points, unit=""),
        Line(what="the same by the published rules", ours=smoothed_points, limit=1_000, unit=""),
    ]
    show("Adapting; CPU time, but for what is waited for", lines)


if __name__ == "__main__":
    main()
