"""From folders and globs to the files they stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import PurePath

from mixlake.catalog.errors import ConfigError
from mixlake.catalog.formats import Format, get_format, infer_format, known_suffixes
from mixlake.catalog.records import DataFile

_WILDCARD = re.compile(r"[*?\[]")


def find_files(
    uris: Sequence[str], *, format_name: str | None, exclude: Sequence[str] = (), lake: str | None = None
) -> tuple[Format, list[DataFile]]:
    """Return the format and the files that folders, globs and paths stand for, sorted by path.

    A folder stands for the files below it, hidden ones excepted, whose names end as the format's do (all of them with
    ``files``); a glob or a path for exactly what it matches. ``**`` in a glob crosses folders. ``exclude`` holds glob
    patterns for relative paths, where ``*`` crosses folders too. What lies in the folder ``lake`` is left out.

    Raises:
        ConfigError: a pattern matches nothing, a name is not UTF-8, or the format cannot be inferred.
    """
    if not uris:
        raise ConfigError("no files: expected at least one folder, glob or path")
    listed: dict[str, DataFile] = {}
    in_folder: set[str] = set()
    for uri in map(os.path.expanduser, uris):
        found = [file for file in _expand(uri) if not _is_excluded(file.path, exclude) and not _is_in(file, lake)]
        if not found:
            excluded = f" that is not excluded by {list(exclude)}" if exclude else ""
            raise ConfigError(f"{uri!r} matches no file{excluded} (looked in {os.path.abspath(_root(uri))})")
        listed.update({file.uri: file for file in found})
        if os.path.isdir(uri):
            in_folder.update(file.uri for file in found)
    files = sorted(listed.values(), key=lambda file: (file.path, file.uri))
    for file in files:
        if not _is_utf8(file.uri):
            raise ConfigError(f"{file.uri!r} is not a UTF-8 name; rename the file or exclude it")
    if format_name is None:
        known = [f for f in files if f.uri not in in_folder or f.path.lower().endswith(known_suffixes())]
        data_format = infer_format(known or files)
    else:
        data_format = get_format(format_name)
    if data_format.suffixes:
        chosen = [f for f in files if f.uri not in in_folder or f.path.lower().endswith(data_format.suffixes)]
        if not chosen:
            endings = ", ".join(data_format.suffixes)
            raise ConfigError(f"{list(uris)} holds {len(files)} files, but none that ends in {endings}")
        files = chosen
    return data_format, files


def _root(uri: str) -> str:
    """Return the folder in front of the first wildcard."""
    match = _WILDCARD.search(uri)
    return os.path.dirname(uri[: match.start()] if match else uri) or "."


def _expand(uri: str) -> Iterator[DataFile]:
    if os.path.isdir(uri):
        for folder, folders, names in os.walk(uri):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in names:
                if not name.startswith("."):
                    yield from _describe(os.path.join(folder, name), uri)
    elif os.path.exists(uri):
        yield from _describe(uri, os.path.dirname(uri) or ".")
    else:
        for path in glob.iglob(uri, recursive=True):
            yield from _describe(path, _root(uri))


def _describe(path: str, root: str) -> Iterator[DataFile]:
    if not os.path.isfile(path):
        return
    status = os.stat(path)
    yield DataFile(
        uri=os.path.abspath(path),
        path=PurePath(os.path.relpath(path, root)).as_posix(),
        num_bytes=status.st_size,
        modified_us=status.st_mtime_ns // 1000,
    )


def _is_excluded(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path, pattern) or fnmatch(f"/{path}", pattern) for pattern in patterns)


def _is_in(file: DataFile, folder: str | None) -> bool:
    return folder is not None and file.uri.startswith(folder.rstrip(os.sep) + os.sep)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # how Python shows bytes of a name that are no text
        return False
    return True
