"""The same small model, the same text, as many tokens: natural, UniMax, ADO and ODM mixtures, three seeds of each.

python -m tests.benchmarks.mixing_methods [folder]     default: mixlake-mixing-methods in the temporary folder

Trains on the text of this Python installation (`mixlake.conf.demo_sources`), one run per core at a time, a minute or
two each. What a run found is kept in the folder: interrupted, the command goes on with the runs that are missing, and
called again it prints the tables. An eighth of all contents, chosen by their hash, is held out, so that no file is
trained on whose copy is evaluated; texts that differ a little, as licences do, may be on both sides.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console
from torch.nn import functional

from mixlake.catalog import Catalog
from mixlake.conf.demo_model import ByteTransformer
from mixlake.conf.demo_sources import register_installed_text
from mixlake.loaders import ByteTokenizer, make_loader, sum_by_component
from mixlake.mixing import Run, list_runs

Result: TypeAlias = dict[str, Any]

_SEEDS = (0, 1, 2)
_STEPS, _WARM_UP, _DECAY_FROM = 1500, 50, 1200
"""The learning rate rises, stays, and falls to a tenth; weights stay as they are while it falls."""
_BATCH, _LENGTH = 16, 128
_WIDTH, _LAYERS, _RATE = 64, 2, 3e-3
_VALIDATION_BATCHES = 24
"""Of each component; fewer where there is less text."""
_CHUNK, _LANES = 4, 4

_PART = """CASE WHEN kind = 'licence' THEN 'licences' WHEN kind = 'stub' THEN 'stubs' WHEN kind = 'prose' THEN 'docs'
    WHEN kind = 'source' AND extension = 'py' THEN 'python' WHEN kind = 'source' THEN 'native' END"""
_TEXT = "part IS NOT NULL AND num_bytes BETWEEN 100 AND 16000"  # short ones, so that chunks are short too
_NATURAL: Result = {"kind": "inferred", "by": ["part"], "on_exhausted": "repeat"}
_UNIMAX: Result = {**_NATURAL, "unimax": {"budget": _STEPS * _BATCH * _LENGTH, "max_passes": 1}}
_SCHEDULE: Result = {"interval": 25, "delay": _LANES, "bounds": {"freeze_step": _DECAY_FROM}}
_ADO: Result = {
    "_target_": "mixlake.mixing.policy_ado.Ado",
    "ignore_steps": _WARM_UP,
    "start_step": 2 * _WARM_UP,
    "interval": 25,
}
_ODM: Result = {"_target_": "mixlake.mixing.policy_bandit.OnlineDataMixing", "start_step": _WARM_UP}
METHODS: dict[str, tuple[Result, Result | None]] = {
    "natural": (_NATURAL, None),
    "UniMax": (_UNIMAX, None),
    "ADO": (_NATURAL, {"policy": _ADO, **_SCHEDULE}),
    "ODM": (_NATURAL, {"policy": _ODM, **_SCHEDULE}),
}
"""Mixture, and how its weights follow the losses."""


def prepare(folder: Path) -> None:
    """Register the text, and keep batches of what is held out; once."""
    if (folder / "ready").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    catalog = Catalog.open(str(folder / "lake"), create=True)
    register_installed_text(catalog)
    catalog.add_property("part", _PART)
    catalog.add_property("is_held_out", "substr(md5(_text), 1, 1) IN ('0', '1')")
    validation = {}
    for part in sorted(
        row["part"] for row in catalog.sql("SELECT DISTINCT part FROM samples").to_pylist() if row["part"]
    ):
        name = _free_name(catalog, f"held-out-{part}")
        where = f"{_TEXT} AND is_held_out AND part = '{part}'"
        run = Run.start(catalog, name, {"components": {part: {"where": where, "weight": 1}}}, chunk_size=64, lanes=1)
        loader = make_loader(run, batch_size=_BATCH, sequence_length=_LENGTH)
        validation[part] = [
            {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
            for batch in islice(loader, _VALIDATION_BATCHES)
        ]
    torch.save(validation, folder / "validation.pt")
    (folder / "ready").touch()


def train(folder: Path, method: str, seed: int) -> None:
    """Train, and write down what the run found."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    catalog = Catalog.open(str(folder / "lake"))
    mixture, adapt = METHODS[method]
    run = Run.start(
        catalog,
        _free_name(catalog, f"{method}-{seed}"),
        {**mixture, "unit": "bytes", "filter": f"{_TEXT} AND NOT is_held_out"},
        seed=seed,
        chunk_size=_CHUNK,
        lanes=_LANES,
        adapt=adapt,
    )
    model = ByteTransformer(vocab_size=ByteTokenizer.vocab_size, width=_WIDTH, layers=_LAYERS, sequence_length=_LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate)
    loader = make_loader(run, batch_size=_BATCH, sequence_length=_LENGTH)
    delivered = torch.zeros(len(run.components), dtype=torch.int64)
    for step, batch in enumerate(islice(loader, _STEPS)):
        losses = _losses(model, batch)
        optimizer.zero_grad(set_to_none=True)
        (losses.sum() / (batch["labels"] >= 0).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        loss_sum, num_tokens = sum_by_component(losses, batch)
        loader.report(step, loss_sum, num_tokens)
        delivered += num_tokens
    loader.flush()
    versions = run.weights().to_pylist()
    result = {
        "run": run.name,
        "validation": validate(model, torch.load(folder / "validation.pt")),
        "tokens": dict(zip(run.components, delivered.tolist(), strict=True)),
        "declared": {entry["component"]: entry["weight"] for entry in versions[0]["weights"]},
        "at_end": {entry["component"]: entry["weight"] for entry in versions[-1]["weights"]},
        "num_versions": len(versions),
    }
    path = _result(folder, method, seed)
    path.with_suffix(".new").write_text(json.dumps(result, indent=1))
    path.with_suffix(".new").replace(path)


def validate(model: ByteTransformer, validation: dict[str, list[dict[str, torch.Tensor]]]) -> dict[str, float]:
    """Return mean losses by component, in nats per byte."""
    found = {}
    with torch.no_grad():
        for part, batches in validation.items():
            losses = sum(float(_losses(model, batch).sum()) for batch in batches)
            found[part] = losses / sum(int((batch["labels"] >= 0).sum()) for batch in batches)
    return found


def _losses(model: ByteTransformer, batch: dict[str, Any]) -> torch.Tensor:
    logits, labels = model(batch), batch["labels"]
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)


