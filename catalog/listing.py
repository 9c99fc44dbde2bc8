"""From folders and globs to the files they stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import translate

from mixlake.catalog.compression import compression_of
from mixlake.catalog.errors import ConfigError
from mixlake.catalog.formats import Format, get_format, infer_format, is_companion, known_suffixes
from mixlake.catalog.records import DataFile

_WILDCARD = re.compile(r"[*?\[]")


def find_files(
    uris: Sequence[str],
    *,
    format_name: str | None,
    exclude: Sequence[str] = (),
    lake: str | None = None,
    all_must_match: bool = True,
) -> tuple[Format, list[DataFile]]:
    """Return the format and the files that folders, globs and paths stand for, sorted by path.

    A folder stands for the files below it, links followed and hidden ones excepted, whose names end as the format's
    do (all of them with ``files``); a glob or a path for exactly what it matches. ``**`` in a glob crosses folders.
    ``exclude`` holds glob patterns for relative paths, where ``*`` crosses folders too. What lies in the folder
    ``lake`` is left out. Unless ``all_must_match``, it is enough that one of them stands for a file.

    Raises:
        ConfigError: a pattern matches nothing, a name is not UTF-8, or the format cannot be inferred.
    """
    if not uris:
        raise ConfigError("no files: expected at least one folder, glob or path")
    listed: dict[str, DataFile] = {}
    in_folder: set[str] = set()
    is_excluded = _matcher(exclude)
    for uri in map(os.path.expanduser, uris):
        found = list(_expand(uri, is_excluded, lake))
        if not found and all_must_match:
            excluded = f" that is not excluded by {list(exclude)}" if exclude else ""
            raise ConfigError(f"{uri!r} matches no file{excluded} (looked in {os.path.abspath(_root(uri))})")
        listed.update({file.uri: file for file in found})
        if os.path.isdir(uri):
            in_folder.update(file.uri for file in found)
    if not listed:
        raise ConfigError(f"{list(uris)} match no file any more")
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
        chosen = [f for f in chosen if not is_companion(f, data_format)]
        if not chosen:
            endings = ", ".join(data_format.suffixes)
            raise ConfigError(f"{list(uris)} holds {len(files)} files, but none that ends in {endings}")
        files = chosen
    return data_format, files


def _root(uri: str) -> str:
    """Return the folder in front of the first wildcard."""
    match = _WILDCARD.search(uri)
    return os.path.dirname(uri[: match.start()] if match else uri) or "."


def _expand(uri: str, is_excluded: Callable[[str], bool], lake: str | None) -> Iterator[DataFile]:
    if os.path.isdir(uri):
        found, root = _walk(uri, "", is_excluded, lake, set()), uri
    elif os.path.exists(uri):
        found, root = iter([os.path.basename(uri)]), os.path.dirname(uri)
    else:
        root = _root(uri)
        found = (os.path.relpath(path, root) for path in glob.iglob(uri, recursive=True) if os.path.isfile(path))
    absolute_root = os.path.abspath(root)
    for path in found:
        relative = path.replace(os.sep, "/")
        absolute = os.path.normpath(os.path.join(absolute_root, path))
        if is_excluded(relative) or (lake is not None and absolute.startswith(lake.rstrip(os.sep) + os.sep)):
            continue
        status = os.stat(absolute)
        yield DataFile(
            uri=absolute,
            path=relative,
            num_bytes=status.st_size,
            modified_us=status.st_mtime_ns // 1000,
            compression=compression_of(relative),
        )


def _walk(
    root: str, below: str, is_excluded: Callable[[str], bool], lake: str | None, seen: set[tuple[int, int]]
) -> Iterator[str]:
    """Yield relative paths of the files under a folder, without looking into folders that are left out as a whole.

    Links to folders are followed after the folders that lie there, and no folder is listed twice: a link back up, or
    beside (``latest -> 2026-11``), brings no file a second time.
    """
    status = os.stat(os.path.join(root, below))
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(os.path.join(root, below)) as entries:
        found = sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: (entry.is_symlink(), entry.name),
        )
    for entry in found:
        path = f"{below}{entry.name}"
        if entry.is_dir():
            if not is_excluded(f"{path}/") and os.path.abspath(entry.path) != lake:
                yield from _walk(root, f"{path}/", is_excluded, lake, seen)
        elif entry.is_file():
            yield path


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a relative path matches a pattern; a folder, ending in ``/``, only if all that is in it does."""
    if not patterns:
        return lambda _: False
    of_files = re.compile("|".join(translate(pattern) for pattern in patterns))
    of_folders = re.compile("|".join(translate(pattern) for pattern in patterns if pattern.endswith("*")) or r"(?!)")

    def is_excluded(path: str) -> bool:
        matcher = of_folders if path.endswith("/") else of_files
        return matcher.match(path) is not None or matcher.match(f"/{path}") is not None

    return is_excluded


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # how Python shows bytes of a name that are no text
        return False
    return True
