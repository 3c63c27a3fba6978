"""What ``--vary`` asks for -> variants of a base: one factor at a time, or the full grid. Imports no torch.

``encoder_attention=sdpa,matrix`` varies a field, ``encoder_attention.heads=2,4`` a setting of its spec, and
``preset=detr_tiny,dab_detr_tiny`` the preset itself, recipe included, below the fields of all runs. Commas within
brackets or quotes do not split: ``backbone=tiny(width=8),tiny(width=16)``, ``freeze='backbone,encoder',none``.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detrkit.changes import Configs, annotations_of, changed, problem_of_path, values_of
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.errors import ConfigError
from detrkit.fields import roles_of
from detrkit.presets import training_recipe, unchecked
from detrkit.registry import REGISTRY, REQUIRED
from detrkit.specs import Spec

BASE = "base"
PRESET = "preset"

FIXED = {
    "seed": "differences are paired by seed; say how many with --seeds",
    "num_classes": "the data set gives it",
}


@dataclass(frozen=True)
class Variant:
    """A detector and its training, with what it changes of the base.

    Attributes:
        name: for people, ``encoder_attention=matrix, aux_loss=false``; the base is called ``base``.
        detector, train: its configurations.
        changes: what was asked for, by field, ``field.setting`` or ``preset``.
    """

    name: str
    detector: DetectorConfig
    train: TrainConfig
    changes: Mapping[str, str] = field(default_factory=dict)


def from_preset(name: str) -> Configs:
    """A preset as it is written.

    Raises:
        ConfigError: there is none of this name.
    """
    return unchecked(name), training_recipe(name)


@dataclass(frozen=True)
class Variations:
    """The variants of a study.

    Attributes:
        variants: all of different meaning, the base first.
        same: names that were asked for and are another variant or the base -> that one's name.
    """

    variants: tuple[Variant, ...]
    same: Mapping[str, str]

    @classmethod
    def of(
        cls,
        detector: DetectorConfig,
        train: TrainConfig,
        asked: Sequence[str],
        *,
        grid: bool = False,
        of_preset: Callable[[str], Configs] = from_preset,
    ) -> Variations:
        """Read what is to be varied.

        Args:
            detector, train: the base.
            asked: ``FIELD=VALUE,...``, ``FIELD.SETTING=VALUE,...`` or ``preset=NAME,...`` each.
            grid: every combination of values, instead of one change of the base at a time.
            of_preset: what another preset is in place of the base's.

        Raises:
            ConfigError: everything that is wrong, at once.
        """
        base = Variant(BASE, detector, train)
        found = _problems(base)
        variants = [base]
        for changes in _combinations(list(_factors(base, asked)), grid):
            try:
                variants.append(_variant(base, changes, of_preset))
                problems = [line for line in _problems(variants[-1]) if line not in found]
            except ConfigError as error:
                problems = list(error.problems)
            found += [f"{_name(changes)}: {line}" for line in problems]
        if found:
            raise ConfigError(found)
        first: dict[Any, Variant] = {}
        for variant in variants:
            first.setdefault(_meaning(variant), variant)
        kept = {id(variant) for variant in first.values()}
        same = {v.name: first[_meaning(v)].name for v in variants if id(v) not in kept}
        return cls(tuple(first.values()), same)


class _Factor(NamedTuple):
    """A field, or a setting of its spec, with the values it is to take, as texts."""

    path: str
    values: tuple[str, ...]


def split_values(text: str) -> list[str]:
    """The pieces between commas that stand outside brackets and quotes, stripped; quotes around a piece are taken off.

    Raises:
        ValueError: brackets or quotes that do not close, or an empty piece.
    """
    pieces, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
            if letter == "," and depth == 0:
                pieces.append("")
                continue
        pieces[-1] += letter
    if quote or depth:
        raise ValueError("brackets or quotes that do not close")
    if not all(piece.strip() for piece in pieces):
        raise ValueError("an empty value")
    return [_unquoted(piece.strip()) for piece in pieces]


def _unquoted(text: str) -> str:
    return str(ast.literal_eval(text)) if text[0] in "'\"" and text[-1] == text[0] else text


def _factors(base: Variant, asked: Sequence[str]) -> Iterator[_Factor]:
    """What is to be varied: the preset, then fields, then settings, which may go into a varied spec.

    Raises:
        ConfigError: everything that cannot be read.
    """
    found, factors = [], {}
    for text in asked:
        path, equals, values = (part.strip() for part in text.partition("="))
        try:
            if not equals:
                raise ValueError("expected FIELD=VALUE,VALUE,...")
            if problem := _problem_of_path(base, path):
                raise ValueError(problem)
            if path in factors:
                raise ValueError(f"{path} is varied twice; write all its values in one --vary")
            factors[path] = _Factor(path, tuple(split_values(values)))
        except (ValueError, SyntaxError) as error:
            found.append(f"--vary {text}: {error}")
    if found:
        raise ConfigError(found)
    return iter(sorted(factors.values(), key=lambda factor: (factor.path != PRESET, "." in factor.path)))


def _problem_of_path(base: Variant, path: str) -> str | None:
    if path == PRESET:
        return None
    if (name := path.partition(".")[0]) in FIXED:
        return f"{name} cannot be varied: {FIXED[name]}"
    return problem_of_path((base.detector, base.train), path)


def _combinations(factors: Sequence[_Factor], grid: bool) -> Iterator[dict[str, str]]:
    if grid:
        for values in itertools.product(*(factor.values for factor in factors)):
            yield dict(zip((factor.path for factor in factors), values, strict=True))
        return
    for factor in factors:
        for value in factor.values:
            yield {factor.path: value}


def _variant(base: Variant, changes: Mapping[str, str], of_preset: Callable[[str], Configs]) -> Variant:
    """The base with these changes; values that do not fit stay in it, for `_problems` to find.

    Raises:
        ConfigError: an unknown preset, or a setting of what has none.
    """
    start = of_preset(changes[PRESET]) if PRESET in changes else (base.detector, base.train)
    (detector, train), found = changed(start, {path: text for path, text in changes.items() if path != PRESET})
    if found:
        raise ConfigError(found)
    return Variant(_name(changes), detector, train, dict(changes))


def _name(changes: Mapping[str, str]) -> str:
    return ", ".join(f"{path}={text}" for path, text in changes.items())


def _problems(variant: Variant) -> list[str]:
    return [*variant.detector.problems(), *variant.train.problems()]


def _meaning(variant: Variant) -> tuple[Any, ...]:
    """Equal for variants that are the same: specs are read, and settings left out stand for their defaults."""
    configs = (variant.detector, variant.train)
    known = annotations_of(configs)
    return tuple(_meaning_of(value, roles_of(known[name])) for name, value in values_of(configs).items())


def _meaning_of(value: Any, roles: Sequence[str]) -> Any:
    if not roles or value is None:
        return value
    spec = Spec.parse(value)
    known = REGISTRY.signature(REGISTRY.first_with(roles, spec), spec.name).settings
    settings = {name: value for name, value in known.items() if value is not REQUIRED} | dict(spec.settings)
    return spec.name, tuple(sorted((name, repr(value)) for name, value in settings.items()))
