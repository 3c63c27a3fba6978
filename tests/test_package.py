"""The package as a whole: its names, its docstrings, its laws, and the wheel."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import detrkit
from detrkit.registry import REGISTRY, ROLES
from detrkit.testing import laws_of

pytestmark = pytest.mark.fast

PACKAGE = Path(detrkit.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "detrkit."))


def light(name):
    """Whether a module imports without timm, which alone costs seconds."""
    return name != "detrkit.backbones.timm"


def public_things(module):
    """Every public function, class and method that a module defines, by its full name."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(item):
            yield f"{module.__name__}.{name}", item
            for key, member in vars(item).items():
                member = getattr(member, "__func__", getattr(member, "fget", member))
                own = getattr(member, "__qualname__", "").startswith(f"{item.__qualname__}.")
                if inspect.isfunction(member) and own and not key.startswith("_"):
                    yield f"{module.__name__}.{name}.{key}", member
        elif inspect.isfunction(item):
            yield f"{module.__name__}.{name}", item


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert version("detrkit") == detrkit.__version__


def test_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("name", ["detrkit", *filter(light, MODULES)])
def test_names_in_all_exist(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert [word for word in exported if not hasattr(module, word)] == []
    assert len(set(exported)) == len(exported)


def test_what_a_user_needs_is_exported():
    wanted = {"roles", "names", "make", "presets", "config", "build", "load", "register", "temporarily", "Detector"}
    assert wanted | {"Detections", "LabelSpace", "DetrkitError"} <= set(detrkit.__all__) & set(dir(detrkit))


def test_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        detrkit.Detectr  # noqa: B018


@pytest.mark.parametrize("name", ["detrkit", *filter(light, MODULES)])
def test_everything_public_is_described(name):
    module = importlib.import_module(name)
    described = {full: (item.__doc__ or "").strip() for full, item in public_things(module)}
    described[name] = (module.__doc__ or "").strip()
    assert [full for full, text in described.items() if len(text.partition("\n")[0]) < 5] == []


def test_docstrings_are_looked_at():
    """The search finds functions, classes and methods."""
    found = {full for full, _ in public_things(importlib.import_module("detrkit.registry"))}
    assert {"detrkit.registry.Signature", "detrkit.registry.Signature.of", "detrkit.registry.Registry.make"} <= found


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_laws_and_components(role):
    laws = laws_of(role)
    assert len(laws) >= 3
    assert [name for name, law in laws.items() if len((law.__doc__ or "").partition("\n")[0]) < 10] == []
    assert len(REGISTRY.builtin(role)) >= 2


@pytest.mark.parametrize("role", ROLES)
def test_role_is_a_folder_with_its_contract(role):
    assert (PACKAGE / role / "__init__.py").is_file()
    assert inspect.isabstract(REGISTRY.contract(role))


def test_light_modules_import_no_torch():
    names = "errors fields fitting specs registry config labels listing cli presets matchers.numpy"
    script = f"""if True:
        import importlib, sys
        for name in {names.split()}:
            importlib.import_module("detrkit." + name)
            assert "torch" not in sys.modules, name
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dependencies_cover_what_is_imported():
    """Every third party that the package imports stands among its dependencies."""
    import ast

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = [item for items in project.get("optional-dependencies", {}).values() for item in items]
    declared = {
        item.partition(">")[0].partition("[")[0].strip().lower() for item in [*project["dependencies"], *extras]
    }
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    named_otherwise = {"PIL": "pillow", "yaml": "pyyaml", "huggingface_hub": "timm"}  # timm requires it
    third = imported - set(sys.stdlib_module_names) - {"detrkit"}
    assert {name for name in third if named_otherwise.get(name, name).lower() not in declared} == set()


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_wheel_holds_the_package(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(PACKAGE.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    pages = {
        p.relative_to(PACKAGE.parent).as_posix() for p in PACKAGE.rglob("*.*") if p.suffix in (".html", ".css", ".js")
    }
    assert len(pages) >= 10
    assert files | pages | {"detrkit/py.typed"} <= held
    assert not any(name.startswith("tests") for name in held)
