"""Which files folders, globs and paths stand for, and under which format."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed
from mixlake.catalog.formats import formats
from mixlake.catalog.listing import find_files


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def found(*uris: str | Path, format_name: str | None = "files", **options: Any) -> list[str]:
    _, files = find_files([str(uri) for uri in uris], format_name=format_name, **options)
    return [file.path for file in files]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def test_a_folder_stands_for_all_files_below_it_sorted_by_path(tmp_path: Path) -> None:
    tree(tmp_path, "b.txt", "a/z.txt", "a/b/c.txt", "a.txt")
    assert found(tmp_path) == ["a.txt", "a/b/c.txt", "a/z.txt", "b.txt"]
    assert found(f"{tmp_path}/") == found(tmp_path)


def test_a_file_is_described_by_where_it_lies_how_long_it_is_and_when_it_was_changed(tmp_path: Path) -> None:
    tree(tmp_path, "sub/a.txt")
    os.utime(tmp_path / "sub" / "a.txt", ns=(0, 1_234_567_891))
    _, (file,) = find_files([str(tmp_path)], format_name="files")
    assert (file.uri, file.path, file.num_bytes, file.modified_us) == (
        str(tmp_path / "sub" / "a.txt"),
        "sub/a.txt",
        len("sub/a.txt"),
        1_234_567,
    )


def test_a_path_stands_for_its_file_and_is_relative_to_the_folder_it_is_in(tmp_path: Path) -> None:
    tree(tmp_path, "sub/a.jsonl")
    assert found(tmp_path / "sub" / "a.jsonl", format_name=None) == ["a.jsonl"]


def test_a_relative_path_and_a_path_from_home_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "data/a.jsonl", "data/notes.md")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri in ("data", "~/data", "./data/../data", "data/*.jsonl", "~/data/*.jsonl"):
        _, (file,) = find_files([uri], format_name=None)
        assert (file.uri, file.path) == (str(tmp_path / "data" / "a.jsonl"), "a.jsonl")


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "x/b.txt", "x/y/c.txt"]),
        ("x/**/*.txt", ["b.txt", "y/c.txt"]),
        ("x/**", ["b.txt", "y/c.txt"]),
        ("*/b.txt", ["x/b.txt"]),
        ("[ax].txt", ["a.txt"]),
        ("x/?.txt", ["b.txt"]),
    ],
)
def test_a_glob_stands_for_what_it_matches_relative_to_the_folder_in_front_of_it(
    tmp_path: Path, pattern: str, paths: list[str]
) -> None:
    tree(tmp_path, "a.txt", "x/b.txt", "x/y/c.txt", "x/y/d.md")
    assert found(tmp_path / pattern, exclude=["*.md"]) == paths


def test_a_list_is_the_union_without_repeats(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "x/b.txt", "x/c.txt")
    assert found(tmp_path / "x", tmp_path / "*.txt", tmp_path / "x" / "b.txt") == ["a.txt", "b.txt", "c.txt"]


def test_names_with_spaces_brackets_percent_signs_and_other_scripts_are_found(tmp_path: Path) -> None:
    names = ["a b.txt", "c[1].txt", "d%20e.txt", "größe/雪.txt", "x*y.txt"]
    tree(tmp_path, *names)
    assert found(tmp_path) == sorted(names)
    assert [found(tmp_path / name) for name in names] == [[name.rsplit("/", 1)[-1]] for name in names]


def test_hidden_files_and_folders_are_left_out_of_a_folder_and_a_glob_but_not_as_a_path(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", ".hidden.txt", ".git/b.txt", "x/.c.txt")
    assert found(tmp_path) == ["a.txt"]
    assert found(tmp_path / "**" / "*.txt") == ["a.txt"]
    assert found(tmp_path / ".hidden.txt") == [".hidden.txt"]
    assert found(tmp_path / ".git") == ["b.txt"]


def test_linked_folders_are_followed_and_none_is_listed_twice(tmp_path: Path) -> None:
    for name in ("data/2026-10", "data/2026-11", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a b ü.txt").write_text(name)
    (tmp_path / "data" / "a-latest").symlink_to("2026-11")
    (tmp_path / "data" / "2026-10" / "up").symlink_to("..")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "gone").symlink_to(tmp_path / "nowhere")
    found = find_files([str(tmp_path / "data")], format_name="files")[1]
    assert [file.path for file in found] == ["2026-10/a b ü.txt", "2026-11/a b ü.txt", "more/a b ü.txt"]
    assert [Path(file.uri).read_text() for file in found] == ["data/2026-10", "data/2026-11", "elsewhere"]


def test_a_symlinked_file_is_found_under_its_own_name(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/real.txt", "data/a.txt")
    (tmp_path / "data" / "link.txt").symlink_to(tmp_path / "elsewhere" / "real.txt")
    _, files = find_files([str(tmp_path / "data")], format_name="files")
    assert [(file.path, file.num_bytes) for file in files] == [("a.txt", 10), ("link.txt", 18)]
    assert files[1].uri == str(tmp_path / "data" / "link.txt")


@pytest.mark.parametrize(
    ("exclude", "paths"),
    [
        (["*.md"], ["a.txt", "x/b.txt", "x/y/c.txt"]),
        (["x/*"], ["a.txt", "d.md"]),
        (["*/y/*"], ["a.txt", "d.md", "x/b.txt"]),
        (["*/x/*"], ["a.txt", "d.md"]),
        (["a.txt", "?.md"], ["x/b.txt", "x/y/c.txt"]),
        (["b.txt"], ["a.txt", "d.md", "x/b.txt", "x/y/c.txt"]),
    ],
)
def test_exclude_patterns_are_matched_with_the_whole_relative_path(
    tmp_path: Path, exclude: list[str], paths: list[str]
) -> None:
    tree(tmp_path, "a.txt", "d.md", "x/b.txt", "x/y/c.txt")
    assert found(tmp_path, exclude=exclude) == paths


def test_the_files_of_the_lake_itself_are_left_out(tmp_path: Path) -> None:
    tree(tmp_path, "a.json", "lake/datasets/_delta_log/0.json", "lake2/b.json")
    lake = str(tmp_path / "lake")
    assert found(tmp_path, format_name=None, lake=lake) == ["a.json", "lake2/b.json"]
    assert found(tmp_path / "**" / "*.json", format_name=None, lake=lake) == ["a.json", "lake2/b.json"]


def test_the_format_of_a_folder_is_inferred_from_the_names_it_knows(tmp_path: Path) -> None:
    tree(tmp_path, "a.JSONL", "b.ndjson", "c.json", "README.md", "LICENSE")
    data_format, files = find_files([str(tmp_path)], format_name=None)
    assert data_format.name == "jsonl"
    assert [file.path for file in files] == ["a.JSONL", "b.ndjson", "c.json"]


def test_a_format_that_is_given_takes_the_files_of_a_folder_that_end_as_it_does(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "b.parquet", "c.txt")
    assert found(tmp_path, format_name="jsonl") == ["a.jsonl"]
    assert found(tmp_path, format_name="parquet") == ["b.parquet"]
    assert found(tmp_path, format_name="files") == ["a.jsonl", "b.parquet", "c.txt"]


def test_a_format_that_is_given_takes_whatever_a_glob_or_path_names(tmp_path: Path) -> None:
    tree(tmp_path, "a.log", "b.log")
    assert found(tmp_path / "*.log", format_name="jsonl") == ["a.log", "b.log"]
    assert found(tmp_path / "b.log", format_name="jsonl") == ["b.log"]


def test_names_that_say_two_formats_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "b.parquet", "c.txt")
    message = (
        "cannot infer one format from 2 files: their names say jsonl, parquet; "
        f"pass format=, one of: {listed(formats())}"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        find_files([str(tmp_path)], format_name=None)


def test_names_that_say_no_format_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.md")
    message = (
        "cannot infer one format from 2 files (such as 'a.txt'): their names say none; "
        f"pass format=, one of: {listed(formats())}"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        find_files([str(tmp_path)], format_name=None)


def test_a_glob_that_also_matches_unknown_names_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.jsonl", "b.md")
    message = (
        "cannot infer one format from 2 files (such as 'b.md'): their names say jsonl and others; "
        f"pass format=, one of: {listed(formats())}"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        find_files([str(tmp_path / "*")], format_name=None)


def test_a_folder_without_a_file_of_the_format_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt")
    message = f"['{tmp_path}'] holds 2 files, but none that ends in .parquet, .pq"
    with pytest.raises(ConfigError, match=exactly(message)):
        find_files([str(tmp_path)], format_name="parquet")


@pytest.mark.parametrize(("pattern", "root"), [("nothing.txt", ""), ("sub/*.txt", "/sub"), ("sub", "")])
def test_what_matches_no_file_is_refused_with_the_place_looked_in(tmp_path: Path, pattern: str, root: str) -> None:
    tree(tmp_path, "a.txt")
    uri = f"{tmp_path}/{pattern}"
    with pytest.raises(ConfigError, match=exactly(f"{uri!r} matches no file (looked in {tmp_path}{root})")):
        find_files([f"{tmp_path}/a.txt", uri], format_name="files")


def test_a_folder_of_which_all_is_excluded_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "sub/a.txt")
    uri = f"{tmp_path}/sub/*"
    message = f"{uri!r} matches no file that is not excluded by ['*.txt'] (looked in {tmp_path}/sub)"
    with pytest.raises(ConfigError, match=exactly(message)):
        find_files([uri], format_name="files", exclude=["*.txt"])


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ConfigError, match=exactly("no files: expected at least one folder, glob or path")):
        find_files([], format_name="jsonl")


def test_a_name_that_is_no_text_is_refused_unless_it_is_excluded(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt")
    name = os.path.join(os.fsencode(tmp_path), b"odd\xff.txt")
    with open(name, "wb"):
        pass
    message = f"{os.fsdecode(name)!r} is not a UTF-8 name; rename the file or exclude it"
    with pytest.raises(ConfigError, match=exactly(message)):
        find_files([str(tmp_path)], format_name="files")
    assert found(tmp_path, exclude=["odd*"]) == ["a.txt"]
