"""Names -> components: the registry of roles, plug-ins. Imports no torch.

A role is a folder of the package, a component is a file in it, and the file's name is the registered name. Third
parties add components through entry points of the group ``detrkit.<role>``, or at run time with `Registry.register`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from itertools import chain
from keyword import iskeyword
from typing import Any, get_type_hints

from detrkit import fields
from detrkit.errors import ConfigError, RegistryError, nearest
from detrkit.specs import Spec

# role -> the abstract base class in `detrkit.<role>` that is its contract
ROLES: dict[str, str] = {
    "attention": "Attention",
    "backbones": "Backbone",
    "box_coders": "BoxCoder",
    "classification": "Classification",
    "datasets": "Dataset",
    "denoising": "Denoising",
    "encoders": "Encoder",
    "evaluators": "Evaluator",
    "matchers": "Matcher",
    "necks": "Neck",
    "placement": "Placement",
    "positional": "Positional",
    "queries": "ObjectQueries",
    "reading": "Reading",
    "samplers": "Sampler",
    "selection": "Selection",
    "transforms": "Transforms",
}

# What a model (or, for data sets, a run) tells its components: the names a signature may have before the star.
DIMENSIONS: dict[str, str] = {
    "box_coder": "how a box is told from a reference",
    "d_model": "width of the tokens",
    "dropout": "dropout probability of the transformer",
    "encoder_norm": "whether the layers of the encoder end in a norm",
    "eos_coef": "weight of no-object beside a class",
    "in_channels": "channels of each backbone level",
    "layer": "number of the layer that a part stands in, from 0",
    "layers": "layers of the encoder, made as the configuration says",
    "level_strides": "stride of each level that the neck gives",
    "long_side": "limit of the long side of images that the network sees, in pixels",
    "num_classes": "number of classes, background not counted",
    "num_levels": "number of feature levels",
    "num_queries": "number of object queries",
    "scale_positions": "whether the encoder multiplies positions by what it reads from the tokens",
    "reference_eps": "least distance of references from 0 and 1, where offsets are added to their logits",
    "short_side": "short side of images that the network sees, in pixels",
    "square": "whether images become squares, their short side as long as their long one",
    "split": "part of the data: train, val, test, ...",
    "strides": "stride of each backbone level",
}


@dataclass(frozen=True)
class Signature:
    """What a component takes: dimensions (before the star) and settings (after it), with annotations and defaults."""

    dimensions: dict[str, Any]
    settings: dict[str, Any]
    annotations: dict[str, Any]

    @classmethod
    def of(cls, component: type) -> Signature:
        """Read and check the signature of a component's ``__init__``.

        Raises:
            RegistryError: ``*args``, ``**kwargs``, an unannotated parameter or an unknown dimension.
        """
        where = f"{component.__module__}:{component.__qualname__}"
        parameters = list(inspect.signature(component.__init__).parameters.values())[1:]  # type: ignore[misc]
        if component.__init__ is object.__init__:  # type: ignore[misc]
            parameters = []
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise RegistryError(
                    "signature hides its settings",
                    field=where,
                    value=str(parameter),
                    expected=("dimensions before the star and named settings after it"),
                )
            if parameter.annotation is parameter.empty:
                raise RegistryError("parameter without annotation", field=where, value=parameter.name)
            if parameter.kind is not parameter.KEYWORD_ONLY and parameter.name not in DIMENSIONS:
                raise RegistryError(
                    "unknown dimension",
                    field=where,
                    value=parameter.name,
                    hint=(f"{nearest(parameter.name, DIMENSIONS)}; settings stand after the star"),
                )
        hints = get_type_hints(component.__init__, include_extras=True) if parameters else {}  # type: ignore[misc]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return cls(
            {p.name: p.default for p in parameters if p.kind is not keyword},
            {p.name: p.default for p in parameters if p.kind is keyword},
            {p.name: hints[p.name] for p in parameters},
        )


REQUIRED = inspect.Parameter.empty


class Registry:
    """Finds, checks and makes components by role and name; lists them without importing them.

    Order of precedence: components registered at run time, built-in files, entry points of installed plug-ins.
    """

    def __init__(self) -> None:
        self._added: dict[tuple[str, str], type] = {}

    def roles(self) -> list[str]:
        """Names of all roles."""
        return sorted(ROLES)

    def names(self, role: str) -> list[str]:
        """Names of all components of a role: built-in, registered and installed as plug-ins. Imports none of them."""
        self._check_role(role)
        added = {name for r, name in self._added if r == role}
        return sorted(added | set(self.builtin(role)) | set(self.plugins(role)))

    def builtin(self, role: str) -> list[str]:
        """Names of the components that are files of the package."""
        self._check_role(role)
        package = find_spec(f"detrkit.{role}")
        paths = package.submodule_search_locations if package else None
        return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))

    def plugins(self, role: str) -> dict[str, list[EntryPoint]]:
        """Entry points of the role by name; several under one name are kept, to be refused when it is used."""
        self._check_role(role)
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=f"detrkit.{role}"):
            if point not in found.setdefault(point.name, []):
                found[point.name].append(point)
        return found

    def contract(self, role: str) -> type:
        """The abstract base class of a role."""
        self._check_role(role)
        return getattr(importlib.import_module(f"detrkit.{role}"), ROLES[role])

    def first_with(self, roles: Sequence[str], spec: str | Spec) -> str:
        """The first of these roles that has a component of that name; the very first where none has.

        Plug-ins come last: looking for them reads the metadata of all that is installed.
        """
        try:
            name = Spec.parse(spec).name
        except RegistryError:
            return roles[0]
        here = (role for role in roles if (role, name) in self._added or name in self.builtin(role))
        installed = (role for role in roles if name in self.plugins(role))
        return next(chain(here, installed), roles[0])

    def get(self, role: str, name: str) -> type:
        """The class registered under a name.

        Raises:
            RegistryError: unknown name (with the nearest one), two plug-ins of one name, a plug-in that is broken.
        """
        self._check_role(role)
        if (role, name) in self._added:
            return self._added[role, name]
        if name in self.builtin(role):
            return self._component_of(role, importlib.import_module(f"detrkit.{role}.{name}"))
        points = self.plugins(role).get(name, [])
        if not points:
            raise RegistryError(f"unknown name in role {role!r}", value=name, hint=nearest(name, self.names(role)))
        if len(points) > 1:
            raise RegistryError(
                f"two plug-ins register {role} {name!r}",
                hint=(f"uninstall one of {', '.join(_distribution(point) for point in points)}"),
            )
        return self._load(role, points[0])

    def register(self, role: str, name: str, component: type, *, override: bool = False) -> type:
        """Add a component at run time.

        Raises:
            RegistryError: the name is taken and ``override`` is not set, or the class does not keep the contract.
        """
        if not name.isidentifier() or iskeyword(name):
            raise RegistryError("no spec can spell this name", field=role, value=name, expected="a Python identifier")
        self._check_component(role, component)
        if name in self.names(role) and not override:
            raise RegistryError(
                f"{role} {name!r} is registered already",
                value=component.__module__,
                hint=(f"it comes from {self.origin(role, name)}; choose another name or pass override=True"),
            )
        self._added[role, name] = component
        return component

    @contextmanager
    def temporarily(self, role: str, name: str, component: type) -> Iterator[type]:
        """Register a component for the length of a ``with`` block; for tests."""
        before = dict(self._added)
        try:
            yield self.register(role, name, component)
        finally:
            self._added = before

    def signature(self, role: str, name: str) -> Signature:
        """Dimensions and settings of a component."""
        return Signature.of(self.get(role, name))

    def problems(
        self,
        role: str,
        spec: str | Spec,
        dimensions: Mapping[str, Any],
        owner: str = "",
        later: Collection[str] = (),
    ) -> list[str]:
        """Everything that is wrong with a spec under the given dimensions, a line each; empty when it can be made.

        Args:
            role: the role.
            spec: the spec.
            dimensions: what is told.
            owner: where the spec stands.
            later: dimensions that will be told when it is made; what depends on them is checked then.
        """
        try:
            parsed = Spec.parse(spec)
            signature = self.signature(role, parsed.name)
        except RegistryError as error:
            return [f"{owner or role}: {error}"]
        owner = f"{owner}={parsed.name}" if owner else f"{role} {parsed.name!r}"
        found = [
            f"{owner}: unknown setting {name!r}; {_unknown_setting(name, signature)}"
            for name in parsed.settings
            if name not in signature.settings
        ]
        found += [
            f"{owner}: setting {name!r} must be given; expected {fields.describe(signature.annotations[name])}"
            for name, default in signature.settings.items()
            if default is REQUIRED and name not in parsed.settings
        ]
        found += [
            f"{owner}: needs the dimension {name!r} ({DIMENSIONS[name]}), which nothing tells here"
            for name, default in signature.dimensions.items()
            if default is REQUIRED and name not in dimensions and name not in later
        ]
        told = {name: value for name, value in dimensions.items() if name in signature.dimensions}
        found += fields.problems(dict(parsed.settings), signature.annotations, owner)
        complete = not set(later) & (set(signature.dimensions) - set(told))
        if complete and not found and not list(fields.problems(told, signature.annotations, owner)):
            bound = {n: d for n, d in signature.settings.items() if d is not REQUIRED} | told | dict(parsed.settings)
            found += [f"{owner}: {line}" for line in _own_problems(self.get(role, parsed.name), bound)]
        return found

    def make(self, role: str, spec: str | Spec, **dimensions: Any) -> Any:
        """Make one component; dimensions are keywords, settings stand in the spec.

        Dimensions that the component does not ask for are ignored, so that a builder may offer all it knows.

        Raises:
            ConfigError: everything that is wrong with the spec and the dimensions, at once.
        """
        unknown = [name for name in dimensions if name not in DIMENSIONS]
        found = [
            f"make({role!r}, {str(spec)!r}): {name!r} is no dimension; {nearest(name, DIMENSIONS)}; "
            f'settings stand in the spec: "name({name}=...)"'
            for name in unknown
        ]
        parsed = Spec.parse(spec)
        signature = self.signature(role, parsed.name)
        told = {name: value for name, value in dimensions.items() if name in signature.dimensions}
        found += fields.problems(told, signature.annotations, f"{role} {parsed.name!r}")
        found = found or self.problems(role, parsed, dimensions)
        if found:
            raise ConfigError(found)
        return self.get(role, parsed.name)(**told, **parsed.settings)

    def _check_role(self, role: str) -> None:
        if role not in ROLES:
            raise RegistryError("unknown role", value=role, hint=nearest(role, ROLES))

    def origin(self, role: str, name: str) -> str:
        """Where a name comes from: a class, a module of the package, or a plug-in's distribution."""
        if (role, name) in self._added:
            return f"{self._added[role, name].__module__}:{self._added[role, name].__qualname__}"
        if name in self.builtin(role):
            return f"detrkit.{role}.{name}"
        return ", ".join(_distribution(point) for point in self.plugins(role)[name])

    def _component_of(self, role: str, module: Any) -> type:
        contract = self.contract(role)
        found = [
            item
            for item in vars(module).values()
            if inspect.isclass(item)
            and issubclass(item, contract)
            and item.__module__ == module.__name__
            and not inspect.isabstract(item)
            and not item.__name__.startswith("_")
        ]
        if len(found) != 1:
            raise RegistryError(
                "a component's file holds one public component",
                field=module.__name__,
                value=[item.__name__ for item in found],
                expected=f"one subclass of {contract.__name__}",
            )
        self._check_component(role, found[0])
        return found[0]

    def _check_component(self, role: str, component: type) -> None:
        contract = self.contract(role)
        where = getattr(component, "__module__", "?") + ":" + getattr(component, "__qualname__", repr(component))
        if not (inspect.isclass(component) and issubclass(component, contract)):
            raise RegistryError(
                "not a component of this role",
                field=where,
                expected=(f"a subclass of detrkit.{role}.{contract.__name__}"),
            )
        if inspect.isabstract(component):
            missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
            raise RegistryError("component is abstract", field=where, expected=f"it defines {missing}")
        Signature.of(component)

    def _load(self, role: str, point: EntryPoint) -> type:
        try:
            component = point.load()
            self._check_component(role, component)
        except (Exception, SystemExit) as error:
            raise RegistryError(
                f"plug-in {_distribution(point)} is broken: {role} {point.name!r} cannot be used",
                value=f"({type(error).__name__}: {error})",
            ) from error
        return component


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name if point.dist else 'unknown distribution'} ({point.value})"


def _unknown_setting(name: str, signature: Signature) -> str:
    if name in signature.dimensions:
        return f"{name!r} is a dimension: the model tells it"
    return nearest(name, signature.settings)


def _own_problems(component: type, bound: Mapping[str, Any]) -> list[str]:
    """Lines of the component's own ``problems`` hook, called with those bound values that it names."""
    hook = getattr(component, "problems", None)
    if hook is None:
        return []
    wanted = inspect.signature(hook).parameters
    if any(p.default is REQUIRED and name not in bound for name, p in wanted.items()):
        return []
    return list(hook(**{name: value for name, value in bound.items() if name in wanted}))


REGISTRY = Registry()
