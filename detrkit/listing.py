"""What there is: components with a line about each (read from their source, not imported), presets, and details."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

from detrkit import fields
from detrkit.errors import RegistryError, nearest
from detrkit.presets import first_line, presets, summary, training_recipe, unchecked
from detrkit.registry import DIMENSIONS, REGISTRY, REQUIRED, ROLES


def everything() -> dict[str, dict[str, str]]:
    """Names and one line about each, by role; presets last."""
    by_role = {role: {name: about(role, name) for name in REGISTRY.names(role)} for role in REGISTRY.roles()}
    return {**by_role, "presets": {name: summary(name) for name in presets()}}


def about(role: str, name: str) -> str:
    """First docstring line of a built-in component, read without importing it; the distribution of a plug-in."""
    if name not in REGISTRY.builtin(role):
        return f"plug-in: {REGISTRY.origin(role, name)}"
    tree = ast.parse((Path(__file__).parent / role / f"{name}.py").read_text(encoding="utf-8"))
    final = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.decorator_list]
    return first_line(ast.get_docstring(final[-1] if final else tree))


def as_text(listing: dict[str, dict[str, str]]) -> str:
    """The listing for people."""
    width = max((len(name) for names in listing.values() for name in names), default=0)
    blocks = [
        f"{role}\n" + "".join(f"  {name:<{width}}  {line}\n" for name, line in names.items())
        for role, names in listing.items()
    ]
    return "\n".join(blocks)


def preset(name: str) -> dict[str, Any]:
    """A preset's fields, detector and training."""
    return {"about": summary(name), "detector": unchecked(name).to_dict(), "train": training_recipe(name).to_dict()}


def component(role: str, name: str) -> dict[str, Any]:
    """A component's docstring, dimensions and settings."""
    signature = REGISTRY.signature(role, name)
    settings = {
        n: {"takes": fields.describe(signature.annotations[n]), "default": "(must be given)" if d is REQUIRED else d}
        for n, d in signature.settings.items()
    }
    return {
        "about": inspect.getdoc(REGISTRY.get(role, name)) or "",
        "dimensions": {n: DIMENSIONS[n] for n in signature.dimensions},
        "settings": settings,
    }


def details(content: dict[str, Any]) -> str:
    """A preset or component for people."""
    lines = [content["about"]]
    for title, entries in content.items():
        if title == "about" or not entries:
            continue
        width = max(map(len, entries))
        lines += ["", title]
        for name, value in entries.items():
            text = f"{value['default']!s:<12} {value['takes']}" if isinstance(value, dict) else value
            lines.append(f"  {name:<{width}}  {text}")
    return "\n".join(lines) + "\n"


def import_component(name: str) -> type:
    """A class from ``MODULE:CLASS``, or a registered one from ``ROLE/NAME``.

    Raises:
        RegistryError: the module does not import, or has no such class.
    """
    if "/" in name and name.split("/")[0] in ROLES:
        return REGISTRY.get(*name.split("/", 1))
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise RegistryError("not a component", value=name, expected="MODULE:CLASS, or ROLE/NAME of a registered one")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = f"({type(error).__name__}: {error})"
        raise RegistryError("module does not import", field=module_name, value=reason) from None
    if not isinstance(getattr(module, class_name, None), type):
        classes = [n for n, item in vars(module).items() if isinstance(item, type)]
        raise RegistryError("no such class in the module", field=name, hint=nearest(class_name, classes))
    return getattr(module, class_name)
