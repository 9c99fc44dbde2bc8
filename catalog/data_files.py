"""Opening the files that a lake's samples lie in."""

from __future__ import annotations

from io import FileIO

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
