"""The project's own lints: what ruff and mypy cannot know. Prints ``file:line: message``; exit 1 on findings.

Each rule is a generator of (line, message). `PACKAGE_RULES` read the files of ``detrkit/``, `TEST_RULES` those of
``tests/``, and `repository_findings` looks at every file that git tracks or would track.
"""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROLES = (
    "attention", "backbones", "box_coders", "classification", "datasets", "denoising", "encoders", "evaluators",
    "matchers", "necks", "placement", "positional", "queries", "reading", "samplers", "selection", "transforms",
)  # fmt: skip
LIGHT = re.compile(
    r"detrkit/((__init__|errors|fields|fitting|specs|registry|config|labels|listing|cli|commands|arguments|changes|tailoring)\.py"
    r"|(presets|matchers|evaluators)/.*)"
)
LONGEST_FILE, LONGEST_FUNCTION, LARGEST_FILE = 400, 40, 1_000_000
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
OWN_GENERATORS = {"default_rng", "Generator", "SeedSequence", "PCG64", "Random", "get_state", "getstate"}
ASSERTING = re.compile(r"(\w+\.)*(assert_|check_)\w+$|law$|laws_of\(.*\)\[.*\]$|pytest\.(raises|warns|fail)$")
COMPARISONS = {"allclose", "isclose", "equal", "array_equal"}
PRIVATE_PATH = re.compile(r"(?<![\w.:/])/(?:home|work|Users|root)/\w")

AXIS = re.compile(r"[A-Z]")  # of a shape in an annotation

Finding = tuple[int, str]
Rule = Callable[[Path, str, ast.Module], Iterator[Finding]]


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the text of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imported(node: ast.AST) -> list[str]:
    """Names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def unsafe_code(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """Nothing in a file of the user's is executed."""
    for call, target in calls(tree):
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if target == "torch.load" and keywords.get("weights_only") != "True":
            yield call.lineno, "torch.load without weights_only=True"
        if target in ("eval", "exec"):
            yield call.lineno, f"{target}() executes what it reads"
        if target.endswith(".extractall") and "filter" not in keywords:
            yield call.lineno, "extractall without filter="
    for node in ast.walk(tree):
        error_only = isinstance(node, ast.ImportFrom) and all(alias.name.endswith("Error") for alias in node.names)
        unsafe = UNSAFE_MODULES.intersection(module.split(".")[0] for module in imported(node))
        if unsafe and not error_only:
            yield node.lineno, f"{unsafe.pop()} executes what it reads"


