"""The text that is on every machine: the standard library and the installed packages."""

from __future__ import annotations

import sysconfig
from functools import cache
from importlib.metadata import Distribution, distributions, packages_distributions

import pyarrow as pa

from mixlake.catalog import BatchFunction, Catalog
from mixlake.catalog.records import Progress

_SOURCE = "('py', 'h', 'hpp', 'hh', 'cuh', 'c', 'cc', 'cpp', 'cu', 'pyx', 'pxd')"
_KIND = f"""CASE
    WHEN path LIKE '%/licenses/%' OR regexp_like(name, '^(LICEN[CS]E|COPYING|NOTICE|AUTHORS)', 'i') THEN 'licence'
    WHEN name = 'METADATA' OR extension IN ('md', 'rst', 'txt') THEN 'prose'
    WHEN extension = 'pyi' THEN 'stub'
    WHEN extension IN {_SOURCE} THEN 'source'
END"""
_EXCLUDE = ["*/__pycache__/*", "__pycache__/*", "site-packages/*", "*.dist-info/RECORD", "*.dist-info/direct_url.json"]


def register_installed_text(catalog: Catalog, progress: Progress | None = None) -> list[str]:
    """Register the standard library and the installed packages in place; return the datasets' names.

    They are registered anew each time: packages may have come or gone.
    """
    datasets: dict[str, tuple[str, dict[str, str | BatchFunction]]] = {
        "stdlib": (sysconfig.get_path("stdlib"), {"package": "'python'", "license": "'PSF-2.0'"}),
        "packages": (
            sysconfig.get_path("purelib"),
            {
                "package": BatchFunction(function=package_of, fields=("path",)),
                "license": BatchFunction(function=license_of, fields=("path",)),
            },
        ),
    }
    for name, (folder, properties) in datasets.items():
        catalog.register(
            name,
            folder,
            format="files",
            properties={"extension": "extension", "kind": _KIND, "num_bytes": "num_bytes", **properties},
            exclude=_EXCLUDE,
            options={"encoding_errors": "surrogateescape"},
            replace=True,
            progress=progress,
        )
    return list(datasets)


def package_of(records: pa.RecordBatch) -> pa.Array:
    """Return the distribution that each path in the packages' folder belongs to, or null."""
    return pa.array([_owner(path) for path in records["path"].to_pylist()], pa.string())


def license_of(records: pa.RecordBatch) -> pa.Array:
    """Return the licence that the metadata of each path's distribution names, or null."""
    return pa.array([_licenses().get(_owner(path) or "") for path in records["path"].to_pylist()], pa.string())


def _owner(path: str) -> str | None:
    top = path.split("/", 1)[0]
    if top.endswith(".dist-info"):  # NAME-VERSION.dist-info
        return _normalized(top.split("-", 1)[0])
    return _owners().get(top.removesuffix(".py").removesuffix(".pyi"))


def _normalized(name: str) -> str:
    return name.replace("_", "-").lower()


@cache
def _owners() -> dict[str, str]:
    return {top: _normalized(sorted(names)[0]) for top, names in packages_distributions().items()}


@cache
def _licenses() -> dict[str, str | None]:
    return {_normalized(str(d.metadata["Name"])): _license(d) for d in distributions()}


def _license(distribution: Distribution) -> str | None:
    metadata = distribution.metadata
    if expressions := metadata.get_all("License-Expression"):
        return str(expressions[0])
    for classifier in metadata.get_all("Classifier") or []:
        if classifier.startswith("License :: "):
            return str(classifier.rsplit(" :: ", 1)[-1])
    texts = metadata.get_all("License") or [""]
    return str(texts[0]).strip().split("\n")[0][:60] or None
