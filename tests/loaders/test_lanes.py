"""Samples and sequences as torch datasets: exactly once, elastic, resumable at every position."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mixlake.catalog import Catalog, ConfigError, ScheduleError
from mixlake.loaders import SampleDataset, TokenDataset, make_loader, merge_states
from mixlake.mixing import Run


def originals(catalog: Catalog) -> dict[tuple[str, int, int], tuple[str, str]]:
    """Text and dataset of every sample, read without the code under test."""
    found = {}
    files = catalog.sql("SELECT registration, file_id, uri, dataset FROM files").to_pylist()
    for file in files:
        if file["dataset"] == "lines":
            content = Path(file["uri"]).read_text(encoding="utf-8")
            lines = [json.loads(line)["text"] for line in content.split("\n")]
        elif file["dataset"] == "notes":
            lines = [Path(file["uri"]).read_bytes().decode()]
        else:
            lines = pq.read_table(file["uri"])["body"].to_pylist()
        for row, line in enumerate(lines):
            found[file["registration"], file["file_id"], row] = (line, file["dataset"])
    return found


def tokens_of(item: Any) -> tuple[bytes, ...]:
    return (item.input_ids.tobytes(), item.labels.tobytes(), item.component_ids.tobytes())


@pytest.mark.parametrize("unit", ["samples", "bytes"])
@pytest.mark.parametrize("shuffle", [{"window": 3}, "none"])
def test_every_sample_comes_once_with_its_own_text(catalog: Catalog, make_run: Any, unit: str, shuffle: Any) -> None:
    expected = originals(catalog)
    samples = list(SampleDataset(make_run(unit=unit, shuffle=shuffle)))
    assert Counter(sample["sample"] for sample in samples) == Counter(expected.keys())
    assert all(sample["text"] == expected[sample["sample"]][0] for sample in samples)


def test_a_sample_names_its_component(catalog: Catalog, make_run: Any) -> None:
    languages = {
        (row["registration"], row["file_id"], row["row"]): (row["language"], row["kind"])
        for row in catalog.sql("SELECT registration, file_id, row, language, kind FROM samples").to_pylist()
    }
    for sample in SampleDataset(make_run()):
        language, kind = languages[sample["sample"]]
        first = "english" if language == "en" else "notes" if kind == "note" else "others"
        assert sample["component"] == first


def test_fields_replace_the_text(make_run: Any) -> None:
    sample = next(iter(SampleDataset(make_run(filter="kind = 'line'", components=everything()), fields=["meta.id"])))
    assert set(sample) == {"meta.id", "component", "sample"}
    assert isinstance(sample["meta.id"], int)
    whole = next(iter(SampleDataset(make_run(filter="kind = 'line'", components=everything()), fields=["*"])))
    assert set(whole) == {"text", "meta", "component", "sample"}


def everything() -> dict[str, Any]:
    return {"all": {"where": "true", "weight": 1}}


@given(
    lanes=st.integers(1, 6),
    chunk_size=st.integers(3, 90),
    seed=st.integers(0, 5),
    unit=st.sampled_from(["samples", "bytes"]),
    data=st.data(),
)
@settings(max_examples=10, deadline=None)
def test_samples_resume_at_any_position_several_times(
    make_run: Any, lanes: int, chunk_size: int, seed: int, unit: str, data: st.DataObject
) -> None:
    run = make_run(lanes=lanes, chunk_size=chunk_size, seed=seed, unit=unit)
    whole = [sample["sample"] for sample in SampleDataset(run, lookahead=200)]
    stops = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    delivered: list[Any] = []
    state = None
    for stop in [*stops, len(whole) + 1]:
        dataset = SampleDataset(run, lookahead=200)
        if state is not None:
            dataset.load_state_dict(state)
        delivered += [sample["sample"] for sample in islice(dataset, stop - len(delivered))]
        state = json.loads(json.dumps(dataset.state_dict()))
    assert delivered == whole


@given(
    lanes=st.sampled_from([1, 3, 4]),
    chunk_size=st.integers(3, 60),
    unit=st.sampled_from(["samples", "bytes"]),
    options=st.fixed_dictionaries(
        {
            "sequence_length": st.sampled_from([61, 257]),
            "packing": st.sampled_from(["concat", "best_fit"]),
            "overlap": st.integers(0, 1),
        }
    ),
    data=st.data(),
)
@settings(max_examples=8, deadline=None)
def test_tokens_resume_at_any_position(
    make_run: Any, lanes: int, chunk_size: int, unit: str, options: dict[str, Any], data: st.DataObject
) -> None:
    run = make_run(lanes=lanes, chunk_size=chunk_size, unit=unit)
    whole = [tokens_of(item) for item in TokenDataset(run, lookahead=200, **options)]
    stop = data.draw(st.integers(1, len(whole) - 1))
    dataset = TokenDataset(run, **options)
    items = iter(dataset)
    assert [tokens_of(next(items)) for _ in range(stop)] == whole[:stop]
    resumed = TokenDataset(run, cache_bytes=1 << 16, **options)  # what is read at a time decides nothing
    resumed.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
    assert [tokens_of(item) for item in resumed] == whole[stop:]


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_tokens_resume_after_every_single_sequence(make_run: Any, packing: str) -> None:
    run = make_run(unit="bytes", filter="kind = 'note' AND num_bytes < 120", components=halves(), lanes=2, chunk_size=4)
    dataset = TokenDataset(run, sequence_length=32, packing=packing)
    whole, states = [], [dataset.state_dict()]
    for item in dataset:
        whole.append(tokens_of(item))
        states.append(dataset.state_dict())
    for position, state in enumerate(states):
        resumed = TokenDataset(run, sequence_length=32, packing=packing)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert [tokens_of(item) for item in resumed] == whole[position:], position


def halves() -> dict[str, Any]:
    return {
        "english": {"where": "language = 'en'", "weight": 0.5},
        "others": {"where": "language <> 'en'", "weight": 0.5},
    }


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("unit", ["samples", "bytes"])
def test_any_world_size_gives_the_same_global_sequence(make_run: Any, world_size: int, unit: str) -> None:
    run = make_run(unit=unit)
    run.schedule(1000)
    batch = 8
    alone = [batch_rows(b) for b in make_loader(run, batch_size=batch, sequence_length=64)]
    ranks = [
        [
            batch_rows(b)
            for b in make_loader(
                run, batch_size=batch // world_size, sequence_length=64, rank=rank, world_size=world_size
            )
        ]
        for rank in range(world_size)
    ]
    full = (min(len(batches) for batches in ranks) - 1) * 3 // 4  # before any lane ends
    assert full > 10
    for number in range(full):
        together = [ranks[slot % world_size][number][slot // world_size] for slot in range(batch)]
        assert together == alone[number]
    assert Counter(row for rank in ranks for b in rank for row in b) == Counter(row for b in alone for row in b)


def batch_rows(batch: dict[str, Any]) -> list[bytes]:
    return [row.tobytes() for row in batch["input_ids"].numpy()]


def test_a_state_of_two_ranks_is_taken_up_by_four_then_by_one(make_run: Any) -> None:
    run = make_run(unit="bytes")
    run.schedule(1000)
    alone = [row for b in make_loader(run, batch_size=8, sequence_length=64) for row in batch_rows(b)]
    state, delivered = None, []
    for world_size, num_batches in ((2, 3), (4, 5), (1, 4)):
        loaders = [
            make_loader(run, batch_size=8 // world_size, sequence_length=64, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        streams = [iter(loader) for loader in loaders]
        for _ in range(num_batches):
            rows = [batch_rows(next(stream)) for stream in streams]
            delivered += [rows[slot % world_size][slot // world_size] for slot in range(8)]
        state = json.loads(json.dumps(merge_states([loader.state_dict() for loader in loaders])))
    assert delivered == alone[: len(delivered)]


def test_a_rank_that_does_not_schedule_gives_up_after_a_while(make_run: Any) -> None:
    run = make_run()
    run.schedule(2)
    dataset = SampleDataset(run, rank=1, world_size=2, timeout=0.2)
    with pytest.raises(ScheduleError, match=r"waited 0 s for chunk 3; the last one is 1, written \d+ s ago"):
        list(dataset)


def test_a_run_is_packed_with_a_tokenizer_file_and_with_a_callable(make_run: Any, tokenizer_file: Path) -> None:
    run = make_run(unit="bytes")
    reference = Tokenizer.from_file(str(tokenizer_file))
    by_file = list(TokenDataset(run, tokenizer=str(tokenizer_file), sequence_length=64))
    end = int(reference.token_to_id("<|endoftext|>") or 0)
    by_callable = TokenDataset(run, tokenizer=lambda text: [*reference.encode(text).ids, end], sequence_length=64)
    assert all((a.labels == b.labels).all() for a, b in zip(by_file, by_callable, strict=True))


def test_a_callable_may_give_no_tokens_at_all(make_run: Any) -> None:
    run = make_run(unit="samples")
    sequences = TokenDataset(run, tokenizer=lambda text: [1] * (len(text) % 3), sequence_length=10)
    total = sum(int((sequence.document_ids >= 0).sum()) for sequence in sequences)
    lengths = run.catalog.sql("SELECT count(*) AS n FROM samples").to_pylist()[0]["n"]
    assert 0 < total < 2 * lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 3}, "world_size is 3; the run has 4 lanes, which it must divide"),
        ({"world_size": 2, "rank": 2}, "rank is 2; expected 0 to 1"),
        ({"lookahead": 0}, "lookahead is 0; expected a number of chunks, 1 or more"),
    ],
)
def test_wrong_numbers_are_refused(make_run: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SampleDataset(make_run(), **options)  # type: ignore[arg-type]


def test_a_state_of_something_else_is_refused(make_run: Any) -> None:
    run: Run = make_run()
    state = TokenDataset(run, sequence_length=64).state_dict()
    with pytest.raises(
        ConfigError,
        match="loader state is of kind 'tokens, sequence_length 64, concat, overlap 1, tokenizer bytes', but",
    ):
        TokenDataset(run, sequence_length=32).load_state_dict(state)
    with pytest.raises(ConfigError, match=f"loader state is of run '{run.name}', but this loader has"):
        TokenDataset(make_run(), sequence_length=64).load_state_dict(state)
    with pytest.raises(ConfigError, match="loader state has version 7; this program reads version 2"):
        TokenDataset(run, sequence_length=64).load_state_dict({**state, "version": 7})
    version = run.config.catalog_version
    with pytest.raises(ConfigError, match=f"is of catalog version {version + 1}, but this loader has {version} "):
        TokenDataset(run, sequence_length=64).load_state_dict({**state, "catalog_version": version + 1})
    with pytest.raises(ConfigError, match="is of number of lanes 8, but this loader has 4 "):
        TokenDataset(run, sequence_length=64).load_state_dict({**state, "num_lanes": 8})
    dataset = SampleDataset(run, rank=0, world_size=2)
    items = iter(dataset)
    for _ in range(4):
        next(items)
    with pytest.raises(ConfigError, match="loader state lacks lanes 1, 3; it was saved by some ranks only"):
        SampleDataset(run, rank=1, world_size=2).load_state_dict(dataset.state_dict())
