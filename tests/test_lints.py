"""The lints: the repository passes them, and each rule catches what it is for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import lints  # noqa: E402

pytestmark = pytest.mark.fast

FINAL = "from typing import final\n@final\nclass A: ...\n"

PLANTS = {
    "torch.load": ("detrkit/x.py", "x = torch.load(p)", "weights_only"),
    "torch.load with False": ("detrkit/x.py", "x = torch.load(p, weights_only=False)", "weights_only"),
    "pickle": ("detrkit/x.py", "def f():\n    import pickle", "executes"),
    "from pickle": ("detrkit/x.py", "from pickle import loads", "executes"),
    "eval": ("detrkit/x.py", "eval('1')", "executes"),
    "exec": ("detrkit/x.py", "exec('1')", "executes"),
    "extractall": ("detrkit/x.py", "archive.extractall(folder)", "filter"),
    "bare except": ("detrkit/x.py", "try:\n    f()\nexcept:\n    g()", "bare except"),
    "except pass": ("detrkit/x.py", "try:\n    f()\nexcept Exception:\n    pass", "pass"),
    "suppress": ("detrkit/x.py", "with contextlib.suppress(Exception):\n    f()", "suppress"),
    "assert": ("detrkit/x.py", "assert 1", "assert"),
    "numpy's generator": ("detrkit/x.py", "np.random.seed(0)", "global random"),
    "numpy's draw": ("detrkit/x.py", "x = np.random.rand(3)", "global random"),
    "python's generator": ("detrkit/x.py", "import random\nx = random.choice([1])", "global random"),
    "from random": ("detrkit/x.py", "from random import shuffle", "global random"),
    "print": ("detrkit/x.py", "print(1)", "print"),
    "shadowed by an import": ("detrkit/attention/__init__.py", "import torch", "component's file"),
    "shadowed by a name": ("detrkit/attention/__init__.py", "torch = 1", "component's file"),
    "shadowed by an alias": ("detrkit/attention/__init__.py", "from x import y as torch", "component's file"),
    "no final": ("detrkit/attention/mine.py", "class A: ...", "@final"),
    "two final": ("detrkit/attention/mine.py", FINAL + FINAL, "@final"),
    "a name from nowhere": (
        "detrkit/x.py",
        "def f() -> dict[N, 'B N']:\n    return nearset(1)",
        "nearset is bound nowhere",
    ),
    "long file": ("detrkit/x.py", "x = 1\n" * 400, "401 lines"),
    "long function": ("detrkit/x.py", "def f():\n" + "    x = 1\n" * 40, "41 lines"),
    "torch in a light file": ("detrkit/config.py", "from torch import nn", "must not import torch"),
    "torch in a branch": ("detrkit/presets/x.py", "try:\n    import torch.nn\nexcept ImportError: ...", "must not"),
    "torch in a class": ("detrkit/cli.py", "class A:\n    import torchvision", "must not import torch"),
    "test without assertion": ("tests/test_x.py", "def test_a():\n    f()", "asserts nothing"),
    "method without assertion": (
        "tests/test_x.py",
        "class TestA:\n    def test_a(self):\n        f()",
        "asserts nothing",
    ),
    "bare allclose": ("tests/test_x.py", "torch.allclose(a, b)", "alone asserts nothing"),
    "bare array_equal": ("tests/test_x.py", "np.array_equal(a, b)", "alone asserts nothing"),
}

INNOCENT = {
    "torch.load": ("detrkit/x.py", "x = torch.load(p, weights_only=True)"),
    "a pickle error": ("detrkit/x.py", "from pickle import UnpicklingError"),
    "eval mode": ("detrkit/x.py", "model.eval()"),
    "a handled error": ("detrkit/x.py", "try:\n    f()\nexcept Exception as e:\n    g(e)"),
    "a law": ("detrkit/testing/x.py", "assert 1"),
    "an own generator": ("detrkit/x.py", "import numpy as np\nrng = np.random.default_rng(0)\nx = rng.random()"),
    "print of the command line": ("detrkit/cli.py", "print(1)"),
    "names of every kind": (
        "detrkit/x.py",
        "import a.b as c\ntry:\n    d = [e for e in c]\nexcept OSError as y:\n    z(y)\ndef z(*h, **i): return h, i, z"
        "\nmatch d:\n    case [*j]: j\nx = lambda k: k",
    ),
    "a final component": ("detrkit/attention/mine.py", FINAL),
    "a helper file": ("detrkit/attention/_mine.py", "class A: ..."),
    "a long docstring": ("detrkit/x.py", 'def f():\n    """A.\n' + "    b\n" * 40 + '    """\n    return 1'),
    "torch when it is needed": ("detrkit/cli.py", "def f():\n    import torch"),
    "torch for the type checker": (
        "detrkit/config.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    ),
    "asserting tests": (
        "tests/test_x.py",
        "def test_a():\n    check_a()\ndef test_b():\n    with pytest.raises(E):\n        f()",
    ),
    "a law in a test": ("tests/test_x.py", "def test_a():\n    laws_of('x')['y'](make, draw)"),
    "a used comparison": ("tests/test_x.py", "assert torch.allclose(a, b)"),
}

BOUND = "; ".join(f"{name} = 1" for name in ("archive", "contextlib", "f", "folder", "g", "model", "np", "p", "torch"))


def repository(folder, name, text):
    """A checkout with one file in it, beside an attention named torch."""
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / "detrkit" / "attention").mkdir(parents=True)
    (folder / "detrkit" / "attention" / "torch.py").write_text(FINAL)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{text.removesuffix(chr(10))}\n{BOUND}" if name == "detrkit/x.py" else text)
    return folder


@pytest.mark.parametrize(("name", "text", "message"), PLANTS.values(), ids=PLANTS)
def test_plant_is_caught(tmp_path, name, text, message):
    found = lints.findings(repository(tmp_path, name, text))
    assert len(found) >= 1
    assert all(message in line and line.startswith(f"{name}:") for line in found), found


@pytest.mark.parametrize(("name", "text"), INNOCENT.values(), ids=INNOCENT)
def test_innocent_code_passes(tmp_path, name, text):
    assert lints.findings(repository(tmp_path, name, text)) == []


@pytest.mark.parametrize("folder", ["home/someone", "Users/someone", "work/main"])
def test_private_path_is_caught_in_any_file(tmp_path, folder):
    found = lints.findings(repository(tmp_path, "docs/x.md", f"one\nsee `/{folder}/data`\n"))
    assert found == [f"docs/x.md:2: path of one machine: /{folder}/data`"]


def test_address_is_no_private_path(tmp_path):
    assert lints.findings(repository(tmp_path, "docs/x.md", "https://example.org/home/page and ./home/here")) == []


def test_large_file_is_caught(tmp_path):
    found = lints.findings(repository(tmp_path, "docs/x.csv", "1,2,3,4\n" * 130_000))
    assert found == ["docs/x.csv:1: 1,040,000 bytes; at most 1,000,000"]


def test_ignored_files_are_not_read(tmp_path):
    root = repository(tmp_path, "x.log", "/" + "home/someone/x")
    (root / ".gitignore").write_text("*.log\n")
    assert lints.findings(root) == []


def test_program_prints_and_exits(tmp_path):
    root = repository(tmp_path, "detrkit/x.py", "print(1)")
    program = [sys.executable, str(ROOT / "tools" / "lints.py"), str(root)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "detrkit/x.py:1: print outside cli.py and commands.py\n",
        "",
    )
    (root / "detrkit" / "x.py").write_text("")
    assert subprocess.run(program, capture_output=True, text=True).returncode == 0


def test_roles_are_those_of_the_registry():
    from detrkit.registry import ROLES

    assert set(lints.ROLES) == set(ROLES)


def test_repository_passes():
    assert lints.findings(ROOT) == []
