"""What composing a config raises, as one paragraph: the path, what came, what is allowed, and the nearest of that."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import TypeVar

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError
from yaml import YAMLError

from mixlake.catalog.errors import listed, nearest
from mixlake.mixing.extents import Measure

CONFIG_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
"""What composing a config raises, for `explain_config_error`."""
_OPTIONAL_KEYS: dict[str, tuple[str, ...]] = {
    r"mixture(\.components\.[^.]+)+": ("where", "weight", "on_exhausted", "max_passes", "order_by", "components"),
    r"curriculum\.stages\.[^.]+": ("until", "mixture", "weights", "ramp"),
    r"curriculum\.stages\.[^.]+\.ramp": ("over", "shape", "changes"),
    r"curriculum\.stages\.[^.]+\.(until|ramp\.over)": tuple(Measure),
}
"""By path, keys that a config may leave out, for hints."""
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[str]": "a list of texts",
    "dict[str, Any]": "a mapping",
    "tuple[float, float]": "two numbers",
}
"""By annotation of a schema's field."""
_NOT_CHOSEN = re.compile(r"You must specify '(\w+)'")
_NO_KEY = re.compile(r"Could not override '([^']+)'")
_NO_DELETION = re.compile(r"Could not delete from config\. '([^']+)' does not exist")
_Composed = TypeVar("_Composed")


def compose_with(compose: Callable[[list[str]], _Composed], overrides: Sequence[str]) -> _Composed:
    """Compose overrides.

    What Hydra says where one takes away what is not there does not tell what is: as if it were set, it is composed once
    more for the error that does.
    """
    try:
        return compose(list(overrides))
    except ConfigCompositionException as error:
        missing = _NO_DELETION.match(str(error))
        if missing is None:
            raise
        key = missing[1]
        compose([f"{key}=null" if given.split("=", 1)[0] == f"~{key}" else given for given in overrides])
        raise


def explain_config_error(error: BaseException) -> str:
    """Return what is wrong with a config in one paragraph: the message and its cause, without Hydra's decoration."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.strip("/").rpartition("/")
        return (
            f"there is no {group} {option!r}; there are: {listed(error.options, 30)}.{nearest(option, error.options)}"
        )
    if isinstance(error, ConfigCompositionException) and (missing := _NOT_CHOSEN.match(str(error))):
        options = str(error).partition("Available options:")[2].split()
        return f"choose a {missing[1]}, {missing[1]}=NAME; there are: {listed(options, 30)}."
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, ValidationError) and (wrong := _wrong_type(cause)):
            return wrong
    lines = [line.strip() for cause in causes for line in str(cause).splitlines() if line.strip()]
    unknown = next(filter(None, map(_NO_KEY.match, lines)), None)
    path = next((key for cause in reversed(causes) if (key := getattr(cause, "full_key", None))), None)
    wanted = unknown[1] if unknown else path
    hint = next(filter(None, (_nearest_key(cause, str(wanted)) for cause in reversed(causes))), "")
    if unknown or hint:  # of an override, or of a file
        return f"there is no key {wanted!r}{hint}"
    useful = [line for line in dict.fromkeys(lines) if not line.startswith(("object_type=", "full_key:", "See "))]
    text = re.sub(r":\. ", ": ", ". ".join(line.rstrip(".") for line in useful))
    return f"{path}: {text}" if path and path not in text else text


def _wrong_type(error: ValidationError) -> str:
    """Return which value is not of the type that its schema has for it."""
    kind, key = OmegaConf.get_type(error.parent_node), error.key
    if not is_dataclass(kind):
        return ""
    declared = next((str(field.type) for field in fields(kind) if field.name == key), "")
    expected = _EXPECTED.get(declared.removesuffix(" | None"))
    if expected is None:
        return ""
    value = error.value
    whole = f": {int(value)}" if declared.startswith("int") and isinstance(value, float) and value % 1 == 0 else ""
    return f"{error.full_key} is {value!r}; expected {expected}{whole}{', or null' * declared.endswith('None')}"


def _nearest_key(error: BaseException, wanted: str) -> str:
    """Return the keys there are where one was not, and the nearest of them; or how to add one that may be left out."""
    parent, key = getattr(error, "parent_node", None), getattr(error, "key", None)
    if not isinstance(parent, DictConfig) or parent._is_none() or key is None or key in parent:
        return ""
    above, keys = str(parent._get_full_key(None)), [str(known) for known in parent if known != "hydra"]
    optional = [k for path, more in _OPTIONAL_KEYS.items() if re.fullmatch(path, above) for k in more]
    if key in optional:
        return f" in the config; + adds it: +{wanted}=…"
    keys += [k for k in optional if k not in keys]
    return f"; there are: {listed(keys)}.{nearest(str(key), keys)}"
