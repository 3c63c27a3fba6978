"""Write ``docs/reference/``: a page for each role, its components, contract and laws, as signatures and docstrings say.

``--check`` writes nothing and exits with 1 where a page is not what this would write. The pages depend on the source
alone: plug-ins are left out.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from detrkit import fields, listing  # noqa: E402
from detrkit.config import DetectorConfig, TrainConfig, difference  # noqa: E402
from detrkit.presets import first_line, presets, summary, training_recipe, unchecked  # noqa: E402
from detrkit.registry import DIMENSIONS, REGISTRY, REQUIRED, ROLES  # noqa: E402
from detrkit.testing import laws_of  # noqa: E402

FOLDER = Path("docs/reference")
NOTICE = "<!-- Written by tools/reference.py from the docstrings: change those, then run `make reference`. -->\n\n"
SECTIONS = ("Args", "Attributes", "Keys", "Raises", "Returns")


@cache
def pages() -> dict[Path, str]:
    """Text of each page by its path in the repository."""
    texts = {
        "README": index(),
        "configuration": configuration(),
        "presets": preset_page(),
        **{role: role_page(role) for role in ROLES},
    }
    return {
        FOLDER / f"{name}.md": NOTICE + re.sub(r"\n{3,}", "\n\n", text.rstrip()) + "\n" for name, text in texts.items()
    }


def index() -> str:
    """The roles, each with its contract's first line and its components."""
    rows = [
        (f"[{role}]({role}.md)", about_role(role), ", ".join(f"`{name}`" for name in REGISTRY.builtin(role)))
        for role in ROLES
    ]
    return (
        "# Reference\n\nA role is a folder of the package, a component is a file in it, and the file's name is the "
        "name by which it is picked. `detrkit list` and `detrkit show ROLE NAME` print the same in a terminal.\n\n"
        f"{table(('role', 'what it is', 'components'), rows)}\n"
        "Beside the roles: the fields of a [configuration](configuration.md) and the [presets](presets.md).\n\n"
        "## Dimensions\n\nWhat a model or a run tells its components; nobody types these.\n\n"
        f"{table(('dimension', 'what it is'), [(f'`{name}`', text) for name, text in DIMENSIONS.items()])}"
    )


def role_page(role: str) -> str:
    """Contract, laws and components of a role."""
    contract, names = REGISTRY.contract(role), REGISTRY.builtin(role)
    laws = [f"- {spans(sentence(law))}\n" for law in laws_of(role).values()]
    rows = [(f"[`{name}`](#{name})", listing.about(role, name)) for name in names]
    return "\n".join(
        [
            f"# {role}\n\n{markdown(module_about(role))}",
            f"## Components\n\n{table(('name', 'what it is'), rows)}",
            *(component(role, name) for name in names),
            f"## The contract `{contract.__name__}`\n\n{source(contract)}\n\n{markdown(inspect.getdoc(contract))}",
            *(method(item) for item in public_methods(contract)),
            *(f"### {kind.__name__}\n\n{markdown(inspect.getdoc(kind))}" for kind in beside(contract)),
            f"## Laws\n\n`detrkit check component {role}/NAME` runs them on a component.\n\n{''.join(laws)}",
        ]
    )


def component(role: str, name: str) -> str:
    """Signature, docstring, dimensions and settings of a component."""
    kind, signature = REGISTRY.get(role, name), REGISTRY.signature(role, name)
    settings = [
        (f"`{n}`", fields.describe(signature.annotations[n]), "must be given" if d is REQUIRED else f"`{d!r}`")
        for n, d in signature.settings.items()
    ]
    told = ", ".join(f"`{n}`" for n in signature.dimensions)
    spec = f"{name}({', '.join(f'{n}=...' for n in signature.settings)})" if settings else name
    return "\n".join(
        [
            f"### {name}\n\n`{spec}` · {source(kind)}\n",
            markdown(inspect.getdoc(kind)),
            f"Told by the model: {told}.\n" if told else "",
            table(("setting", "takes", "default"), settings) if settings else "",
        ]
    )


def configuration() -> str:
    """All fields of both configurations."""
    where = "a keyword of `detrkit.build` and `detrkit.config`, and a `key=value` of the command line"
    parts = [f"# Configuration\n\nEvery field is {where}.\n"]
    for kind in (DetectorConfig, TrainConfig):
        rows = [
            (f"`{name}`", takes(annotation), f"`{getattr(kind, name)}`")
            for name, annotation in kind.annotations().items()
        ]
        about = markdown(inspect.getdoc(kind))
        parts.append(f"## {kind.__name__}\n\n{source(kind)}\n\n{about}\n{table(('field', 'takes', 'default'), rows)}")
    return "\n".join(parts)


def takes(annotation: Any) -> str:
    """What a field takes; a spec links to the page of its role."""
    roles = fields.roles_of(annotation)
    linked = " or ".join(f"[{role}]({role}.md)" for role in roles)
    optional = " or none" if fields.accepts(None, annotation) else ""
    return f"a spec of {linked}{optional}" if roles else fields.describe(annotation)


