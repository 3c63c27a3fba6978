"""Presets: one paper a file, one function a published model, whose name is the preset's. Imports no torch."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from detrkit.changes import changed
from detrkit.config import DetectorConfig, Preset, TrainConfig
from detrkit.errors import ConfigError, nearest
from detrkit.tailoring import Choice, tailor


def presets() -> list[str]:
    """Names of all presets."""
    return sorted(_found())


def unchecked(preset: str) -> DetectorConfig:
    """The detector of a preset as it is written, its parts neither imported nor checked."""
    return _preset(preset)()


def summary(preset: str) -> str:
    """First line of a preset's docstring."""
    return first_line(_preset(preset).__doc__)


def first_line(docstring: str | None) -> str:
    """What a docstring says first; nothing where there is none."""
    return next(iter((docstring or "").strip().splitlines()), "")


def config(preset: str, **changes: Any) -> DetectorConfig:
    """The detector of a preset, with fields changed.

    Raises:
        ConfigError: unknown preset or field (with the nearest name), or anything wrong with the result.
    """
    return _preset(preset)().replace(**changes).check()


def training_recipe(preset: str, **changes: Any) -> TrainConfig:
    """How a preset is trained, with fields changed; unchecked, since the data may still be missing."""
    return getattr(_preset(preset), "recipe", TrainConfig()).replace(**changes)


def from_pairs(
    preset: str, pairs: Mapping[str, Any], tell: Callable[[Choice], None] = lambda choice: None
) -> tuple[DetectorConfig, TrainConfig]:
    """A preset's detector and recipe with fields, and settings of their specs, changed as `detrkit.changes` reads them.

    Args:
        preset: its name. One that looks at the data decides what `pairs` leave open, where they name data.
        pairs: values by path.
        tell: is told each of those decisions.

    Raises:
        ConfigError: every unknown field, wrong type and value out of range, at once.
        DataError: the data cannot be read, where the preset looks at them.
    """
    (detector, train), found = changed((_preset(preset)(), training_recipe(preset)), pairs)
    found += detector.problems() + train.problems()
    if found:
        raise ConfigError(found)
    if train.data is None or not (rules := getattr(_preset(preset), "rules", ())):
        return detector, train
    (detector, train), choices = tailor(rules, (detector, train), pairs)
    for choice in choices:
        tell(choice)
    return detector.check(), train.check()


def _found() -> dict[str, Preset]:
    """All presets by name, in the order of files and functions."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {
        name: function
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }


def _preset(name: str) -> Preset:
    known = _found()
    if name not in known:
        raise ConfigError([f"unknown preset {name!r}; {nearest(name, known)}"])
    return known[name]
