"""The main job, end to end, on real files: register, declare, schedule, train, trace back."""

from __future__ import annotations

import hashlib
import textwrap
import time
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch.nn import functional

from mixlake.catalog import Catalog, ConfigError
from mixlake.conf.composed import plain, read_mixture
from mixlake.conf.demo_model import ByteTransformer
from mixlake.conf.demo_results import Training, print_results, print_weights
from mixlake.conf.demo_sources import register_installed_text
from mixlake.conf.display import ProgressDisplay
from mixlake.loaders import ByteTokenizer, Loader, make_loader, sum_by_component
from mixlake.mixing import Run, explain, list_runs
from mixlake.mixing.quotas import SCALE


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
    print_results(console, run, training, settings.sequence_length)
    if run.config.adapt is not None:
        print_weights(console, run, training)
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
        training.loss_sums.append(loss_sum)
        training.num_tokens.append(num_tokens)
        training.delivered.append(_delivered(batch))
        training.wanted.append(_wanted(batch, loader.dataset.run))
        for version in batch["weights_versions"]:
            training.first_steps.setdefault(version, step)
        training.last_batch = batch
        digest.update(batch["input_ids"].numpy().tobytes())
        progress(step + 1, settings.steps, "steps")
    loader.flush()
    training.digest = digest.hexdigest()
    return training


def _delivered(batch: dict[str, Any]) -> torch.Tensor:
    components = batch["component_ids"]
    return torch.bincount(components[components >= 0], minlength=len(batch["components"]))


def _wanted(batch: dict[str, Any], run: Run) -> torch.Tensor:
    num_tokens_B = (batch["component_ids"] >= 0).sum(1).double()
    shares_BK = torch.tensor([run.shares(version) for version in batch["weights_versions"]], dtype=torch.float64)
    wanted_K: torch.Tensor = num_tokens_B @ shares_BK / SCALE
    return wanted_K


def _free_name(catalog: Catalog) -> str:
    taken = {row["run"] for row in list_runs(catalog).to_pylist()}
    return next(name for number in range(1, len(taken) + 2) if (name := f"demo-{number}") not in taken)


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