def silent_failure(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """No error is swallowed whole."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield node.lineno, "bare except"
        elif ast.unparse(node.type) in ("Exception", "BaseException") and isinstance(node.body[0], ast.Pass):
            yield node.lineno, "except Exception: pass"
    yield from (
        (c.lineno, "suppress(Exception)")
        for c, target in calls(tree)
        if target.endswith("suppress") and "Exception" in map(ast.unparse, c.args)
    )


def assert_for_users(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """A user's error is an exception; only laws assert."""
    if not name.startswith("detrkit/testing/"):
        yield from ((n.lineno, "assert; raise a DetrkitError") for n in ast.walk(tree) if isinstance(n, ast.Assert))


def global_randomness(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """NumPy's and Python's global generators are left alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr not in OWN_GENERATORS:
            if ast.unparse(node.value) in ("random", "np.random", "numpy.random"):
                yield node.lineno, f"{ast.unparse(node)} is the global random generator"
        elif isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            bad = [alias.name for alias in node.names if alias.name not in OWN_GENERATORS]
            yield from ((node.lineno, f"{item} is the global random generator") for item in bad)


def printing(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """Only the command line prints."""
    if name not in ("detrkit/cli.py", "detrkit/commands.py"):
        yield from (
            (call.lineno, "print outside cli.py and commands.py") for call, target in calls(tree) if target == "print"
        )


def shadowed_component(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """A role's ``__init__`` binds no name of a component's file: importing that file would replace it."""
    if path.name != "__init__.py" or path.parent.name not in ROLES:
        return
    components = {file.stem for file in path.parent.glob("*.py")} - {"__init__"}
    for node in tree.body:
        bound = {getattr(node, "name", "")}
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            bound = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        yield from ((node.lineno, f"{item!r} is also the name of a component's file") for item in bound & components)


def one_final_component(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """A component's file holds just one ``@final`` class, the component."""
    if path.parent.name in ROLES and path.parent.parent.name == "detrkit" and not path.name.startswith("_"):
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        final = [node.name for node in classes if "final" in map(ast.unparse, node.decorator_list)]
        if len(final) != 1:
            yield 1, f"a component's file holds one @final class, this one {len(final)}"


def length(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """Files and functions stay readable; docstrings do not count."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > LONGEST_FILE:
        yield 1, f"{lines} lines; at most {LONGEST_FILE}"
    for node in functions(tree):
        first = node.body[0]
        docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0  # type: ignore[operator]
        count = node.end_lineno - node.lineno + 1 - docstring  # type: ignore[operator]
        if count > LONGEST_FUNCTION:
            yield node.lineno, f"{node.name} has {count} lines; at most {LONGEST_FUNCTION}"


def heavy_import(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """What answers ``--help`` does not import torch."""
    if not LIGHT.fullmatch(name):
        return
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        if any(module.split(".")[0] in ("torch", "torchvision", "timm") for module in imported(node)):
            yield node.lineno, f"{ast.unparse(node)}: this file must not import torch"


def test_without_assertion(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """A test that asserts nothing cannot fail."""
    for node in functions(tree):
        asserting = any(isinstance(n, ast.Assert) for n in ast.walk(node)) or any(
            ASSERTING.match(target) for _, target in calls(node)
        )
        if node.name.startswith("test") and not asserting:
            yield node.lineno, f"{node.name} asserts nothing"


def unused_comparison(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """A comparison whose result nobody looks at."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            target = ast.unparse(node.value.func)
            if target.rpartition(".")[2] in COMPARISONS:
                yield node.lineno, f"{target}(...) alone asserts nothing"


def unknown_name(path: Path, name: str, tree: ast.Module) -> Iterator[Finding]:
    """A name that is bound nowhere in its file; ruff and mypy take shapes in annotations for such names."""
    bound = {*dir(builtins), "__file__", "__path__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound.add(node.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in bound and not AXIS.fullmatch(node.id):
            yield node.lineno, f"{node.id} is bound nowhere"


PACKAGE_RULES: tuple[Rule, ...] = (
    unsafe_code,
    silent_failure,
    assert_for_users,
    global_randomness,
    printing,
    shadowed_component,
    one_final_component,
    length,
    heavy_import,
    unknown_name,
)
TEST_RULES: tuple[Rule, ...] = (test_without_assertion, unused_comparison)


def source_findings(root: Path, folder: str, rules: tuple[Rule, ...]) -> Iterator[str]:
    """Findings of the rules in every Python file of a folder."""
    for path in sorted((root / folder).rglob("*.py")):
        name, tree = path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        for rule in rules:
            yield from (f"{name}:{line}: {message}" for line, message in rule(path, name, tree))


def repository_findings(root: Path) -> Iterator[str]:
    """Large files, and paths of somebody's own machine, in all files that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        path = root / name
        if not path.is_file():
            continue
        if path.stat().st_size > LARGEST_FILE:
            yield f"{name}:1: {path.stat().st_size:,} bytes; at most {LARGEST_FILE:,}"
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
            if found := PRIVATE_PATH.search(line):
                yield f"{name}:{number}: path of one machine: {line[found.start() :][:40]}"


def findings(root: Path) -> list[str]:
    """All findings of a checkout."""
    return [
        *source_findings(root, "detrkit", PACKAGE_RULES),
        *source_findings(root, "tests", TEST_RULES),
        *repository_findings(root),
    ]


if __name__ == "__main__":
    found = findings(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.exit(1 if found else 0)
