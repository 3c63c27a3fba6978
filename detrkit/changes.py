"""``FIELD=VALUE`` and ``FIELD.SETTING=VALUE``, as people write them, made changes of both configurations.

``encoder_attention=matrix`` changes a field, ``backbone.weights=FILE`` a setting of the spec that stands there. Imports
no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from detrkit import fields
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.errors import ConfigError, RegistryError, nearest
from detrkit.fields import roles_of
from detrkit.registry import REGISTRY
from detrkit.specs import Spec

Configs = tuple[DetectorConfig, TrainConfig]


def annotations_of(configs: Configs) -> dict[str, Any]:
    """Annotation of each field of both, by name."""
    return {name: annotation for config in configs for name, annotation in config.annotations().items()}


def values_of(configs: Configs) -> dict[str, Any]:
    """Value of each field of both, by name."""
    return {name: value for config in configs for name, value in config.to_dict().items()}


def problem_of_path(configs: Configs, path: str) -> str | None:
    """What is wrong with ``FIELD`` or ``FIELD.SETTING`` where it names no field, or a setting of what has none."""
    (name, dot, _), known = path.partition("."), annotations_of(configs)
    if name not in known:
        meant = next((full for full in _settings(configs) if full.endswith(f".{path}")), None)
        return f"unknown field {name!r}; " + (f"did you mean {meant!r}?" if meant else nearest(name, known))
    if dot and not roles_of(known[name]):
        return f"{name} is no spec and has no settings"
    return None


def changed(configs: Configs, pairs: Mapping[str, Any]) -> tuple[Configs, list[str]]:
    """Both with these changes: fields first, then settings, which may go into a changed spec.

    Args:
        configs: what is changed.
        pairs: by path; texts are read the way each field or setting wants it, other values are taken as they are.

    Returns:
        The changed ones, where values that do not fit stay for `problems` to find; and a line for each path that
        could not be followed.
    """
    known, old = annotations_of(configs), values_of(configs)
    new: dict[str, Any] = {}
    found: list[str] = []
    for path, value in sorted(pairs.items(), key=lambda pair: "." in pair[0]):
        name, _, setting = path.partition(".")
        if problem := problem_of_path(configs, path):
            found.append(problem)
            continue
        try:
            new[name] = (
                _with_setting(roles_of(known[name]), new.get(name, old[name]), setting, value)
                if setting
                else _read(value, known[name])
            )
        except ConfigError as error:
            found += error.problems
    detector, train = (
        config.replace(**{n: v for n, v in new.items() if n in config.annotations()}) for config in configs
    )
    return (cast(DetectorConfig, detector), cast(TrainConfig, train)), found


def _read(value: Any, annotation: Any) -> Any:
    return fields.from_text(value, annotation) if isinstance(value, str) else value


def _with_setting(roles: Sequence[str], spec: str | None, setting: str, value: Any) -> str:
    """A spec with one setting changed.

    Raises:
        ConfigError: there is no component to set anything of.
    """
    if spec is None:
        raise ConfigError([f"there is no {roles[0]} whose {setting} could be set"])
    try:
        parsed = Spec.parse(spec)
        signature = REGISTRY.signature(REGISTRY.first_with(roles, parsed), parsed.name)
    except RegistryError as error:
        raise ConfigError([str(error)]) from None
    settings = {**parsed.settings, setting: _read(value, signature.annotations.get(setting, Any))}
    return str(Spec(parsed.name, settings))


def _settings(configs: Configs) -> Iterator[str]:
    """``FIELD.SETTING`` of all specs as they stand."""
    known = annotations_of(configs)
    for name, value in values_of(configs).items():
        with suppress(RegistryError):
            if isinstance(value, str) and (roles := roles_of(known[name])):
                spec = Spec.parse(value)
                settings = REGISTRY.signature(REGISTRY.first_with(roles, spec), spec.name).settings
                yield from (f"{name}.{setting}" for setting in settings)
