"""Attentions of a configuration as a foreign layout tells them: what they compute, and by which arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.config import DetectorConfig
from detrkit.registry import REGISTRY
from detrkit.specs import Spec

ROLES = ("attention", "reading")
FREE = "sampler"  # samplers of one function, by law
Arguments = Mapping[str, Mapping[str, str]]
"""Field of an attention -> setting of its spec -> their argument for it."""


class Function(NamedTuple):
    """What an attention computes: its kind, and the settings that change it."""

    kind: str
    settings: Mapping[str, Any]


def function_of(attention: str | None) -> Function | None:
    """The function of an attention's spec; None where there is none, or one of a plug-in that says nothing of it."""
    if attention is None:
        return None
    spec = Spec.parse(attention)
    role = REGISTRY.first_with(ROLES, spec)
    settings = {**REGISTRY.signature(role, spec.name).settings, **spec.settings}
    if role == "reading":
        return Function(spec.name, {name: value for name, value in settings.items() if name != FREE})
    kind = getattr(REGISTRY.get(role, spec.name), "function", None)
    return kind and Function(kind, {"heads": settings.get("heads", 8)})


def settings_of(spec: str, role: str) -> dict[str, Any]:
    """All settings of a spec, those of the component's defaults included."""
    parsed = Spec.parse(spec)
    return {**REGISTRY.signature(role, parsed.name).settings, **parsed.settings}


def with_settings(spec: str, settings: Mapping[str, Any], role: str) -> str:
    """A spec with these settings, of which those are left out that are the component's defaults."""
    parsed = Spec.parse(spec)
    defaults = REGISTRY.signature(role, parsed.name).settings
    chosen = {**parsed.settings, **{name: value for name, value in settings.items() if name in defaults}}
    return str(Spec(parsed.name, {name: value for name, value in chosen.items() if defaults[name] != value}))


def attentions_in(told: Mapping[str, Any], base: DetectorConfig, arguments: Arguments) -> dict[str, str]:
    """The attentions of a base with the settings that a file tells, which are left to the configuration's check."""
    found = {}
    for field, names in arguments.items():
        spec = str(getattr(base, field))
        settings = {setting: told[argument] for setting, argument in names.items() if argument in told}
        found[field] = with_settings(spec, settings, REGISTRY.first_with(ROLES, spec))
    return found


def told_of_attentions(config: DetectorConfig, arguments: Arguments) -> dict[str, Any]:
    """The arguments for settings of the attentions, the inverse of `attentions_in`."""
    functions = {field: function_of(getattr(config, field)) for field in arguments}
    return {
        argument: function.settings[setting]
        for field, function in functions.items()
        if function is not None
        for setting, argument in arguments[field].items()
        if setting in function.settings
    }


def refused_attentions(config: DetectorConfig, base: DetectorConfig, arguments: Arguments) -> Iterator[Refusal]:
    """Attentions of other functions than those of the base, and settings that share an argument but differ."""
    told: dict[str, tuple[str, Any]] = {}
    for field, names in arguments.items():
        found, wanted = function_of(getattr(config, field)), function_of(getattr(base, field))
        if wanted is None or found is None or found.kind != wanted.kind:
            kind = "a dense attention such as" if wanted and wanted.kind == "dense" else "the attention"
            yield Refusal(field, getattr(config, field), f"{kind} {getattr(base, field)!r}")
            continue
        for setting, value in found.settings.items():
            first, expected = told.setdefault(names.get(setting, f"{field}.{setting}"), (field, value))
            if setting not in names:
                first, expected = "the published model", wanted.settings[setting]
            if value != expected:
                yield Refusal(field, getattr(config, field), f"{setting}={expected}, as {first} has")
