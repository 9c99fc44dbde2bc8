"""Other loaders on the same documents; each runs in the virtual environment that `loading` makes for it.

python loading_peers.py NAME FOLDER WORKERS MILLIONS     FOLDER/components/<component>/*.jsonl; prints a line of JSON
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

BATCH = 64
_SECONDS = 8.0
"""What a pass may take: the slow ones do not become faster after that."""
Texts = Iterator[str]


def shards(component: Path) -> list[str]:
    return sorted(map(str, component.glob("*.jsonl")))


def records(component: Path) -> Iterator[dict[str, Any]]:
    for shard in shards(component):
        with open(shard, encoding="utf-8") as lines:
            for line in lines:
                yield {"text": json.loads(line)["text"]}


def through_torch(dataset: Any, workers: int, batch_size: int | None = BATCH) -> Iterator[Any]:
    from torch.utils.data import DataLoader  # noqa: PLC0415

    return iter(
        DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=list if batch_size else as_it_is)
    )


def as_it_is(item: Any) -> Any:
    return item


def flat(batches: Iterable[Any]) -> Texts:
    return (record["text"] for batch in batches for record in batch)


def hf_streaming(components: dict[Path, float], _: Path, workers: int) -> Texts:
    from datasets import interleave_datasets, load_dataset  # noqa: PLC0415

    parts = [load_dataset("json", data_files=shards(path), split="train", streaming=True) for path in components]
    parts = [part.select_columns("text") for part in parts]
    mixed = interleave_datasets(parts, list(components.values()), seed=0, stopping_strategy="all_exhausted")
    return flat(through_torch(mixed, workers)) if workers else (record["text"] for record in mixed)


def hf_arrow(components: dict[Path, float], target: Path, workers: int) -> Texts:
    from datasets import interleave_datasets, load_dataset  # noqa: PLC0415

    parts = [
        load_dataset("json", data_files=shards(path), split="train", cache_dir=str(target)).select_columns("text")
        for path in components
    ]
    mixed = interleave_datasets(parts, list(components.values()), seed=0, stopping_strategy="all_exhausted")
    return flat(through_torch(mixed, workers)) if workers else (record["text"] for record in mixed)


def mosaic(components: dict[Path, float], target: Path, workers: int) -> Texts:
    from streaming import MDSWriter, Stream, StreamingDataset  # noqa: PLC0415

    for path in components:
        if not (target / path.name).exists():
            with MDSWriter(out=str(target / path.name), columns={"text": "str"}) as writer:
                for record in records(path):
                    writer.write(record)
    streams = [Stream(local=str(target / path.name), proportion=weight) for path, weight in components.items()]
    dataset = StreamingDataset(streams=streams, batch_size=BATCH, shuffle=True)
    return flat(through_torch(dataset, workers)) if workers else (record["text"] for record in dataset)


def litdata(components: dict[Path, float], target: Path, workers: int) -> Texts:
    from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset, optimize  # noqa: PLC0415

    for path in components:
        if not (target / path.name).exists():
            optimize(lit_records, shards(path), str(target / path.name), chunk_bytes="64MB", num_workers=1)
    parts = [StreamingDataset(str(target / path.name), shuffle=True) for path in components]
    mixed = CombinedStreamingDataset(parts, weights=list(components.values()), iterate_over_all=False)
    if not workers:
        return (record["text"] for record in mixed)
    return flat(StreamingDataLoader(mixed, batch_size=BATCH, num_workers=workers, collate_fn=list))


def lit_records(shard: str) -> Iterator[dict[str, Any]]:
    with open(shard, encoding="utf-8") as lines:
        for line in lines:
            yield {"text": json.loads(line)["text"]}


def webdataset(components: dict[Path, float], target: Path, workers: int) -> Texts:
    import webdataset as wds  # noqa: PLC0415

    for path in components:
        if not (target / path.name).exists():
            (target / path.name).mkdir(parents=True)
            with wds.ShardWriter(str(target / path.name / "%05d.tar"), maxsize=32 << 20, verbose=0) as writer:
                for number, record in enumerate(records(path)):
                    writer.write({"__key__": f"{number:08}", "txt": record["text"]})
    parts = [
        wds.WebDataset(
            sorted(map(str, (target / path.name).glob("*.tar"))), shardshuffle=False, empty_check=False
        ).decode()
        for path in components
    ]
    mixed = wds.RandomMix(parts, list(components.values()))
    batches = through_torch(mixed, workers) if workers else ([record] for record in mixed)
    return (record["txt"] for batch in batches for record in batch)


def grain(components: dict[Path, float], target: Path, workers: int) -> Texts:
    import grain.python as pygrain  # noqa: PLC0415
    from array_record.python.array_record_module import ArrayRecordWriter  # noqa: PLC0415

    target.mkdir(exist_ok=True)
    parts = []
    for path in components:
        file = str(target / f"{path.name}.array_record")
        if not Path(file).exists():
            writer = ArrayRecordWriter(file, "group_size:1")
            for record in records(path):
                writer.write(record["text"].encode())
            writer.close()
        parts.append(pygrain.MapDataset.source(pygrain.ArrayRecordDataSource(file)).shuffle(seed=0).repeat())
    mixed = pygrain.MapDataset.mix(parts, weights=list(components.values())).map(bytes.decode)
    dataset = mixed.to_iter_dataset()
    if workers:
        dataset = dataset.batch(BATCH, batch_fn=list).mp_prefetch(pygrain.MultiprocessingOptions(num_workers=workers))
        return (text for batch in dataset for text in batch)
    return iter(dataset)


def zephon(components: dict[Path, float], _: Path, workers: int) -> Texts:
    from zephon import Pipeline  # noqa: PLC0415
    from zephon.io import Dataset  # noqa: PLC0415
    from zephon.work import MixtureSpec, StaticMixtureWorkSource  # noqa: PLC0415

    parts = [Dataset.from_path(path.name, str(path)) for path in components]
    mixture = MixtureSpec({path.name: weight for path, weight in components.items()})
    pipeline = Pipeline(StaticMixtureWorkSource(datasets=parts, mixture=mixture, seed=0, chunk_size=1024)).decode_text()
    return zephon_texts(
        through_torch(pipeline.to_torch_dataset(stateful=False), workers, None) if workers else pipeline
    )


def zephon_texts(items: Iterable[Any]) -> Texts:
    for item in items:
        for record in item if isinstance(item, list) else [item]:
            payload = getattr(record, "payload", None) or getattr(record, "data", record)
            yield payload["text"] if isinstance(payload, dict) else record["text"]


PEERS: dict[str, Callable[[dict[Path, float], Path, int], Texts]] = {
    peer.__name__: peer for peer in (hf_streaming, hf_arrow, mosaic, litdata, webdataset, grain, zephon)
}


def one_pass(texts: Texts, num_characters: float) -> tuple[float, float]:
    """Return characters per second after the first text, and the seconds until that."""
    begun = time.perf_counter()
    assert type(next(texts)) is str
    first = time.perf_counter() - begun
    begun, num = time.perf_counter(), 0
    for text in texts:
        num += len(text)
        if num > num_characters or time.perf_counter() - begun > _SECONDS:
            break
    return num / (time.perf_counter() - begun), first


def main() -> None:
    name, folder, workers, millions = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    weights = json.loads((folder / "weights.json").read_text())
    components = {folder / "components" / component: weight for component, weight in weights.items()}
    target = folder / "converted" / name
    target.parent.mkdir(exist_ok=True)
    begun = time.perf_counter()
    list(islice(PEERS[name](components, target, 0), 1))  # converts, where that is needed
    converted = time.perf_counter() - begun
    rate, first = max(one_pass(PEERS[name](components, target, workers), millions * 1e6) for _ in range(2))
    disk = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) if target.exists() else 0
    print(json.dumps({"rate": rate, "first": first, "converted": converted, "disk": disk}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
