"""The main job, end to end, on real files: register, declare, schedule, train, trace back."""

from __future__ import annotations

import hashlib
import textwrap
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch.nn import functional

from mixlake.catalog import Catalog, ConfigError
from mixlake.conf.composed import plain, read_mixture
from mixlake.conf.demo_model import ByteTransformer
from mixlake.conf.demo_sources import register_installed_text
from mixlake.conf.display import ProgressDisplay, print_rows
from mixlake.loaders import ByteTokenizer, Loader, make_loader, sum_by_component
from mixlake.mixing import Run, explain, list_runs
from mixlake.mixing.quotas import SCALE


@dataclass(slots=True)
class Training:
    """What a training run leaves behind. K components."""

    loss_sums: list[torch.Tensor] = field(default_factory=list)
    """Per step, summed loss in nats, shape (K,)."""
    num_tokens: list[torch.Tensor] = field(default_factory=list)
    """Per step, delivered tokens with a loss, shape (K,)."""
    delivered: list[torch.Tensor] = field(default_factory=list)
    """Per step, delivered tokens, shape (K,)."""
    digest: str = ""
    """SHA-256 of all input ids in the order of delivery."""
    weights_version: int = 1
    """The newest weights of the last batch."""
    last_batch: dict[str, Any] = field(default_factory=dict)

    def mean_losses(self, steps: slice) -> torch.Tensor:
        """Return the mean loss per component over some steps, shape (K,); NaN where there was no token."""
        return torch.stack(self.loss_sums[steps]).sum(0) / torch.stack(self.num_tokens[steps]).sum(0)


def run_demo(config: DictConfig, console: Console) -> None:
    """Run the demo and print what happens."""
    settings = config.demo
    for key in ("steps", "batch_size", "sequence_length", "width", "layers"):
        if settings[key] < 1:
            raise ConfigError(f"demo.{key} is {settings[key]}; expected 1 or more")
    started = time.monotonic()
    mixture = read_mixture(config)
    catalog = Catalog.open(config.lake, create=True)
    with ProgressDisplay("registering") as progress:
        names = register_installed_text(catalog, progress)
    datasets = [catalog.dataset(name) for name in names]
    console.print(
        f"registered {' and '.join(names)} in place: {sum(d.num_files for d in datasets):,} files, "
        f"{sum(d.num_bytes for d in datasets) / 1e6:,.0f} MB, in {time.monotonic() - started:.1f} s "
        f"(datasets@{catalog.version})\n"
    )
    console.print(explain(catalog, mixture))
    run = Run.start(
        catalog,
        config.run.name or _free_name(catalog),
        mixture,
        seed=config.run.seed,
        chunk_size=config.run.chunk_size,
        lanes=config.run.lanes,
        adapt=plain(config.adapt),
    )
    loader = make_loader(
        run,
        batch_size=settings.batch_size,
        tokenizer="bytes",
        sequence_length=settings.sequence_length,
        num_workers=settings.num_workers,
    )
    with ProgressDisplay("training") as progress:
        training = train(loader, settings, progress)
    _print_results(console, run, training, settings)
    _print_lineage(console, run, training.last_batch)
    console.print(f"digest of the {len(training.delivered)} batches: {training.digest}")
    console.print(f"run {run.name} in lake {catalog.lake.uri}, {time.monotonic() - started:.0f} s in all")


