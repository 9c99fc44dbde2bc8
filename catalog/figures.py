"""What all plots share: matplotlib, which is an extra, colours that everybody can tell apart, and axes with units."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixlake.catalog.errors import ConfigError, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#832db6",
    "#94a4a2",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
"""Ten colours that people with any kind of colour vision can tell apart (Petroff 2021, arXiv 2107.02270)."""
GREY = "#5a5a5a"
LIGHT_GREY = "#c4c4c4"
_LINES = ("-", "--", ":", "-.")
"""The first ten names have solid lines, the next ten dashed ones of the same colours, and so on."""
_FORMATS = ("png", "svg", "pdf")
_TEXT, _TITLE = 9, 11
_SETTINGS: Any = {"font.size": _TEXT, "svg.fonttype": "none", "svg.hashsalt": "mixlake"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plot:
    """A plot: shown by notebooks, written by `save`; ``figure`` is matplotlib's own, for who wants to change it."""

    figure: Figure

    def save(self, path: str | Path) -> Path:
        """Write it to a file, in the format that its name ends with: ``.png``, ``.svg`` or ``.pdf``; return its path.

        Raises:
            ConfigError: the name ends otherwise.
        """
        path = Path(path)
        if path.suffix.lstrip(".").lower() not in _FORMATS:
            raise ConfigError(
                f"{str(path)!r} names no format of plots; expected a name that ends in {listed(_FORMATS)}"
            )
        self._print(path)
        return path

    def _print(self, target: Any, kind: str | None = None) -> None:
        from matplotlib import rc_context  # noqa: PLC0415  (an extra)

        with rc_context(_SETTINGS):
            self.figure.savefig(target, format=kind)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self._print(buffer, "png")
        return buffer.getvalue()


def new_plot(rows: int = 1, columns: int = 1, *, width: float = 7.5, height: float = 3.8) -> tuple[Plot, list[Axes]]:
    """Return an empty plot and its axes, row by row; width and height of the whole are in inches.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context  # noqa: PLC0415  (an extra)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'mixlake[plots]'") from error
    with rc_context(_SETTINGS):  # and no pyplot: it keeps every figure that it has made
        figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    return Plot(figure=figure), axes


def label_axes(axes: Axes, *, title: str, x: str, y: str, grid: str = "y") -> None:
    """Write what a plot shows, and what its axes count in which unit."""
    axes.set_title(title, loc="left", fontsize=_TITLE, pad=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if grid:
        axes.grid(axis=grid, color="#e4e4e4", linewidth=0.8)  # type: ignore[arg-type]  # "x", "y" or "both"


def count_axis(axes: Axes, which: str, *, is_whole: bool = True) -> None:
    """Write large numbers of an axis short: 20k, 1.5M; marks are at whole numbers, unless there are others too."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator  # noqa: PLC0415  (an extra)

    axis, short = axes.xaxis if which == "x" else axes.yaxis, EngFormatter(sep="")
    if is_whole and axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axis.set_major_formatter(FuncFormatter(lambda n, _: short.format_eng(n) if abs(n) >= 1000 else f"{n:g}"))


def share_axis(axes: Axes, which: str) -> None:
    """Write the shares of an axis, which are parts of 1, in percent."""
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415  (an extra)

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1.0))


def name_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name, by its place: the same names in the same order have the same colours."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(names))}


def name_lines(names: Iterable[str]) -> dict[str, str]:
    """Return a line style for each name, by which those of one colour are told apart."""
    return {name: _LINES[place // len(COLOURS) % len(_LINES)] for place, name in enumerate(dict.fromkeys(names))}


def add_note(axes: Axes, text: str, place: tuple[float, float], *, within: str = "data", **alignment: Any) -> None:
    """Write a word into a plot; its place is in ``data`` (or x alone is), or in parts of the axes."""
    options = {"color": GREY, "fontsize": _TEXT, "annotation_clip": False, **alignment}
    axes.annotate(text, place, xycoords=("data", "axes fraction") if within == "x data" else within, **options)


def add_legend(axes: Axes, title: str = "", *, is_reversed: bool = False) -> None:
    """Put the legend beside the plot, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if is_reversed:
        handles, labels = handles[::-1], labels[::-1]
    axes.legend(
        handles,
        labels,
        title=title or None,
        fontsize=_TEXT,
        title_fontsize=_TEXT,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        alignment="left",
        borderaxespad=0.0,
    )


def shortened(text: object, limit: int = 28) -> str:
    """Return a label that leaves room for the plot."""
    words = "null" if text is None else str(text)
    return words if len(words) <= limit else f"{words[: limit - 1]}…"


def largest(sizes: Mapping[str, float], limit: int = 10) -> tuple[list[str], list[str]]:
    """Return the names of the largest, in the order that they have, and the others.

    >>> largest({"a": 1, "b": 3, "c": 2, "d": 1}, limit=2)
    (['b', 'c'], ['a', 'd'])
    """
    ranked: Sequence[str] = sorted(sizes, key=lambda name: -sizes[name])
    kept = set(ranked[:limit] if len(ranked) > limit + 1 else ranked)  # one alone needs no word for "others"
    return [name for name in sizes if name in kept], [name for name in sizes if name not in kept]
