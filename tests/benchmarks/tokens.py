"""Packed tokens per second and core: with each tokenizer library beside the bare library, and of tokens written once.

python -m tests.benchmarks.tokens [megabytes]     default: 64 MB of documents in many languages

Everything is measured in CPU time of one process whose libraries have one thread, so that reading and parsing, which
other threads do, are counted too. The 32k byte-level BPE is trained on a part of the documents, and kept in the
temporary folder.
"""

import base64
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mixlake.catalog import Catalog, tokenize
from mixlake.catalog.tokenizer_files import byte_letters
from mixlake.catalog.tokenizers import TokenizerFile, load_tokenizer
from mixlake.loaders import make_loader
from mixlake.mixing import Mixture, Run
from tests.benchmarks.corpus import write_documents
from tests.benchmarks.report import Line, alone, show

_FOLDER = Path(tempfile.gettempdir(), "mixlake-benchmark-tokens")
_VOCABULARY = 32_000
_BARE_BATCH = 64
_SHARE_OF_BARE = 0.85
_ON_THE_FLY, _WRITTEN_ONCE = 8e6, 100e6
_LENGTH = 2048
"""Tokens of a sequence, where nothing else is said."""
_DOCUMENTS = {100: 100_000, 100_000: 200}
"""Tokens of the documents of datasets in which all are equally long, and how many there are."""
_REPEATS = 2
_LIBRARIES = {"tokenizers": 8_000_000, "tiktoken": 1 << 40, "gigatoken": 1 << 40}
"""Tokens to stop after, so that no library takes longer than some seconds; what is tokenized in advance by then, and
not delivered, counts against us."""


def prepare(megabytes: int) -> str:
    """Return a folder with documents, a tokenizer.json, the same vocabulary as ranks, and a lake; made once."""
    folder = _FOLDER / str(megabytes)
    if (folder / "ready").exists():
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_documents(folder / "documents.jsonl", max_bytes=megabytes << 20)
    _train(folder)
    catalog = Catalog.open(str(folder / "lake"), create=True)
    catalog.register("texts", str(folder / "documents.jsonl"), properties={"half": "id % 2"}, replace=True)
    tokenize(catalog, "texts", "ids", folder / "ids", tokenizer=folder / "tokenizer.json", replace=True)
    for length, num in _DOCUMENTS.items():
        path = folder / f"of-{length}.npy"
        np.save(path, np.random.default_rng(0).integers(0, _VOCABULARY, (num, length), np.uint16))
        catalog.register(f"of-{length}", str(path), properties={"half": "document % 2", "num_tokens": "num_tokens"})
    (folder / "ready").touch()
    return str(folder)


def bare(folder: str, library: str) -> float:
    """Return the tokens per second of a tokenizer without anything around it, over texts in memory.

    They are as shuffled as a loader delivers them: neighbours in a file are alike, which tokenizers' caches like.
    """
    with Path(folder, "documents.jsonl").open("rb") as stream:
        texts = [orjson.loads(line)["text"] for line in stream]
    random.Random(0).shuffle(texts)
    encoder = load_tokenizer(_tokenizer(folder, library)).encoder  # type: ignore[attr-defined]

    num_tokens, begun = 0, time.process_time()
    for start in range(0, len(texts), _BARE_BATCH):
        num_tokens += len(encoder.encode(texts[start : start + _BARE_BATCH]).ids)
        if num_tokens > _LIBRARIES[library]:
            break
    return num_tokens / (time.process_time() - begun)


def on_the_fly(folder: str, library: str) -> float:
    """Return the tokens per second of batches made from JSON lines."""
    return _packed(folder, "texts", _LENGTH, {"tokenizer": _tokenizer(folder, library)}, _LIBRARIES[library])


def written_once(folder: str, dataset: str, unit: str, length: int, packing: str) -> float:
    """Return the tokens per second of batches made from files of ids, in several passes."""
    options = {"tokenizer": _tokenizer(folder, "gigatoken"), "packing": packing}
    return _packed(folder, dataset, length, options, 1 << 40, unit=unit, passes=5)


def main() -> None:
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder, _ = alone(prepare, int(sys.argv[1]) if len(sys.argv) > 1 else 64)
    lines = []
    for library in _LIBRARIES:
        limit, ours = _best(bare, folder, library), _best(on_the_fly, folder, library)
        lines.append(_line(f"{library}, from JSON lines: 85% of it bare", ours, _SHARE_OF_BARE * limit))
    lines.append(_line("the fastest of them", ours, _ON_THE_FLY))
    units, packings = ("samples", "tokens"), ("concat", "best_fit")
    for unit, length, packing in product(units, (1024, _LENGTH, 4096), packings):
        ours = _best(written_once, folder, "ids", unit, length, packing)
        lines.append(_line(f"written once, by {unit}, {packing}, sequences of {length:,}", ours, _WRITTEN_ONCE))
    for documents, unit, packing in product(_DOCUMENTS, units, packings):
        ours = _best(written_once, folder, f"of-{documents}", unit, _LENGTH, packing)
        lines.append(_line(f"documents of {documents:,} tokens, by {unit}, {packing}", ours, _WRITTEN_ONCE))
    show("Packed tokens per second and core", lines)


def _line(what: str, ours: float, limit: float) -> Line:
    return Line(what=what, ours=ours / 1e6, limit=limit / 1e6, unit="M/s", at_least=True)


def _best(case: Callable[..., float], *arguments: Any) -> float:
    rates: list[float] = [alone(case, *arguments)[0] for _ in range(_REPEATS)]
    return max(rates)


def _packed(
    folder: str,
    dataset: str,
    length: int,
    options: dict[str, Any],
    num_tokens: int,
    *,
    unit: str = "samples",
    passes: int = 1,
) -> float:
    torch.set_num_threads(1)
    catalog = Catalog.open(f"{folder}/lake")
    component = {"weight": 1, "on_exhausted": "repeat", "max_passes": passes} if passes > 1 else {"weight": 1}
    components = {
        name: {**component, "where": f"half = {half}", "weight": 0.5} for name, half in (("even", 0), ("odd", 1))
    }
    mixture = Mixture.from_dict({"unit": unit, "filter": f"dataset = '{dataset}'", "components": components})
    run = Run.start(catalog, f"run-{time.time_ns()}", mixture, lanes=4)
    run.schedule(1 << 20)
    loader = make_loader(run, batch_size=8, sequence_length=length, **options)
    gc.collect()
    gc.freeze()  # as in every worker
    num_packed, begun = 0, time.process_time()
    for batch in loader:
        num_packed += batch["input_ids"].numel()
        if num_packed > num_tokens:
            break
    return loader.stats().num_tokens / (time.process_time() - begun)  # without padding


def _tokenizer(folder: str, library: str) -> TokenizerFile:
    if library != "tiktoken":
        return TokenizerFile(path=f"{folder}/tokenizer.json", library=library)
    return TokenizerFile(path=f"{folder}/ranks", library=library, pattern="r50k_base")


def _train(folder: Path) -> None:
    """Train a byte-level BPE on every fourth document; write it as tokenizer.json, and as ranks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with (folder / "documents.jsonl").open("rb") as stream:
        texts = [orjson.loads(line)["text"] for number, line in enumerate(stream) if number % 4 == 0]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    ranks = sorted((rank, token) for token, rank in vocabulary.items() if rank)
    lines = (f"{base64.b64encode(bytes(map(names.__getitem__, t))).decode()} {rank - 1}\n" for rank, t in ranks)
    (folder / "ranks").write_text("".join(lines))


if __name__ == "__main__":
    main()
