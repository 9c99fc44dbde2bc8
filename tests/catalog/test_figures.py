"""What all plots share: files in three formats, colours by place, a clear error without matplotlib."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import ConfigError
from mixlake.catalog.figures import COLOURS, label_axes, largest, name_colours, name_lines, new_plot


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")])
def test_a_plot_is_written_in_the_format_that_its_name_says(tmp_path: Path, name: str, start: bytes) -> None:
    plot, (axes,) = new_plot()
    label_axes(axes, title="squares", x="n", y="n² (units)")
    axes.plot([1, 2, 3], [1, 4, 9])
    assert plot.save(tmp_path / name).read_bytes().startswith(start)
    assert plot._repr_png_().startswith(b"\x89PNG")


def test_text_of_an_svg_stays_text(tmp_path: Path) -> None:
    plot, (axes,) = new_plot()
    label_axes(axes, title="squares", x="n", y="n² (units)")
    assert "n² (units)" in plot.save(tmp_path / "a.svg").read_text(encoding="utf-8")


def test_a_format_that_there_is_not_is_refused(tmp_path: Path) -> None:
    plot, _ = new_plot()
    with pytest.raises(
        ConfigError, match=r"a\.bmp' names no format of plots; expected a name that ends in png, svg, pdf"
    ):
        plot.save(tmp_path / "a.bmp")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"plots need matplotlib: pip install 'mixlake\[plots\]'"):
        new_plot()


def test_names_have_colours_by_their_place_and_lines_where_colours_come_again() -> None:
    names = [f"c{number}" for number in range(25)]
    colours, lines = name_colours(names), name_lines(names)
    assert [colours[name] for name in names] == [*COLOURS, *COLOURS, *COLOURS[:5]]
    assert len({(colours[name], lines[name]) for name in names}) == 25
    assert name_colours(names[:3]) == {name: colours[name] for name in names[:3]}


def test_one_name_too_many_is_not_put_among_others() -> None:
    sizes = {str(number): float(number) for number in range(11)}
    assert largest(sizes) == (list(sizes), [])
    assert largest({**sizes, "more": 0.5}) == ([str(number) for number in range(1, 11)], ["0", "more"])
