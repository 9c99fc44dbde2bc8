"""The command line says what it can do: groups, examples, configs with their comments, words for shells."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mixlake.catalog import Catalog, ConfigError
from mixlake.conf.commands import COMMANDS, GROUPS
from mixlake.conf.completion import completion_script
from mixlake.conf.help import EXIT_CODES, command_groups, command_help, command_words, overview
from mixlake.mixing import Run


def test_the_overview_has_every_command_with_an_example_in_its_group() -> None:
    text = overview()
    for title, commands in GROUPS.items():
        block = text.split(f"\n{title}\n")[1].split("\n\n")[0]
        assert re.findall(r"^  (\S+) ", block, re.M) == list(commands)
        assert all(f"mixlake {name} {command.example}" in block for name, command in commands.items())
    assert EXIT_CODES in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_example_uses_keys_that_its_command_has(name: str) -> None:
    keys = {re.split(r"[.=]", word)[0] for word in command_words(name)} | {"demo"}
    arguments = [word for word in shlex.split(COMMANDS[name].example) if not word.startswith("-")]
    overrides = [word for word in arguments if re.match(r"[a-z_]+[.=]", word) and "LIKE" not in word]
    assert {re.split(r"[.=]", override)[0] for override in overrides} <= keys


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_every_key_with_its_default(name: str) -> None:
    text = command_help(name)
    keys = [word[:-1] for word in command_words(name) if word.endswith("=")]
    groups = [group.name for group in command_groups(name)]
    assert [key for key in keys if key not in groups and not re.search(rf"^{key}: ?", text, re.M)] == []
    assert "???" in text
    assert "output=json" in text


def test_help_lists_groups_with_choices_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mixture").mkdir()
    (tmp_path / "mixture" / "both.yaml").write_text("components: {}\n")
    (choices,) = re.findall(r"^mixture: .*\n(?:  .*\n)*", command_help("run", ["--config-dir", str(tmp_path)]), re.M)
    assert "both | " in choices
    assert "pile_natural" in choices
    assert "both | " not in command_help("run")


def completed(folder: Path, *words: str) -> set[str]:
    """What bash offers after some words, the last of which is being typed."""
    (folder / "script").write_text(completion_script("bash"))
    typed = " ".join(map(shlex.quote, words))
    ask = "_mixlake; printf '%s\\n' \"${COMPREPLY[@]}\""
    command = f"source ./script; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; {ask}"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_keys_and_choices(tmp_path: Path) -> None:
    assert completed(tmp_path, "mixlake", "re") == {"register", "refresh", "remove"}
    assert completed(tmp_path, "mixlake", "schedule", "n") == {"num_chunks="}
    assert completed(tmp_path, "mixlake", "run", "name=x", "sh") == {"shuffle=blocks", "shuffle=none", "shuffle=wide"}
    assert completed(tmp_path, "mixlake", "run", "mixture", "=", "slim") == {"slimpajama"}
    assert completed(tmp_path, "mixlake", "run", "scale", "=") == {"large", "small"}
    (tmp_path / "data.jsonl").touch()
    assert completed(tmp_path, "mixlake", "register", "uri", "=", "dat") == {"data.jsonl"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_the_runs_of_a_lake_and_groups_of_ones_own(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a"}\n')
    for folder in ("lake", "other lake"):
        catalog = Catalog.open(str(tmp_path / folder), create=True)
        catalog.register("texts", str(texts))
        for name in ("exp1", "exp2.b") if folder == "lake" else ("far",):
            Run.start(catalog, name, {"kind": "arbitrary"})
    (tmp_path / "my" / "mixture").mkdir(parents=True)
    (tmp_path / "my" / "mixture" / "slimmer.yaml").touch()
    assert completed(tmp_path, "mixlake", "weights", "run", "=") == {"exp1", "exp2.b"}
    assert completed(tmp_path, "mixlake", "plot", "shares", "run", "=", "exp2") == {"exp2.b"}
    assert completed(tmp_path, "mixlake", "lineage", "lake", "=", "other lake", "run", "=", "") == {"far"}
    assert completed(tmp_path, "mixlake", "weights", "lake", "=", "lake", "run", "=", "exp1") == {"exp1"}
    assert completed(tmp_path, "mixlake", "run", "--from", "e") == {"exp1", "exp2.b"}
    assert completed(tmp_path, "mixlake", "run", "--config-dir", "my", "mixture", "=", "slim") == {
        "slimmer",
        "slimpajama",
    }
    assert completed(tmp_path, "mixlake", "datasets", "--config-dir", "my", "mixture", "=", "slim") == set()


def test_other_shells_get_the_same_words() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = completion_script(shell)
        assert all(word in script for name in COMMANDS for word in command_words(name))
    with pytest.raises(ConfigError, match="there is no completion for 'csh'; shells: bash, zsh, fish"):
        completion_script("csh")
