"""What makes a shell complete commands, keys, the choices of groups, and runs: scripts that start no Python to ask."""

from __future__ import annotations

from collections.abc import Callable

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.conf.commands import COMMANDS
from mixlake.conf.help import command_words
from mixlake.conf.schema import SCHEMAS, ForkConfig, PlotConfig, RunConfig

_BASH = """\
_mixlake_value() {  # REPLY: the value of the key or flag $1 on the line, or else $2
  local i; REPLY="$2"
  for (( i = 2; i < COMP_CWORD; i++ )); do
    case "${COMP_WORDS[i]}" in
      "$1="*) REPLY="${COMP_WORDS[i]#*=}" ;;
      "$1") i=$(( i + 1 )); if [[ "${COMP_WORDS[i]}" == "=" ]]; then i=$(( i + 1 )); fi; REPLY="${COMP_WORDS[i]}" ;;
    esac
  done
  REPLY="${REPLY/#\\~/$HOME}"
}
_mixlake() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="" words="" lake="lake" takes="" runs="" path="" group=""
  # bash cuts words at "=": what was typed before it is put in front again to find choices, and left out of the answer.
  if [[ "$current" == "=" ]]; then before="${COMP_WORDS[COMP_CWORD-1]}="; current=""
  elif [[ "${COMP_WORDS[COMP_CWORD-1]}" == "=" ]]; then before="${COMP_WORDS[COMP_CWORD-2]}="; fi
  if (( COMP_CWORD == 1 )); then words="COMMANDS"; else
    case "${COMP_WORDS[1]}" in
CASES
    esac
    # A lake has a folder for each run's weights, and a folder of one's own a file for each choice of a group.
    _mixlake_value lake "$lake"
    for path in "$REPLY"/weights/run=*; do if [[ -d "$path" ]]; then runs="$runs ${path##*/run=}"; fi; done
    if [[ "$takes" == *run* ]]; then for path in $runs; do words="$words run=$path"; done; fi
    if [[ "$takes" == *from* && "$before${COMP_WORDS[COMP_CWORD-1]}" == "--from" ]]; then words="$runs"; fi
    _mixlake_value --config-dir ""
    for path in "$REPLY"/*/*.yaml; do
      path="${path#"$REPLY"/}"; group="${path%%/*}"
      if [[ -n "$REPLY" && " $words" == *" $group="* ]]; then path="${path%.yaml}"; words="$words $group=${path#*/}"; fi
    done
  fi
  COMPREPLY=($(compgen -W "$words" -- "$before$current"))
  COMPREPLY=("${COMPREPLY[@]#"$before"}")
  if [[ ${#COMPREPLY[@]} -eq 0 ]]; then COMPREPLY=($(compgen -f -- "$current")); fi
}
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
    return _BASH.replace("COMMANDS", " ".join(COMMANDS)).replace("CASES", "\n".join(map(_case, COMMANDS)))


def _case(name: str) -> str:
    takes = ["run"] if issubclass(SCHEMAS[name], (RunConfig, ForkConfig, PlotConfig)) else []
    takes += ["from"] if name in ("run", "explain") else []
    lake = ' lake="mixlake-demo"' if name == "demo" else ""
    return f'      {name}) words="{" ".join(command_words(name))}" takes="{" ".join(takes)}"{lake} ;;'


def _zsh() -> str:
    return f"autoload -Uz bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    lines = [f"complete -c mixlake -f -n __fish_use_subcommand -a '{' '.join(COMMANDS)}'"]
    for name in COMMANDS:
        words = " ".join(command_words(name))
        lines.append(f"complete -c mixlake -n '__fish_seen_subcommand_from {name}' -a '{words}'")
    return "\n".join([*lines, ""])


_SCRIPTS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