def train(loader: Loader[Any], settings: DictConfig, progress: ProgressDisplay) -> Training:
    """Train a small model on the loader's first batches; the same config gives the same batches."""
    torch.manual_seed(0)
    model = ByteTransformer(
        vocab_size=ByteTokenizer.vocab_size,
        width=settings.width,
        layers=settings.layers,
        sequence_length=settings.sequence_length,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    training, digest = Training(), hashlib.sha256()
    batches = iter(loader)
    for step in range(settings.steps):
        batch = next(batches, None)
        if batch is None:
            raise ConfigError(f"demo.steps is {settings.steps}, but the run ends after {step} batches")
        logits = model(batch)
        losses = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")
        has_loss = batch["labels"].flatten() >= 0
        optimizer.zero_grad(set_to_none=True)
        (losses.sum() / has_loss.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        loss_sum, num_tokens = sum_by_component(losses.view_as(batch["labels"]), batch)
        loader.report(step, loss_sum, num_tokens)
        components = batch["component_ids"]
        training.loss_sums.append(loss_sum)
        training.num_tokens.append(num_tokens)
        training.delivered.append(torch.bincount(components[components >= 0], minlength=len(loader.components)))
        training.last_batch = batch
        training.weights_version = max(batch["weights_versions"])
        digest.update(batch["input_ids"].numpy().tobytes())
        progress(step + 1, settings.steps, "steps")
    loader.flush()
    training.digest = digest.hexdigest()
    return training


def _free_name(catalog: Catalog) -> str:
    taken = {row["run"] for row in list_runs(catalog).to_pylist()}
    return next(name for number in range(1, len(taken) + 2) if (name := f"demo-{number}") not in taken)


def _print_results(console: Console, run: Run, training: Training, settings: DictConfig) -> None:
    shares, last = (
        torch.tensor(run.shares(version), dtype=torch.float64) / SCALE for version in (1, training.weights_version)
    )
    delivered_SK = torch.stack(training.delivered).cumsum(0)
    distance = (delivered_SK - delivered_SK.sum(1, keepdim=True) * shares).abs().max()
    window = max(1, len(training.delivered) // 10)
    start, end = training.mean_losses(slice(0, window)), training.mean_losses(slice(-window, None))
    total = delivered_SK[-1].sum()
    rows = [
        {
            "component": name,
            "declared share": f"{shares[index]:.2%}",
            "share at end": f"{last[index]:.2%}",
            "delivered share": f"{delivered_SK[-1][index] / total:.2%}",
            "tokens": int(delivered_SK[-1][index]),
            "loss at start": f"{start[index]:.3f}",
            "loss at end": f"{end[index]:.3f}",
        }
        for index, name in enumerate(run.components)
    ]
    title = f"{len(training.delivered)} steps, {int(total):,} tokens (losses in nats, means of {window} steps)"
    print_rows(console, rows, list(rows[0]), title)
    if training.weights_version > 1:
        console.print(
            f"{training.weights_version - 1} times the weights followed the losses; mixlake weights run={run.name} "
            f"lake={run.catalog.lake.uri} says when and why\n"
        )
        return
    allowed = run.config.lanes * settings.sequence_length
    console.print(
        f"at every step each component was within {float(distance):,.0f} tokens of its declared share "
        f"(one sequence per lane: {allowed:,})\n"
    )


def _print_lineage(console: Console, run: Run, batch: dict[str, Any]) -> None:
    """Trace the first documents of a batch back to the chunks and files that they came from."""
    ids, components = batch["document_ids"], batch["component_ids"]
    num = min(8, len(batch["documents"]))
    console.print(f"where the last batch came from: the first {num} of its {len(batch['documents'])} documents")
    for number in range(num):
        registration, file_id, row = batch["documents"][number]
        here = f"registration = '{registration}' AND file_id = {file_id} AND row = {row}"
        drawn = run.lineage(here).to_pylist()[0]
        sample = run.catalog.sql(f"SELECT package, license FROM samples WHERE {here}").to_pylist()[0]
        license_name = textwrap.shorten(sample["license"] or "no licence named", 40, placeholder="…")
        component = batch["components"][int(components[ids == number][0])]
        console.print(
            f"  {component:<10}{int((ids == number).sum()):>5} tokens, chunk {drawn['chunk']}, weights "
            f"v{drawn['weights_version']}, {sample['package']} ({license_name})\n    {drawn['uri']}",
            markup=False,
            soft_wrap=True,
        )
    console.print()
