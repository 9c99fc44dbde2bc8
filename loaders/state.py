"""Where loading stands: a small JSON dict of positions, checked when it is loaded, merged from several ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed

STATE_VERSION = 2
_WORDS = {"catalog_version": "catalog version", "num_lanes": "number of lanes", "config_hash": "config hash"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a state belongs to: taking it up under anything else would deliver other samples."""

    run: str
    catalog_version: int
    config_hash: str
    lanes: int
    kind: str
    """``samples``, or ``tokens`` with the sequence length."""
    ancestors: tuple[tuple[str, str], ...] = ()
    """Name and config hash of the runs that this one goes on from: their states can be taken up too."""


def make_state(identity: Identity, lanes: Mapping[int, dict[str, Any]], first_chunk: int) -> dict[str, Any]:
    """Return a state: what it belongs to, and where each lane of this rank stands.

    Args:
        identity: what it belongs to.
        lanes: the lanes' states.
        first_chunk: where lanes begin that have not begun.
    """
    return {
        "version": STATE_VERSION,
        "run": identity.run,
        "catalog_version": identity.catalog_version,
        "num_lanes": identity.lanes,
        "config_hash": identity.config_hash,
        "kind": identity.kind,
        "first_chunk": first_chunk,
        "lanes": {str(lane): state for lane, state in sorted(lanes.items())},
    }


def check_state(state: Mapping[str, Any], identity: Identity) -> None:
    """Refuse a state that was not made by this run with these settings.

    Raises:
        ConfigError: naming the first thing that differs.
    """
    if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION:
        got = state.get("version") if isinstance(state, Mapping) else type(state).__name__
        raise ConfigError(f"loader state has version {got!r}; this program reads version {STATE_VERSION}")
    is_ancestor = (state.get("run"), state.get("config_hash")) in identity.ancestors
    expected = {
        "run": state["run"] if is_ancestor else identity.run,
        "catalog_version": state.get("catalog_version") if is_ancestor else identity.catalog_version,
        "num_lanes": identity.lanes,
        "config_hash": state["config_hash"] if is_ancestor else identity.config_hash,
        "kind": identity.kind,
    }
    for key, value in expected.items():
        if state.get(key) != value:
            raise ConfigError(
                f"loader state is of {_WORDS.get(key, key)} {state.get(key)!r}, but this loader has {value!r} "
                f"(run {identity.run!r} of catalog version {identity.catalog_version}, {identity.lanes} lanes)"
            )


def lane_states(state: Mapping[str, Any], lanes: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the states of some lanes.

    Raises:
        ConfigError: the state lacks one of them, so it comes from too few ranks.
    """
    missing = [str(lane) for lane in lanes if str(lane) not in state["lanes"]]
    if missing:
        raise ConfigError(
            f"loader state lacks lanes {listed(missing)}; it was saved by some ranks only: "
            "save every rank's state_dict() and load merge_states([...]) of them"
        )
    return {lane: state["lanes"][str(lane)] for lane in lanes}


def chunk_reached(lane_state: Mapping[str, Any]) -> int:
    """Return how many chunks of its lane a lane has opened or is about to."""
    return int(lane_state["num_open"] if "num_open" in lane_state else lane_state["queue"][0] + 1)


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the one state that all ranks' states make up; any number of ranks can take it up.

    Raises:
        ConfigError: they are not of one moment of one run.

    >>> merge_states([{"run": "r", "lanes": {"0": {"a": 1}}}, {"run": "r", "lanes": {"1": {"a": 2}}}])
    {'run': 'r', 'lanes': {'0': {'a': 1}, '1': {'a': 2}}}
    """
    if not states:
        raise ConfigError("merge_states() needs at least one state")
    heads = [{key: value for key, value in state.items() if key != "lanes"} for state in states]
    for head in heads[1:]:
        differing = [key for key in head if head[key] != heads[0].get(key)]
        if differing:
            key = differing[0]
            raise ConfigError(f"states differ in {key}: {heads[0].get(key)!r} and {head[key]!r}; save them at one step")
    lanes: dict[str, Any] = {}
    for state in states:
        lanes.update(state["lanes"])
    return {**heads[0], "lanes": lanes}
