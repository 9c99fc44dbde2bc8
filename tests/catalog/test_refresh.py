"""Refreshing: new files come, changed ones are read again, vanished ones leave, the others are not touched."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mixlake.catalog import BatchFunction, Catalog, ConfigError, DataError, LakeError, NumTokens, Quality

WriteLines = Callable[..., str]
ReadBack = Callable[[str], list[dict[str, Any]]]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def texts(catalog: Catalog) -> list[str]:
    return [row["word"] for row in catalog.sql("SELECT word FROM samples ORDER BY word").to_pylist()]


def addresses(catalog: Catalog, where: str = "true") -> list[tuple[Any, ...]]:
    query = f"SELECT registration, file_id, block, row, word FROM samples WHERE {where} ORDER BY 1, 2, 4"
    return [tuple(row.values()) for row in catalog.sql(query).to_pylist()]


def by_name(catalog: Catalog) -> dict[str, tuple[int, int]]:
    """Part and file id of every file."""
    query = "SELECT path, part, file_id FROM files JOIN datasets USING (registration)"
    return {row["path"]: (row["part"], row["file_id"]) for row in catalog.sql(query).to_pylist()}


@pytest.fixture
def write(write_lines: WriteLines) -> Callable[..., str]:
    def write_words(name: str, *words: str) -> str:
        return write_lines(name, *({"text": word} for word in words))

    return write_words


@pytest.fixture
def words(catalog: Catalog, tmp_path: Path, write: Callable[..., str]) -> Catalog:
    """A catalog with a dataset of three files: a1 a2, b1, c1."""
    write("a.jsonl", "a1", "a2")
    write("b.jsonl", "b1")
    write("c.jsonl", "c1")
    catalog.register("words", str(tmp_path / "data"), properties={"word": "text"})
    return catalog


def test_nothing_new_is_no_new_version(words: Catalog) -> None:
    done = words.refresh("words")
    assert (done.version, done.added, done.changed, done.vanished, done.num_unchanged) == (1, (), (), (), 3)
    assert str(done) == "words: 0 added, 0 changed, 0 vanished, 3 unchanged; datasets@1"
    assert words.version == 1


def test_new_files_become_one_more_part_and_the_others_are_not_read(words: Catalog, write: Callable[..., str]) -> None:
    before = addresses(words)
    for name in "abc":
        path = Path(write_path(words, name))
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)  # no JSON any more: reading it would fail
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    new = [write("d.jsonl", "d1"), write("deep/e.jsonl", "e1", "e2")]
    done = words.refresh("words")
    assert (done.version, done.added, done.num_unchanged) == (2, tuple(new), 3)
    assert addresses(words, "word < 'd'") == before
    assert texts(words) == ["a1", "a2", "b1", "c1", "d1", "e1", "e2"]
    dataset = words.dataset("words")
    assert [(part.number, part.num_files, part.num_samples) for part in dataset.parts] == [(0, 3, 4), (1, 2, 3)]
    assert (dataset.num_files, dataset.num_samples) == (5, 7)
    assert texts(words.at(version=1)) == ["a1", "a2", "b1", "c1"]


def write_path(catalog: Catalog, name: str) -> str:
    (row,) = catalog.sql(f"SELECT uri FROM files WHERE path = '{name}.jsonl'").to_pylist()
    return str(row["uri"])


def test_changed_files_are_read_again_and_vanished_ones_leave(
    words: Catalog, write: Callable[..., str], read_back: ReadBack
) -> None:
    changed, vanished = write("a.jsonl", "a1", "a2", "a3"), write_path(words, "b")
    os.remove(vanished)
    added = write("d.jsonl", "d1")
    done = words.refresh("words")
    assert (done.added, done.changed, done.vanished, done.num_unchanged) == ((added,), (changed,), (vanished,), 1)
    assert str(done).splitlines() == [
        "words: 1 added, 1 changed, 1 vanished, 1 unchanged; datasets@2",
        f"  added     {added}",
        f"  changed   {changed}",
        f"  vanished  {vanished}",
    ]
    assert texts(words) == ["a1", "a2", "a3", "c1", "d1"]
    assert by_name(words) == {"c.jsonl": (0, 2), "a.jsonl": (1, 3), "d.jsonl": (1, 4)}
    assert sorted(record["text"] for record in read_back("words")) == texts(words)
    assert texts(words.at(version=1)) == ["a1", "a2", "b1", "c1"]
    assert words.refresh("words").version == 2


def test_only_parts_that_hold_the_outdated_files_are_replaced(words: Catalog, write: Callable[..., str]) -> None:
    write("d.jsonl", "d1")
    words.refresh("words")
    first, second = words.dataset("words").registrations
    write("d.jsonl", "d2")
    words.refresh("words")
    parts = words.dataset("words").parts
    assert [part.number for part in parts] == [0, 2]
    assert parts[0].registration == first
    assert parts[1].registration != second
    os.remove(write_path(words, "b"))
    words.refresh("words")
    parts = words.dataset("words").parts
    assert [part.number for part in parts] == [0, 2]
    assert parts[0].registration != first
    assert texts(words) == ["a1", "a2", "c1", "d2"]


def test_file_ids_are_unique_within_a_dataset(words: Catalog, write: Callable[..., str]) -> None:
    for name in "def":
        write(f"{name}.jsonl", f"{name}1")
        words.refresh("words")
    query = "SELECT path, word FROM samples JOIN files USING (dataset, file_id) ORDER BY word"
    rows = words.sql(query).to_pylist()
    assert [(row["path"][0], row["word"]) for row in rows] == [(word[0], word) for word in texts(words)]
    assert len(words.dataset("words").parts) == 4


def test_a_file_with_new_content_and_the_old_size_is_noticed_by_its_time(
    words: Catalog, write: Callable[..., str]
) -> None:
    os.utime(write("b.jsonl", "b9"), ns=(0, 1_000))
    assert len(words.refresh("words").changed) == 1
    assert texts(words) == ["a1", "a2", "b9", "c1"]


def test_new_files_without_a_sample_are_known_afterwards(words: Catalog, write_lines: WriteLines) -> None:
    write_lines("d.jsonl", "  ")
    assert words.refresh("words").version == 2
    assert [(part.num_files, part.num_samples) for part in words.dataset("words").parts] == [(3, 4), (1, 0)]
    assert texts(words) == ["a1", "a2", "b1", "c1"]
    assert words.refresh("words").version == 2


def test_the_samples_of_the_last_file_may_vanish(words: Catalog, write_lines: WriteLines, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data")
    write_lines("z.jsonl", "  ")
    done = words.refresh("words")
    assert (len(done.vanished), len(done.added)) == (3, 1)
    assert texts(words) == []
    assert words.dataset("words").num_samples == 0


def test_a_dataset_without_any_file_is_not_emptied(words: Catalog, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data")
    uris = f"['{tmp_path}/data']"
    message = f"dataset 'words': {uris} match no file any more; unregister it if that is meant"
    with pytest.raises(ConfigError, match=exactly(message)):
        words.refresh("words")
    assert words.version == 1


def test_what_was_excluded_stays_excluded(catalog: Catalog, write: Callable[..., str], tmp_path: Path) -> None:
    write("a.jsonl", "a1")
    write("test/b.jsonl", "b1")
    catalog.register("words", str(tmp_path / "data"), properties={"word": "text"}, exclude=["test/*"])
    write("test/c.jsonl", "c1")
    assert catalog.refresh("words").version == 1


def test_a_dataset_is_refreshed_from_another_folder_than_it_was_registered_from(
    catalog: Catalog, write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.jsonl", "a1")
    monkeypatch.chdir(tmp_path)
    catalog.register("words", "data/*.jsonl", properties={"word": "text"})
    monkeypatch.chdir("/")
    write("b.jsonl", "b1")
    assert catalog.refresh("words").version == 2
    assert texts(catalog) == ["a1", "b1"]


def test_one_of_several_places_may_have_vanished(catalog: Catalog, write: Callable[..., str]) -> None:
    paths = [write("a.jsonl", "a1"), write("b.jsonl", "b1")]
    catalog.register("words", paths, properties={"word": "text"})
    os.remove(paths[0])
    assert catalog.refresh("words").vanished == (paths[0],)
    assert texts(catalog) == ["b1"]


def test_a_new_file_that_cannot_be_read_changes_nothing(words: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("d.jsonl", "{torn")
    before = addresses(words)
    with pytest.raises(DataError, match=re.escape(path)):
        words.refresh("words")
    assert (words.version, addresses(words)) == (1, before)


def test_what_cannot_be_read_is_left_out_of_new_files_and_written_down(words: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("d.jsonl", {"text": "d1"}, "{torn", {"text": "d3"})
    words.refresh("words", on_error="skip")
    assert texts(words) == ["a1", "a2", "b1", "c1", "d1", "d3"]
    query = "SELECT dataset, file_id, path, place FROM skipped JOIN files USING (dataset, file_id)"
    assert words.sql(query).to_pylist() == [{"dataset": "words", "file_id": 3, "path": "d.jsonl", "place": "line 2"}]
    assert json.loads(words.history().to_pylist()[0]["details"])["num_skipped"] == 1
    words.remove("word = 'd3'", reason="test")
    assert [row["uri"] for row in words.sql("SELECT uri FROM skipped").to_pylist()] == [path]
    os.remove(path)
    words.refresh("words")
    assert words.sql("SELECT * FROM skipped").to_pylist() == []


def test_a_property_that_new_files_do_not_have_is_null_there(words: Catalog, write_lines: WriteLines) -> None:
    write_lines("d.jsonl", {"body": "d1"})
    words.refresh("words")
    assert [row["word"] for row in words.sql("SELECT word FROM samples WHERE file_id = 3").to_pylist()] == [None]


def test_a_property_of_another_type_in_new_files_is_refused(words: Catalog, write_lines: WriteLines) -> None:
    write_lines("d.jsonl", {"text": 7})
    with pytest.raises(ConfigError, match="property 'word' is int64 in 'words', but string"):
        words.refresh("words")
    assert words.version == 1


def test_an_expression_means_the_same_for_new_samples(
    catalog: Catalog, tmp_path: Path, write_lines: WriteLines
) -> None:
    write_lines("a.jsonl", {"text": "x", "score": 0.5}, {"text": "x", "score": 3})
    catalog.register("scores", str(tmp_path / "data"), properties={"half": "score / 2"})
    write_lines("b.jsonl", {"text": "x", "score": 5})
    catalog.refresh("scores")
    write_lines("c.jsonl", {"text": "x", "score": None})
    catalog.refresh("scores")
    write_lines("d.jsonl", {"text": "x", "score": 7})
    catalog.refresh("scores")
    halves = [row["half"] for row in catalog.sql("SELECT half FROM samples ORDER BY file_id, row").to_pylist()]
    assert halves == [0.25, 1.5, 2.5, None, 3.5]


def test_new_samples_for_which_an_expression_would_mean_something_else_are_refused(
    catalog: Catalog, tmp_path: Path, write_lines: WriteLines
) -> None:
    write_lines("a.jsonl", {"text": "x", "meta": {"the score": 3}})
    properties = {"is_high": """meta['the score'] / 2 > 1"""}
    catalog.register("scores", str(tmp_path / "data"), properties=properties)
    write_lines("b.jsonl", {"text": "x", "meta": {"the score": 2.5}})
    message = (
        "field 'meta.the score' is double in new files of 'scores', but int64 in those before, "
        "so a property would not mean the same; register the dataset with replace=True"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.refresh("scores")
    assert catalog.version == 1
    catalog.register("scores", str(tmp_path / "data"), properties=properties, replace=True)
    assert [row["is_high"] for row in catalog.sql("SELECT is_high FROM samples").to_pylist()] == [True, True]


def test_what_was_removed_stays_out_of_what_is_new(words: Catalog, write: Callable[..., str]) -> None:
    words.remove("word LIKE '%1'", reason="ones are not wanted")
    write("b.jsonl", "b1", "b2")
    write("d.jsonl", "d1")
    done = words.refresh("words")
    assert done.version == 3
    assert texts(words) == ["a2", "b2"]
    files = words.sql("SELECT path, num_samples FROM files ORDER BY 1").to_pylist()
    assert {row["path"]: row["num_samples"] for row in files} == {
        "a.jsonl": 1,
        "b.jsonl": 1,
        "c.jsonl": 0,
        "d.jsonl": 0,
    }
    assert words.dataset("words").num_samples == 2
    assert words.refresh("words").version == 3


def test_a_removal_of_addresses_says_nothing_about_new_samples(words: Catalog, write: Callable[..., str]) -> None:
    words.remove("row = 0", reason="first lines are titles")
    write("d.jsonl", "d1", "d2")
    words.refresh("words")
    assert texts(words) == ["a2", "d1", "d2"]


def upper(batch: pa.RecordBatch) -> pa.Array:
    return pa.array([text.upper() for text in batch["text"].to_pylist()])


def lower(batch: pa.RecordBatch) -> pa.Array:
    return pa.array([text.lower() for text in batch["text"].to_pylist()])


def test_functions_of_modules_are_found_again(catalog: Catalog, write: Callable[..., str], tmp_path: Path) -> None:
    write("a.jsonl", "a1")
    properties: dict[str, Any] = {
        "word": BatchFunction(function=upper, fields=("text",)),
        "quality": Quality(signals=("num_words", "mean_word_length")),
        "num_tokens": {"expression": NumTokens(), "type": "int64", "nullable": False},
    }
    catalog.register("words", str(tmp_path / "data"), properties=properties)
    write("b.jsonl", "b1 b2")
    catalog.refresh("words")
    query = "SELECT word, quality_num_words, quality_mean_word_length, num_tokens FROM samples ORDER BY word"
    assert [tuple(row.values()) for row in catalog.sql(query).to_pylist()] == [("A1", 1, 2.0, 3), ("B1 B2", 2, 2.0, 6)]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {},
            "functions of 'words': lacks word, which {name} computed; it cannot be imported, so pass "
            "functions={'word': …}, or add the property anew by a function of a module",
        ),
        ({"size": upper}, "functions of 'words': got size, which no batch function computes"),
        (
            {"word": lower},
            "functions of 'words': property 'word' was computed by {name}, got {module}:lower "
            '{"fields": ["text"]}; add the property anew to compute it otherwise',
        ),
    ],
)
def test_functions_that_cannot_be_imported_are_given_again(
    catalog: Catalog, write: Callable[..., str], tmp_path: Path, functions: Mapping[str, Any], message: str
) -> None:
    write("a.jsonl", "a1")
    same = BatchFunction(function=lambda batch: pc.utf8_upper(batch["text"]), fields=("text",))
    catalog.register("words", str(tmp_path / "data"), properties={"word": same})
    write("b.jsonl", "b1")
    others = {name: BatchFunction(function=function, fields=("text",)) for name, function in functions.items()}
    name = catalog.dataset("words").properties[0].expression
    with pytest.raises(ConfigError, match=exactly(message.replace("{name}", name).replace("{module}", __name__))):
        catalog.refresh("words", functions=others)
    catalog.refresh("words", functions={"word": same})
    assert texts(catalog) == ["A1", "B1"]


def test_the_history_says_what_was_refreshed(words: Catalog, write: Callable[..., str]) -> None:
    write("b.jsonl", "b1", "b2", "b3")
    os.remove(write_path(words, "c"))
    words.refresh("words")
    row = words.history().to_pylist()[0]
    assert (row["action"], row["dataset"], row["num_samples"], row["change"]) == ("refresh", "words", 5, 1)
    assert json.loads(row["details"]) == {"added": 0, "changed": 1, "vanished": 1}


def test_refreshing_what_is_not_there_or_pinned_is_refused(words: Catalog) -> None:
    with pytest.raises(LakeError, match=r"no dataset 'word' in datasets@1; there are: words\. Did you mean 'words'\?"):
        words.refresh("word")
    with pytest.raises(LakeError, match=exactly("catalog@1 is read-only; refresh through Catalog.open")):
        words.at(version=1).refresh("words")


def test_another_process_that_changes_the_dataset_meanwhile_wins(words: Catalog, write: Callable[..., str]) -> None:
    write("d.jsonl", "d1")
    other = Catalog.open(words.lake.uri)

    def refresh_first(*_: object) -> None:
        if other.version == 1:
            other.refresh("words")

    with pytest.raises(LakeError, match=r"^datasets@2: another process did refresh first \(dataset:words\)$"):
        words.refresh("words", progress=refresh_first)
    assert texts(words) == ["a1", "a2", "b1", "c1", "d1"]
