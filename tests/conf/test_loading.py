"""Configs are composed in Python as on the command line."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mixlake.catalog import ConfigError
from mixlake.conf import load_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mixture").mkdir()
    text = "components:\n  short: {where: n < 50, weight: 1}\n  long: {weight: 3}\n"
    (tmp_path / "mixture" / "two.yaml").write_text(text)
    return tmp_path


def test_groups_of_ones_own_are_composed_with_overrides(folder: Path) -> None:
    found = load_config("mixture=two", "mixture.unit=bytes", "scale=small", "adapt=odm", config_dir=folder)
    assert found["mixture"].unit == "bytes"
    assert [component.weight for component in found["mixture"].components] == [1, 3]
    assert found["adapt"]["interval"] > 1
    assert "curriculum" not in found


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mixture=tow", r"there is no mixture 'tow'; there are: .*two.* Did you mean 'two'\?"),
        ("mixture.components.shrt.weight=2", r"shrt.* Did you mean 'short'\?"),
        ("seed=x", "seed is 'x'; expected a whole number"),
    ],
)
def test_what_is_wrong_is_refused_as_on_the_command_line(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(*({"mixture=two"} if "mixture=t" not in override else ()), override, config_dir=folder)


def test_a_hydra_application_around_it_is_left_alone(folder: Path) -> None:
    (folder / "app.yaml").write_text("n: 1\n")
    with initialize_config_dir(str(folder), version_base="1.3"):
        assert load_config("mixture=llama1")["seed"] == 0
        assert compose("app").n == 1
