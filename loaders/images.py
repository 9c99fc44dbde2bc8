"""Images decoded with Pillow, which is an extra: ``pip install 'mixlake[images]'``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from mixlake.catalog import ConfigError, DataError, DataFile
from mixlake.catalog.columns import WHOLE, Columns
from mixlake.catalog.spans import Spans

_EXTENSIONS = frozenset(["bmp", "gif", "jpeg", "jpg", "png", "ppm", "pgm", "pbm", "tif", "tiff", "webp"])


class Images:
    """Decodes the image fields of samples.

    A field holds the bytes of an image file, or an object whose ``bytes`` does, as in Hugging Face's Parquet files.
    """

    expansion = 10
    """How much larger an image is decoded, about: groups of samples are made smaller by it."""

    def __init__(self, names: Sequence[str] | bool) -> None:
        """Choose the fields.

        Args:
            names: the fields; True for those whose names end like image files: ``jpg``, ``seg.png``.

        Raises:
            ConfigError: Pillow is not installed.
        """
        self._names = None if isinstance(names, bool) else frozenset(names)
        try:
            from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  (an extra)
        except ImportError as error:
            raise ConfigError("images= needs Pillow: pip install 'mixlake[images]'") from error
        self._open = Image.open
        self._errors = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)

    def decode(self, columns: Columns, file: DataFile, spans: Spans) -> None:
        """Put images in the place of their bytes.

        Raises:
            DataError: one cannot be decoded.
        """
        rows = spans.rows.tolist()
        for path, column in columns.items():
            if path == WHOLE:
                for row, record in zip(rows, column, strict=True):
                    for name in filter(self._is_image, record):
                        record[name] = self._decoded(record[name], f"{file.uri}, row {row}: field {name!r}")
            elif self._is_image(".".join(path)):
                place = f"{{}}: field {'.'.join(path)!r}"
                column[:] = [
                    self._decoded(value, place.format(f"{file.uri}, row {row}"))
                    for row, value in zip(rows, column, strict=True)
                ]

    def _is_image(self, name: str) -> bool:
        return name.rpartition(".")[2].lower() in _EXTENSIONS if self._names is None else name in self._names

    def _decoded(self, value: Any, place: str) -> Any:
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if content is None:
            return None
        if not isinstance(content, bytes):
            raise DataError(f"{place} is {type(value).__name__}, expected the bytes of an image")
        try:
            image = self._open(io.BytesIO(content))
            image.load()
        except self._errors as error:
            raise DataError(f"{place} cannot be decoded as an image ({error})") from error
        return image
