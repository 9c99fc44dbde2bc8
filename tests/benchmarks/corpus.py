"""Real documents in many languages, as JSON lines: Debian's manual pages and handbooks, and installed Python packages.

The Debian packages are downloaded with apt-get, unpacked and left uninstalled; where there is no apt-get, the documents
are those of the Python installation alone.
"""

import gzip
import os
import random
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import orjson

_PACKAGES = """
    manpages-de manpages-es manpages-fr manpages-it manpages-ja manpages-pl manpages-pt-br manpages-ru manpages-uk
    manpages-zh aptitude-doc-fr aptitude-doc-ja aptitude-doc-ru debian-faq-ja debian-faq-ru debian-handbook
    debian-reference-de debian-reference-es debian-reference-fr debian-reference-it debian-reference-ja
    debian-reference-pt debian-reference-zh-cn developers-reference-de developers-reference-ja developers-reference-ru
""".split()  # noqa: SIM905  (a list of strings would fill the screen)
_TEXT = (".html", ".txt", ".md", ".rst", ".py", ".pyi", ".h", ".1", ".2", ".3", ".4", ".5", ".6", ".7", ".8")


def write_documents(path: Path, *, max_bytes: int) -> int:
    """Write documents of some kilobytes each as JSON lines; return their number.

    A record is ``{"id": …, "text": …, "meta": {"language": …, "source": …}}``. Documents are repeated where there are
    not enough of them.
    """
    folders = {"debian": _debian(path.parent), "python": Path(sysconfig.get_path("purelib"))}
    files = [(source, found) for source, folder in folders.items() for found in _files(folder)]
    random.Random(0).shuffle(files)  # so that the first megabytes are in many languages too
    num = 0
    with path.open("wb") as target:
        while target.tell() < max_bytes:
            begun_at = target.tell()
            for source, file in files:
                for language, text in _texts(file):
                    record = {"id": num, "text": text, "meta": {"language": language, "source": source}}
                    target.write(orjson.dumps(record) + b"\n")
                    num += 1
                    if target.tell() > max_bytes:
                        return num
            assert target.tell() > begun_at, f"no text in {folders}"
    return num


def _debian(folder: Path) -> Path:
    unpacked = folder / "debian"
    if which("apt-get") is None or unpacked.exists():
        return unpacked
    packages = folder / "packages"
    packages.mkdir()
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "download", "-qq", *_PACKAGES], cwd=packages, check=True, stderr=subprocess.DEVNULL)
    for package in sorted(packages.iterdir()):
        subprocess.run(["dpkg", "-x", package, unpacked], check=True)
    return unpacked


def _files(folder: Path) -> list[Path]:
    paths = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    return sorted(path for path in paths if path.name.removesuffix(".gz").endswith(_TEXT) and not path.is_symlink())


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    language = path.parts[path.parts.index("man") + 1] if "man" in path.parts else path.suffix.strip(".")
    for start in range(0, len(text), 6000):
        yield language, text[start : start + 6000]
