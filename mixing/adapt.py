"""Adaptive mixing as it is declared: which policy, and how often what it wants becomes a weights version."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_type_hints

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.mixing import declared
from mixlake.mixing.policies import Policy, Setting
from mixlake.mixing.policy_bounded import Bounded, Bounds

_TARGET = "_target_"
_VERBS = ("update", "state_dict", "load_state_dict", "details")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapt:
    """How a run's weights follow what training reports."""

    policy: Mapping[str, Any]
    """The class of the policy, as ``_target_``, and its options."""
    interval: int
    """Steps from one decision to the next. The losses of all that lie between are stored in one commit."""
    bounds: Bounds
    """What the policy may do."""
    tolerance: float
    """Total variation from the weights in force, up to which a decision changes nothing."""
    delay: int | None
    """Chunks from those that the deciding step had reached to the first that has the new weights; None is four per
    lane, as far as loaders schedule in advance."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], path: str = "adapt") -> Adapt:
        """Return it from a config.

        Raises:
            ConfigError: a key or a value is wrong.
        """
        declared.mapping(config, path, "policy, bounds, interval, tolerance and delay")
        declared.check_keys(config, path, required=["policy"], optional=["bounds", "interval", "tolerance", "delay"])
        policy = declared.mapping(config["policy"], f"{path}.policy", f"{_TARGET} and the policy's options")
        interval = declared.whole(config.get("interval", 100), f"{path}.interval", "steps")
        if interval < 2:
            raise ConfigError(f"{path}.interval is {interval}; expected 2 steps or more: every decision is a commit")
        delay = config.get("delay")
        return cls(
            policy=dict(policy),
            bounds=_bounds(config.get("bounds") or {}, f"{path}.bounds"),
            interval=interval,
            tolerance=declared.number(config.get("tolerance", 0.001), f"{path}.tolerance", most=1.0),
            delay=None if delay is None else declared.whole(delay, f"{path}.delay", "chunks"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``from_config`` takes it."""
        return asdict(self)

    def decides(self, step: int, before: int) -> bool:
        """Say whether a step is one to decide at, where ``before`` (-1 for none) is the one that was reported before.

        >>> adapt = Adapt.from_config({"policy": {}, "interval": 4})
        >>> [s for s in range(9) if adapt.decides(s, s - 1)]
        [3, 7]
        """
        return (step + 1) // self.interval > (before + 1) // self.interval

    def make_policy(self, setting: Setting) -> Policy:
        """Return the policy as it is before the first step, within its bounds.

        Raises:
            ConfigError: the class cannot be imported, is no policy, or its options or the bounds are wrong.
        """
        policy = _make(self.policy, setting, "adapt.policy")
        if self.bounds == Bounds():
            return policy
        return Bounded(setting, policy=policy, bounds=self.bounds)


def _make(declaration: Mapping[str, Any], setting: Setting, path: str) -> Policy:
    """Return a policy, with the policies that its options declare; nothing but classes of policies is called."""
    target = declaration.get(_TARGET)
    if not isinstance(target, str):
        raise ConfigError(f"{path}.{_TARGET} is {target!r}; expected the dotted name of a policy's class")
    found = _imported(target, f"{path}.{_TARGET}")
    options = {
        key: _make(value, setting, f"{path}.{key}") if isinstance(value, Mapping) and _TARGET in value else value
        for key, value in declaration.items()
        if key != _TARGET
    }
    names = list(inspect.signature(found).parameters)[1:]
    for name in options:
        if name not in names:
            raise ConfigError(f"{path} has no {name!r}; {target} has: {listed(names)}.{nearest(name, names)}")
    hints = get_type_hints(found.__init__)
    for name, value in options.items():
        _check_type(value, hints.get(name), f"{path}.{name}")
    try:
        policy: Policy = found(setting, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {target}: {error}") from error
    return policy


def _check_type(value: Any, hint: Any, path: str) -> None:
    """Refuse a value of another type than the constructor's hint says, where that is of plain types."""
    allowed = get_args(hint) or (hint,)
    plain = {float: (int, float), int: (int,), bool: (bool,), str: (str,), type(None): (type(None),)}
    if not all(kind in plain for kind in allowed):
        return
    if (isinstance(value, bool) and bool not in allowed) or not any(isinstance(value, plain[kind]) for kind in allowed):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ConfigError(f"{path} is {value!r}; expected {names}")


def _bounds(config: Mapping[str, Any], path: str) -> Bounds:
    declared.mapping(config, path, "floor, cap, max_change, warm_up_steps and freeze_step")
    declared.check_keys(config, path, optional=[field.name for field in fields(Bounds)])
    for name, value in config.items():
        if value is not None:
            declared.number(value, f"{path}.{name}")
    return Bounds(**config)


def _imported(target: str, path: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}: {target!r} cannot be imported ({error})") from error
    if not inspect.isclass(found) or (lacking := [verb for verb in _VERBS if not hasattr(found, verb)]):
        what = "no class" if not inspect.isclass(found) else f"a class without {listed(lacking)}"
        raise ConfigError(f"{path}: {target!r} is {what}; a policy is a class with {listed(_VERBS)}")
    return found
