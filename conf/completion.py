"""What makes a shell complete commands, keys and the choices of groups: scripts that ask nothing when they run."""

from __future__ import annotations

from collections.abc import Callable

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.conf.commands import COMMANDS
from mixlake.conf.help import command_words

_BASH = """\
_mixlake() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="" words=""
  # bash cuts words at "=": what was typed before it is put in front again to find choices, and left out of the answer.
  if [[ "$current" == "=" ]]; then before="${{COMP_WORDS[COMP_CWORD-1]}}="; current=""
  elif [[ "${{COMP_WORDS[COMP_CWORD-1]}}" == "=" ]]; then before="${{COMP_WORDS[COMP_CWORD-2]}}="; fi
  if (( COMP_CWORD == 1 )); then words="{commands}"; else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$before$current"))
  COMPREPLY=("${{COMPREPLY[@]#"$before"}}")
  if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then COMPREPLY=($(compgen -f -- "$current")); fi
}}
complete -o nospace -F _mixlake mixlake
"""


def completion_script(shell: str) -> str:
    """Return the script for a shell.

    Raises:
        ConfigError: there is none for it.
    """
    if shell not in _SCRIPTS:
        raise ConfigError(
            f"there is no completion for {shell!r}; shells: {listed(_SCRIPTS)}.{nearest(shell, _SCRIPTS)}"
        )
    return _SCRIPTS[shell]()


def _bash() -> str:
    cases = [f'      {name}) words="{" ".join(command_words(name))}" ;;' for name in COMMANDS]
    return _BASH.format(commands=" ".join(COMMANDS), cases="\n".join(cases))


def _zsh() -> str:
    return f"autoload -Uz bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    lines = [f"complete -c mixlake -f -n __fish_use_subcommand -a '{' '.join(COMMANDS)}'"]
    for name in COMMANDS:
        words = " ".join(command_words(name))
        lines.append(f"complete -c mixlake -n '__fish_seen_subcommand_from {name}' -a '{words}'")
    return "\n".join([*lines, ""])


_SCRIPTS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