def _rate(step: int) -> float:
    decay = max(0.0, (step - _DECAY_FROM) / (_STEPS - _DECAY_FROM))
    return min(1.0, (step + 1) / _WARM_UP) * (1 - 0.9 * decay)


def _free_name(catalog: Catalog, name: str) -> str:
    """Return a run's name; a run that was interrupted is begun anew under another one."""
    taken = {row["run"] for row in list_runs(catalog).to_pylist()}
    return next(new for number in range(1, len(taken) + 2) if (new := f"{name}.{number}") not in taken)


def _result(folder: Path, method: str, seed: int) -> Path:
    return folder / f"{method}-{seed}.json"


def tables(results: dict[str, list[Result]]) -> str:
    """Return Markdown: validation losses, how they differ from the natural mixture's, and what was delivered."""
    parts = list(results["natural"][0]["validation"])
    natural = results["natural"][0]["declared"]
    means: dict[str, Callable[[Result], float]] = {
        **{part: lambda result, part=part: result["validation"][part] for part in parts},  # type: ignore[misc]
        "mean": lambda result: statistics.fmean(result["validation"].values()),
        "by size": lambda result: sum(natural[part] * result["validation"][part] for part in parts),
    }
    losses, differences, shares = [], [], []
    for method, of_seeds in results.items():
        losses.append([method, *(_spread([value(result) for result in of_seeds]) for value in means.values())])
        pairs = list(zip(of_seeds, results["natural"], strict=True))
        differences.append([method, *(_spread([f(a) - f(b) for a, b in pairs], "+") for f in means.values())])
        delivered = [
            _mean([result["tokens"][part] / sum(result["tokens"].values()) for result in of_seeds]) for part in parts
        ]
        at_end = [_mean([result["at_end"][part] for result in of_seeds]) for part in parts]
        versions = statistics.fmean(result["num_versions"] for result in of_seeds)
        both = [f"{share:.1%} → {last:.1%}" for share, last in zip(delivered, at_end, strict=True)]
        distance = statistics.fmean(abs(share - natural[part]) for share, part in zip(delivered, parts, strict=True))
        shares.append([method, *both, f"{distance * len(parts) / 2:.2f}", f"{versions:.0f}"])
    return "\n\n".join(
        [
            "Validation loss, nats per byte (mean ± standard deviation of the seeds):",
            _markdown(["", *means], losses),
            "The same minus that of the natural mixture with the same seed:",
            _markdown(["", *means], differences[1:]),
            "Delivered share → weight at the end; total variation of the delivered from natural; weights versions:",
            _markdown(["", *parts, "distance", "versions"], shares),
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _spread(values: Sequence[float], sign: str = "") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):{sign}.3f} ± {deviation:.3f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(arguments[0] if arguments else Path(tempfile.gettempdir(), "mixlake-mixing-methods"))
    console.print(f"results are kept in {folder}")
    prepare(folder)
    every = [(method, seed) for seed in _SEEDS for method in METHODS]
    missing = [(method, seed) for method, seed in every if not _result(folder, method, seed).exists()]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(train, folder, method, seed): (method, seed) for method, seed in missing}
        for num, done in enumerate(as_completed(running), start=1):
            done.result()
            method, seed = running[done]
            console.print(f"{num} of {len(missing)}: {method}, seed {seed}")
    results = {method: [json.loads(_result(folder, method, seed).read_text()) for seed in _SEEDS] for method in METHODS}
    console.print(tables(results), markup=False)


if __name__ == "__main__":
    main(sys.argv[1:])
