"""Opening the files that a lake's samples lie in."""

from __future__ import annotations

import os
from io import FileIO

import pyarrow as pa

from mixlake.catalog.errors import DataError
from mixlake.catalog.records import DataFile


def open_file(file: DataFile) -> FileIO:
    """Open a file for unbuffered reading.

    Raises:
        DataError: it is not there any more, or may not be read.
    """
    try:
        return open(file.uri, "rb", buffering=0)
    except OSError as error:
        raise DataError(f"{file.uri}: cannot be read ({error.strerror})") from error


def mapped(uri: str) -> memoryview:
    """Map a file into memory; the mapping lasts while it is in use, and keeps no file open.

    Raises:
        DataError: it is not there, or may not be read.
    """
    try:
        with pa.memory_map(uri) as source:
            return memoryview(source.read_buffer())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise DataError(f"{uri}: cannot be read ({reason})") from error


def check_unchanged(file: DataFile, dataset: str, registration: str) -> None:
    """Refuse a file that is not the one that was registered.

    Raises:
        DataError: it is gone, cannot be looked at, or has another size or modification time.
    """
    try:
        status = os.stat(file.uri)
    except FileNotFoundError:
        raise DataError(f"{file.uri} of dataset {dataset!r} is gone; it was there when it was registered") from None
    except OSError as error:
        raise DataError(f"{file.uri} of dataset {dataset!r} cannot be read ({error.strerror})") from error
    if status.st_size != file.num_bytes:
        what = f"has {status.st_size} bytes, and had {file.num_bytes}"
    elif status.st_mtime_ns // 1000 != file.modified_us:
        what = "was modified"
    else:
        return
    raise DataError(
        f"{file.uri} of dataset {dataset!r} {what} since it was registered ({registration}); "
        "restore it, or refresh the dataset"
    )
