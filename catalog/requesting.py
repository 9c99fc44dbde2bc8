"""Checks what somebody wants to register, as far as that can be done without reading the files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mixlake.catalog.declaring import PropertySource, declare
from mixlake.catalog.errors import ConfigError, LakeError
from mixlake.catalog.fields import is_path
from mixlake.catalog.formats import check_options
from mixlake.catalog.inferring import propose
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import checked_on_error
from mixlake.catalog.records import Dataset
from mixlake.catalog.registration import Registration

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_name(name: str, version: int, taken: Sequence[Dataset]) -> None:
    """Refuse what cannot be the name of a new dataset.

    Raises:
        ConfigError: it is not a name.
        LakeError: a dataset has it.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"dataset name {name!r}: expected letters, digits, '_', '-' and '.'")
    if any(dataset.name == name for dataset in taken):
        raise LakeError(f"dataset {name!r} is registered already (datasets@{version}); pass replace=True to replace it")


def request_registration(
    name: str,
    uris: str | Sequence[str],
    *,
    lake: str,
    format_name: str | None,
    text: str | None,
    properties: Mapping[str, PropertySource] | str,
    exclude: Sequence[str],
    options: Mapping[str, Any],
    on_error: str,
) -> Registration:
    """Return the registration of files, which are listed; the arguments are those of `Catalog.register`.

    Raises:
        ConfigError: a path, option or property is wrong, or there is no such file.
        DataError: properties are to be inferred, and a file cannot be read.
    """
    if text is not None and not is_path(text):
        raise ConfigError(f"text={text!r}: expected a field, such as text or meta.body")
    if isinstance(properties, str) and properties != "infer":
        raise ConfigError(f"properties={properties!r}: expected names and expressions, or 'infer'")
    listed_uris = (uris,) if isinstance(uris, str) else tuple(uris)
    data_format, files = find_files(listed_uris, format_name=format_name, exclude=exclude, lake=lake)
    check_options(data_format, options)
    content = data_format.content if text is None else text
    infer = partial(propose, data_format, files, text=content, options=options)
    return Registration(
        dataset=name,
        uris=tuple(os.path.abspath(os.path.expanduser(uri)) for uri in listed_uris),
        format=data_format,
        options=dict(options),
        exclude=tuple(exclude),
        text=content,
        declared=tuple(declare(infer().properties if isinstance(properties, str) else properties)),
        files=tuple(files),
        on_error=checked_on_error(on_error),
    )
