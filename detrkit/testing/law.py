"""What a law is, where laws are kept, and the runner behind ``detrkit check component``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from detrkit import fields
from detrkit.errors import ConfigError, RegistryError, nearest
from detrkit.registry import REGISTRY, REQUIRED, ROLES, Signature

Draw = Callable[[int, int], int]

# what laws are about: every role, and parts of the package that have one implementation
GROUPS = (*ROLES, "boxes", "criterion", "model")


class Make(Protocol):
    """Makes the component under test; ``component`` is its class."""

    component: type

    def __call__(self, **options: Any) -> Any:
        """A fresh component. Options that its signature does not have are left out."""


Law = Callable[[Make, Draw], None]
_LAWS: dict[str, dict[str, Law]] = {group: {} for group in GROUPS}


class NotConcerned(Exception):
    """Raised by a law that says nothing about this component, for example optimality about a greedy matcher."""


def law(group: str) -> Callable[[Law], Law]:
    """Decorator: this function is a law of the group. Its first docstring line is what the user reads."""

    def keep(function: Law) -> Law:
        _LAWS[group][function.__name__] = function
        return function

    return keep


def laws_of(group: str) -> dict[str, Law]:
    """All laws by name of a role, or of another of `GROUPS`."""
    importlib.import_module(f"detrkit.testing.{group}")
    return dict(_LAWS[group])


def concern(condition: bool, why: str) -> None:
    """Leave a law that does not concern this component.

    Raises:
        NotConcerned: the condition does not hold.
    """
    if not condition:
        raise NotConcerned(why)


class Maker:
    """The usual `Make`: hands the component those options that its signature has, over given settings."""

    def __init__(self, component: type, settings: dict[str, Any] | None = None) -> None:
        self.component = component
        self.settings = settings or {}
        self.signature = Signature.of(component)

    def __call__(self, **options: Any) -> Any:
        """As `Make`."""
        known = {**self.signature.dimensions, **self.signature.settings}
        wanted = {name: value for name, value in options.items() if name in known}
        return self.component(**{**wanted, **self.settings})


def seeded_draw(seed: int) -> Draw:
    """A `Draw` from a seeded generator, for use without hypothesis."""
    generator = np.random.default_rng(seed)
    return lambda low, high: int(generator.integers(low, high, endpoint=True))


@dataclass(frozen=True)
class LawResult:
    """Outcome of one law: ``kept``, ``broken`` or ``not concerned``; the first failure and the seed that shows it."""

    law: str
    description: str
    outcome: str
    detail: str = ""
    seed: int | None = None


def role_of(component: type) -> str:
    """The role whose contract a class keeps.

    Raises:
        RegistryError: it keeps none.
    """
    for role in ROLES:
        if isinstance(component, type) and issubclass(component, REGISTRY.contract(role)):
            return role
    raise RegistryError(
        "keeps no contract",
        value=getattr(component, "__name__", component),
        expected=("a subclass of " + ", ".join(f"detrkit.{role}.{name}" for role, name in ROLES.items())),
    )


def check_component(component: type, *, examples: int = 25, seed: int = 0, **settings: Any) -> list[LawResult]:
    """Run every law of its role on a component.

    Args:
        component: a class that keeps the contract of a role.
        examples: drawn cases a law.
        seed: seed of the first case; the others follow.
        settings: settings for the component, where its defaults are not to be checked.

    Returns:
        One result a law.

    Raises:
        RegistryError: the class keeps no contract, or its signature is refused.
    """
    role = role_of(component)
    make = Maker(component, settings)
    if found := _unusable(make):
        raise ConfigError(found)
    return [_run(name, function, make, range(seed, seed + examples)) for name, function in laws_of(role).items()]


def _unusable(make: Maker) -> list[str]:
    """What is wrong with the settings that a user gave for a component, a line each."""
    owner, known = make.component.__name__, make.signature.settings
    found = [
        f"{owner}: unknown setting {name!r}; {nearest(name, known)}" for name in make.settings if name not in known
    ]
    found += [
        f"{owner}: setting {name!r} must be given; write --set {name}=..."
        for name, default in known.items()
        if default is REQUIRED and name not in make.settings
    ]
    return [*found, *fields.problems(make.settings, make.signature.annotations, owner)]


def _run(name: str, function: Law, make: Make, seeds: range) -> LawResult:
    description = (function.__doc__ or name).strip().splitlines()[0]
    for seed in seeds:
        try:
            function(make, seeded_draw(seed))
        except NotConcerned as reason:
            return LawResult(name, description, "not concerned", str(reason))
        except Exception as failure:
            kind = "" if isinstance(failure, AssertionError) else f"{type(failure).__name__}: "
            return LawResult(name, description, "broken", f"{kind}{failure}", seed)
    return LawResult(name, description, "kept")
