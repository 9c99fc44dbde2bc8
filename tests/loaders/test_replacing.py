"""Files that are damaged, changed or gone while a run trains: replaced alike whoever reads, and written down."""

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, ConfigError, DataError
from mixlake.loaders import SampleDataset, TokenDataset, make_loader
from mixlake.mixing import Run

NUM_FILES = 4
ROWS_PER_FILE = 60
Damage = Callable[[Path], None]


def write_lines(folder: Path, number: int, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{number}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_zst(folder: Path, number: int, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{number}.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


def write_parquet(folder: Path, number: int, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{number}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=20)
    return path


def write_arrow(folder: Path, number: int, rows: list[dict[str, Any]]) -> Path:
    path, table = folder / f"{number}.arrow", pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    return path


def write_csv(folder: Path, number: int, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{number}.csv"
    path.write_text("text,kind\n" + "".join(f"{row['text']},{row['kind']}\n" for row in rows))
    return path


def write_tar(folder: Path, number: int, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{number}.tar"
    with tarfile.open(path, "w") as tar:
        for index, row in enumerate(rows):
            for ending, value in (("text", row["text"]), ("json", json.dumps({"kind": row["kind"]}))):
                member = tarfile.TarInfo(f"{index:03}.{ending}")
                member.size = len(value)
                tar.addfile(member, io.BytesIO(value.encode()))
    return path


def quietly(path: Path, content: bytes) -> None:
    """Write a file anew with the size and the time that it had."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def tear_line(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b'{"text": "1-7 ')
    quietly(path, content[:at] + b"[" + content[at + 1 :])


def zero_second_half(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    quietly(path, content[:middle] + b"\0" * (len(content) - middle))


def garble_row_group(path: Path) -> None:
    with pq.ParquetFile(path) as parquet:
        column = parquet.metadata.row_group(1).column(0)
    content = path.read_bytes()
    start = column.dictionary_page_offset or column.data_page_offset
    quietly(path, content[:start] + b"\xff" * 40 + content[start + 40 :])


def garble_line(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"1-7 ")
    quietly(path, content[:at] + b"\xff" + content[at + 1 :])


def garble_header(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"007.text")
    quietly(path, content[:at] + b"9" + content[at + 1 :])


def zero_message(path: Path) -> None:
    content = path.read_bytes()
    at = -1
    for _ in range(4):  # behind those of the schema and of two record batches, as each begins with this mark
        at = content.index(b"\xff" * 4, at + 1)
    quietly(path, content[:at] + b"\0" * 64 + content[at + 64 :])


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 10**18))


CASES: list[Any] = [
    pytest.param(write_lines, tear_line, 1, "not JSON any more", id="torn-line"),
    pytest.param(write_lines, Path.unlink, ROWS_PER_FILE, "is gone", id="gone"),
    pytest.param(write_parquet, touch, ROWS_PER_FILE, "was modified since it was registered", id="changed"),
    pytest.param(write_parquet, garble_row_group, 20, "cannot be decoded", id="garbled-row-group"),
    pytest.param(write_csv, garble_line, 1, "not UTF-8 any more", id="garbled-csv"),
    pytest.param(write_arrow, zero_message, 20, "is not there any more", id="zeroed-arrow"),
    pytest.param(write_tar, garble_header, 1, "checksum is wrong", id="garbled-tar"),
    pytest.param(write_lines, link_to_itself, ROWS_PER_FILE, "cannot be read", id="unreachable"),
    pytest.param(write_zst, zero_second_half, None, "cannot be decompressed", id="zeroed-zst"),
]


def make_run(folder: Path, write: Any, *, chunk_size: int = 48) -> tuple[Run, Path]:
    """Return a run with two components that alternate in four files, and the second file."""
    data = folder / "data"
    data.mkdir()
    properties = {"kind": "json.kind" if write is write_tar else "kind"}
    for number in range(NUM_FILES):
        rows = [{"text": f"{number}-{row} {'x' * (row % 13)}", "kind": "ab"[row % 2]} for row in range(ROWS_PER_FILE)]
        path = write(data, number, rows)
        if number == 1:
            second = path
    catalog = Catalog.create(str(folder / "lake"))
    catalog.register("pages", str(data), properties=properties, text="text")
    components = {kind: {"where": f"kind = '{kind}'", "weight": 0.5} for kind in "ab"}
    run = Run.start(catalog, "run", {"components": components}, chunk_size=chunk_size, lanes=4)
    return run, second


def delivered(run: Run, **options: Any) -> list[tuple[Any, str, str]]:
    samples = SampleDataset(run, on_error="skip", **options)
    return [(sample["sample"], sample["text"], sample["component"]) for sample in samples]


def replaced(run: Run) -> list[dict[str, Any]]:
    query = "SELECT * FROM replaced WHERE run = 'run' ORDER BY chunk, registration, file_id, row"
    rows: list[dict[str, Any]] = run.catalog.sql(query).to_pylist()
    return rows


@pytest.mark.parametrize(("write", "damage", "num_bad", "reason"), CASES)
def test_what_cannot_be_read_is_an_error_unless_it_may_be_replaced(
    tmp_path: Path, write: Any, damage: Damage, num_bad: int | None, reason: str
) -> None:
    run, path = make_run(tmp_path, write)
    before = [(sample["sample"], sample["text"], sample["component"]) for sample in SampleDataset(run)]
    assert len(before) == NUM_FILES * ROWS_PER_FILE
    damage(path)
    with pytest.raises(DataError, match=reason):
        list(SampleDataset(run))
    assert replaced(run) == []

    after = delivered(run)
    rows = replaced(run)
    assert rows
    assert num_bad in (None, len(rows))
    assert all(reason in row["reason"] and path.name in row["reason"] for row in rows)
    bad = {(row["registration"], row["file_id"], row["row"]): row for row in rows}
    assert {address[1] for address in bad} == {1}
    for was, now in zip(before, after, strict=True):
        assert was[2] == now[2]
        if was[0] in bad:
            row = bad[was[0]]
            assert now[0] == (row["by_registration"], row["by_file_id"], row["by_row"])
            assert row["component"] == now[2]
            assert now[0] not in bad
        else:
            assert now == was
    texts = {sample[0]: sample[1] for sample in before}
    assert all(texts[address] == text for address, text, _ in after)


def test_all_world_sizes_and_numbers_of_workers_replace_alike(tmp_path: Path) -> None:
    run, path = make_run(tmp_path, write_lines)
    run.schedule(100)
    path.unlink()
    alone = [batch["sample"] for batch in make_loader(run, batch_size=8, tokenizer=None, on_error="skip")]
    num_rows = len(replaced(run))
    workers = make_loader(run, batch_size=8, tokenizer=None, on_error="skip", num_workers=2)
    assert [batch["sample"] for batch in workers] == alone
    ranks = [delivered(run, rank=rank, world_size=4) for rank in range(4)]
    turns = [sample[0] for turn in zip(*ranks, strict=False) for sample in turn]
    flat = [tuple(address) for batch in alone for address in batch]
    assert turns == flat[: len(turns)]
    assert Counter(sample[0] for rank in ranks for sample in rank) == Counter(flat)
    assert len(replaced(run)) == num_rows  # what is written down already is not written again


def test_a_resumed_run_keeps_to_what_was_replaced_though_the_file_is_back(tmp_path: Path) -> None:
    run, path = make_run(tmp_path, write_lines)
    content, status = path.read_bytes(), path.stat()
    path.unlink()
    whole = delivered(run)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert delivered(run) == whole
    dataset = SampleDataset(run, on_error="skip")
    first = [sample["sample"] for sample in islice(dataset, 61)]
    resumed = SampleDataset(run, on_error="skip")
    resumed.load_state_dict(dataset.state_dict())
    assert [*first, *(sample["sample"] for sample in resumed)] == [sample[0] for sample in whole]
    assert len(list(SampleDataset(run))) == len(whole)


def test_a_file_that_goes_while_the_run_is_read_is_replaced_from_there_on(tmp_path: Path) -> None:
    run, path = make_run(tmp_path, write_lines, chunk_size=16)
    samples = iter(SampleDataset(run, on_error="skip"))
    first = [next(samples) for _ in range(40)]
    path.unlink()
    rest = list(samples)
    assert any(sample["sample"][1] == 1 for sample in first)
    assert len(first) + len(rest) == NUM_FILES * ROWS_PER_FILE
    assert {row["file_id"] for row in replaced(run)} == {1}


def test_tokens_of_unreadable_documents_are_replaced_too(tmp_path: Path) -> None:
    run, path = make_run(tmp_path, write_parquet)
    garble_row_group(path)
    sequences = list(TokenDataset(run, sequence_length=64, on_error="skip"))
    bad = {(row["registration"], row["file_id"], row["row"]) for row in replaced(run)}
    assert len(bad) == 20
    assert not any(address in bad for sequence in sequences for address in sequence.documents)


def start_with_a_rare_component(folder: Path) -> tuple[Run, Path]:
    """Return a run of which every chunk has one sample of a component, and the file in which all of these are."""
    data = folder / "data"
    data.mkdir()
    for name, num in (("often", 120), ("rare", 12)):
        lines = [json.dumps({"text": f"{name}-{row}", "kind": name}) for row in range(num)]
        (data / f"{name}.jsonl").write_text("\n".join(lines))
    catalog = Catalog.create(str(folder / "lake"))
    catalog.register("pages", str(data), properties={"kind": "kind"})
    weights = {"often": 10 / 11, "rare": 1 / 11}
    components = {kind: {"where": f"kind = '{kind}'", "weight": weight} for kind, weight in weights.items()}
    run = Run.start(catalog, "run", {"components": components}, chunk_size=11, lanes=4)
    return run, data / "rare.jsonl"


@pytest.mark.parametrize("row", range(0, 12, 3))
def test_the_only_sample_of_a_component_in_a_chunk_is_replaced_out_of_another_chunk(tmp_path: Path, row: int) -> None:
    run, path = start_with_a_rare_component(tmp_path)
    text = f'{{"text": "rare-{row}"'.encode()
    content = path.read_bytes()
    quietly(path, content.replace(text, b"[" + text[1:]))
    alone = delivered(run)
    assert Counter(component for _, _, component in alone) == {"often": 120, "rare": 12}
    assert f"rare-{row}" not in {text for _, text, _ in alone}
    (found,) = replaced(run)
    by = (found["by_registration"], found["by_file_id"], found["by_row"])
    assert Counter(address for address, _, _ in alone)[by] == 2
    lines = make_loader(run, batch_size=11, tokenizer=None, on_error="skip", num_workers=2)
    assert [tuple(address) for batch in lines for address in batch["sample"]] == [address for address, _, _ in alone]
    ranks = [delivered(run, rank=rank, world_size=4) for rank in range(4)]
    assert Counter(sample for rank in ranks for sample in rank) == Counter(alone)
    quietly(path, content)
    dataset = SampleDataset(run, on_error="skip")
    first = [sample["sample"] for sample in islice(dataset, 40)]
    resumed = SampleDataset(run, on_error="skip")
    resumed.load_state_dict(dataset.state_dict())
    assert [*first, *(sample["sample"] for sample in resumed)] == [address for address, _, _ in alone]


def test_a_component_whose_only_file_is_gone_ends_the_run_whatever_else_there_is(tmp_path: Path) -> None:
    run, path = start_with_a_rare_component(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"chunk \d: nothing of component 'rare' can take the place .* is gone.* fork"):
        delivered(run)
    workers = make_loader(run, batch_size=4, tokenizer=None, on_error="skip", num_workers=2)
    with pytest.raises(DataError, match=r"chunk \d: nothing of component 'rare' can take the place .* is gone.* fork"):
        list(workers)


def test_a_component_of_which_nothing_can_be_read_ends_the_run(tmp_path: Path) -> None:
    run, path = make_run(tmp_path, write_lines)
    for other in path.parent.iterdir():
        other.unlink()
    with pytest.raises(DataError, match=r"chunk \d: nothing of component '[ab]' can take the place of .* gone"):
        delivered(run)


def test_an_unknown_policy_is_refused(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path, write_lines)
    with pytest.raises(ConfigError, match="on_error is 'ignore'; allowed: raise, skip"):
        SampleDataset(run, on_error="ignore")