def preset_page() -> str:
    """Each preset with its line and what it changes against the defaults, which are DETR's."""
    rows = [(f"[`{name}`](#{name})", summary(name)) for name in presets()]
    details = [f"## {name}\n\n{table(('field', 'value'), changes(name))}" for name in presets()]
    about = "Each is told by what it changes against the defaults of the [configuration](configuration.md)."
    about += " `detrkit diff A B` compares any two."
    return f"# Presets\n\n{about}\n\n{table(('preset', 'what it is'), rows)}\n" + "\n".join(details)


def changes(name: str) -> list[tuple[str, str]]:
    """Fields of a preset that differ from the defaults, with their values."""
    pairs = ((DetectorConfig(), unchecked(name)), (TrainConfig(), training_recipe(name)))
    found = {field: new for old, mine in pairs for field, (_, new) in difference(old, mine).items()}
    return [(f"`{field}`", f"`{value}`") for field, value in found.items()] or [("none", "the defaults")]


# --- from Python to Markdown ------------------------------------------------------------------------------------------


def module_about(role: str) -> str:
    """The docstring of a role's folder."""
    return inspect.getdoc(importlib.import_module(f"detrkit.{role}")) or ""


def about_role(role: str) -> str:
    """What a role is, in one line."""
    return first_line(module_about(role)).partition(": ")[2]


def sentence(thing: Any) -> str:
    """The first sentence of a docstring, which may go over several lines."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def source(thing: type) -> str:
    """A link to the file of a class."""
    name = thing.__module__.replace(".", "/")
    path = next(p for p in (f"{name}.py", f"{name}/__init__.py") if (ROOT / p).is_file())
    return f"[{path}](../../{path})"


def public_methods(contract: type) -> list[Any]:
    """Methods of a contract that are told about, in its order."""
    return [item for name, item in vars(contract).items() if inspect.isfunction(item) and not name.startswith("_")]


def beside(contract: type) -> list[type]:
    """Other public classes in the contract's file: what its methods take and give, and templates."""
    items = vars(importlib.import_module(contract.__module__)).items()
    own = [(name, item) for name, item in items if getattr(item, "__module__", "") == contract.__module__]
    return [i for name, i in own if inspect.isclass(i) and i is not contract and not name.startswith("_")]


def method(function: Any) -> str:
    """A method with its signature as it is written, and its docstring."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(f"{function} is no function")
    inside = "".join(f"    {argument},\n" for argument in arguments_of(node.args))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    duty = "To be defined by a component. " if getattr(function, "__isabstractmethod__", False) else ""
    about = markdown(f"{duty}{inspect.getdoc(function)}")
    return f"### {node.name}\n\n```python\n{node.name}({inside and f'{chr(10)}{inside}'}){returns}\n```\n\n{about}"


def arguments_of(arguments: ast.arguments) -> Iterator[str]:
    """The arguments of a method as they are written, ``self`` left out."""
    required = len(arguments.args) - len(arguments.defaults)
    defaults = [None] * required + list(arguments.defaults)
    yield from map(argument_of, arguments.args[1:], defaults[1:])
    if arguments.kwonlyargs:
        yield "*"
    yield from map(argument_of, arguments.kwonlyargs, arguments.kw_defaults)


def argument_of(argument: ast.arg, default: ast.expr | None) -> str:
    """``name: annotation = default``."""
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")


def markdown(docstring: str | None) -> str:
    """A docstring's prose as it is; ``Args:`` and the like become lists, literal blocks fenced code."""
    blocks = re.split(r"\n{2,}", (docstring or "").strip())
    return "\n".join(block_as_markdown(block) for block in blocks)


def block_as_markdown(block: str) -> str:
    """One paragraph, list, literal block or section of a docstring."""
    if block.startswith("    "):
        return f"```\n{textwrap.dedent(block)}\n```\n"
    head, _, rest = block.partition("\n")
    if head.rstrip(":") not in SECTIONS or not head.endswith(":"):
        return re.sub(r"::$", ":", spans(block)) + "\n"
    entries = re.split(r"\n(?!\s)", textwrap.dedent(rest))
    lines = "".join(f"- {entry_as_markdown(' '.join(entry.split()))}\n" for entry in entries)
    return f"**{head}**\n\n{lines}"


def entry_as_markdown(entry: str) -> str:
    """``name: text`` with its name as code; other text as it is."""
    return re.sub(r"^(\w+(?:, \w+)*): ", r"`\1`: ", spans(entry))


def spans(text: str) -> str:
    """Code in a text as Markdown writes it."""
    return re.sub(r"``(.+?)``", r"`\1`", text)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(spans(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def stale(root: Path) -> list[Path]:
    """Pages that are not what this would write, missing or superfluous ones included."""
    wanted = pages()
    there = {path.relative_to(root) for path in (root / FOLDER).glob("*.md")}
    different = {p for p in there & set(wanted) if (root / p).read_text(encoding="utf-8") != wanted[p]}
    return sorted(different | (there ^ set(wanted)))


def write(root: Path) -> None:
    """Write all pages, and remove those of roles that are gone."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for path in stale(root):
        (root / path).unlink(missing_ok=True)
    for path, text in pages().items():
        (root / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        write(ROOT)
    found = stale(ROOT)
    sys.stdout.write("".join(f"{path}: not up to date; run `make reference`\n" for path in found))
    sys.exit(1 if found else 0)
