"""A new component is one new file, or an entry point of another distribution; nothing else is edited."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import detrkit
from detrkit.errors import ConfigError, RegistryError
from detrkit.registry import REGISTRY

PACKAGE = Path(detrkit.__file__).parent

ATTENTION = textwrap.dedent('''
    """Dense attention, image after image."""

    from typing import final

    import torch

    from detrkit.attention import AttentionOutput, DenseAttention


    @final
    class LoopAttention(DenseAttention):
        """Dense attention as a loop over images and heads, the softmax written out."""

        def attend(self, query, key, value, mask, need_weights):
            """One matrix at a time."""
            images = []
            for b, heads in enumerate(zip(*self.project(query, key, value), strict=True)):
                hidden = None if mask is None else mask[b]
                images.append([self.read(q, k, hidden) for q, k, _ in zip(*heads, strict=True)])
            weights = torch.stack([torch.stack(heads) for heads in images])
            dropped = torch.nn.functional.dropout(weights, self.dropout, self.training)
            read = self.merge(dropped @ self.project(query, key, value)[2])
            return AttentionOutput(read, weights if need_weights else None)

        def read(self, q, k, mask):
            scores = q @ k.T / self.head_dim**0.5
            if mask is not None:
                scores = scores.masked_fill(mask, float("-inf"))
            powers = (scores - scores.amax(-1, keepdim=True)).exp()
            return powers / powers.sum(-1, keepdim=True)
''')
BLIND_TO_MASKS = ATTENTION.replace("if mask is not None:\n            scores", "if False:\n            scores")


def run(*command, path, cwd=None):
    """A Python program that finds modules in ``path`` first."""
    return subprocess.run(
        [sys.executable, *command], cwd=cwd or path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
    )  # fmt: skip


def cli(*words, path, cwd=None):
    """The command line, likewise."""
    return run("-m", "detrkit.cli", *words, path=path, cwd=cwd)


# --- one new file in the package --------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    """A copy of the package; returns the folder of its attentions."""
    shutil.copytree(PACKAGE, tmp_path / "detrkit", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "detrkit" / "attention"


def test_new_file_is_listed_built_and_checked(package, tmp_path):
    (package / "loop.py").write_text(ATTENTION)
    listed = cli("list", "attention", path=tmp_path)
    assert "  loop      Dense attention as a loop over images and heads, the softmax written out.\n" in listed.stdout
    script = """if True:
        import torch, detrkit
        sizes = dict(backbone="tiny(width=8)", d_model=16, enc_layers=1, dec_layers=1, dim_feedforward=16)
        torch.manual_seed(0)
        ours = detrkit.build("detr_tiny", encoder_attention="loop(heads=4)", **sizes).eval()
        other = detrkit.build("detr_tiny", encoder_attention="sdpa(heads=4)", **sizes).eval()
        other.load_state_dict(ours.state_dict())
        images, mask = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.bool)
        mask[1, :, 20:] = True
        print(detrkit.__file__)
        print(type(ours.encoder.layers[0].self_attn).__name__)
        print((ours(images, mask).logits - other(images, mask).logits).abs().max().item() < 1e-5)
    """
    built = run("-c", script, path=tmp_path)
    assert built.stdout.splitlines() == [str(tmp_path / "detrkit" / "__init__.py"), "LoopAttention", "True"], (
        built.stderr
    )
    checked = cli("check", "component", "attention/loop", "--examples", "3", path=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert "laws kept" in checked.stdout.splitlines()[-1]
    assert "broken" not in checked.stdout


def test_new_file_that_ignores_its_mask_is_caught(package, tmp_path):
    assert BLIND_TO_MASKS != ATTENTION
    (package / "loop.py").write_text(BLIND_TO_MASKS)
    checked = cli("check", "component", "attention/loop", "--examples", "5", path=tmp_path)
    assert checked.returncode == 1
    broken = [line for line in checked.stdout.splitlines() if line.startswith("broken")]
    assert any("under the mask" in line for line in broken), checked.stdout
    assert "Traceback" not in checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (ATTENTION.replace("class Loop", "class _Loop"), "a component's file holds one public component"),
        (ATTENTION + ATTENTION.replace("class Loop", "class Second"), "a component's file holds one public component"),
        ("import no_such_module\n", "no_such_module"),
    ],
)
def test_unusable_new_file_is_told_and_breaks_nothing_else(package, tmp_path, text, sentence):
    (package / "loop.py").write_text(text)
    script = """if True:
        import detrkit
        from detrkit.cli import main
        assert main(["list", "attention"]) == 0
        detrkit.make("attention", "matrix", d_model=8)
        assert main(["show", "attention", "loop"]) in (1, 2)
    """
    done = run("-c", script, path=tmp_path)
    assert (done.returncode, "  loop " in done.stdout) == (0, True), done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- another distribution ---------------------------------------------------------------------------------------------


class Plugins:
    """Fake installed distributions on the path of this process."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch

    def install(self, distribution, entry_points, text, role="attention"):
        """A distribution with one module of its name and these entry points."""
        place = self.folder / distribution
        info = place / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (place / f"{distribution}.py").write_text(text)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{distribution}.py,,\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
        (info / "entry_points.txt").write_text(f"[detrkit.{role}]\n{lines}")
        self.monkeypatch.syspath_prepend(place)
        return place


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    modules = set(sys.modules)
    yield Plugins(tmp_path, monkeypatch)
    for name in set(sys.modules) - modules:
        if name.startswith("plug_"):
            del sys.modules[name]


def marking(marker):
    """The attention in a module that leaves a marker when it is imported."""
    return (
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n{ATTENTION.replace('class Loop', 'class Plugged')}"
    )


@pytest.mark.fast
def test_plugin_is_listed_unimported_and_loaded_on_first_use(plugins, tmp_path):
    marker = tmp_path / "imported"
    plugins.install("plug_one", {"plugged": "plug_one:PluggedAttention"}, marking(marker))
    assert "plugged" in detrkit.names("attention")
    from detrkit.listing import everything

    assert everything()["attention"]["plugged"] == "plug-in: plug_one (plug_one:PluggedAttention)"
    assert detrkit.config("detr_tiny").encoder_attention == "sdpa"
    assert not marker.exists()
    model = detrkit.build("detr_tiny", decoder_cross_attention="plugged(heads=2)")
    assert type(model.decoder.layers[0].cross_attn).__name__ == "PluggedAttention"
    assert marker.exists()


def test_plugin_is_known_to_the_command_line(plugins, tmp_path):
    place = plugins.install("plug_one", {"plugged": "plug_one:PluggedAttention"}, marking(tmp_path / "imported"))
    listed = cli("list", "attention", path=place, cwd=tmp_path)
    assert any(line.split() == ["plugged", "plug-in:", "plug_one", "(plug_one:PluggedAttention)"]
               for line in listed.stdout.splitlines())  # fmt: skip
    assert not (tmp_path / "imported").exists()
    checked = cli("check", "component", "attention/plugged", "--examples", "1", path=place, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout


BROKEN = {
    "missing module": ("plug_bad:Bad", "import no_such_module", "No module named 'no_such_module'"),
    "syntax": ("plug_bad:Bad", "class", "SyntaxError"),
    "error": ("plug_bad:Bad", "1 / 0", "ZeroDivisionError"),
    "exit": ("plug_bad:Bad", "raise SystemExit(3)", "SystemExit"),
    "missing class": ("plug_bad:Bad", "", "AttributeError"),
    "wrong class": ("plug_bad:Bad", "class Bad: ...", "not a component of this role"),
    "bad signature": (
        "plug_bad:PluggedAttention",
        ATTENTION.replace("class Loop", "class Plugged").replace(
            '    def attend', '    def __init__(self, **options):\n        super().__init__(8)\n\n    def attend'
        ),
        "signature hides its settings",
    ),
}  # fmt: skip


@pytest.mark.fast
@pytest.mark.parametrize("case", BROKEN)
def test_broken_plugin_is_named_and_breaks_nothing_else(plugins, case):
    value, text, sentence = BROKEN[case]
    plugins.install("plug_bad", {"bad": value}, text)
    assert "bad" in detrkit.names("attention")
    assert detrkit.make("attention", "matrix", d_model=8).heads == 8
    with pytest.raises(RegistryError, match=r"plug-in plug_bad .*is broken: attention 'bad' cannot be used") as caught:
        REGISTRY.get("attention", "bad")
    assert sentence in str(caught.value)
    with pytest.raises(ConfigError, match="encoder_attention: plug-in plug_bad"):
        detrkit.config("detr_tiny", encoder_attention="bad")


@pytest.mark.fast
def test_two_plugins_of_one_name_are_refused_naming_both(plugins):
    for distribution in ("plug_one", "plug_two"):
        text = ATTENTION.replace("class Loop", "class Plugged")
        plugins.install(distribution, {"plugged": f"{distribution}:PluggedAttention"}, text)
    assert detrkit.names("attention").count("plugged") == 1
    with pytest.raises(RegistryError, match="two plug-ins register attention 'plugged'") as caught:
        REGISTRY.get("attention", "plugged")
    assert "plug_one (plug_one:PluggedAttention)" in str(caught.value)
    assert "plug_two (plug_two:PluggedAttention)" in str(caught.value)
    assert detrkit.make("attention", "sdpa", d_model=8).heads == 8


@pytest.mark.fast
def test_builtin_names_win(plugins, tmp_path):
    plugins.install("plug_one", {"sdpa": "plug_one:PluggedAttention"}, marking(tmp_path / "imported"))
    assert REGISTRY.get("attention", "sdpa").__module__ == "detrkit.attention.sdpa"
    assert detrkit.names("attention").count("sdpa") == 1
    assert REGISTRY.origin("attention", "sdpa") == "detrkit.attention.sdpa"
    assert not (tmp_path / "imported").exists()


@pytest.mark.fast
def test_builtin_names_win_over_those_of_other_roles(plugins):
    """A field that takes two roles, too."""
    plugins.install("rival", {"deformable": "rival:Deformable", "own": "rival:Own"}, "")
    assert REGISTRY.first_with(("attention", "reading"), "deformable(points=2)") == "reading"
    assert REGISTRY.first_with(("reading", "attention"), "own") == "attention"
    assert REGISTRY.first_with(("attention", "reading"), "nobody") == "attention"


@pytest.mark.fast
def test_builtin_parts_are_built_without_looking_for_plugins(monkeypatch):
    """That reads the metadata of every installed distribution, thousands of files a detector."""
    monkeypatch.setattr("detrkit.registry.entry_points", lambda group: pytest.fail(f"looks for {group}"))
    detrkit.build("detr_tiny")


@pytest.mark.fast
def test_registered_component_does_not_hide_behind_a_plugin(plugins):
    text = ATTENTION.replace("class Loop", "class Plugged")
    plugins.install("plug_one", {"plugged": "plug_one:PluggedAttention"}, text)
    matrix = REGISTRY.get("attention", "matrix")
    with (
        pytest.raises(RegistryError, match=r"registered already.*plug_one"),
        REGISTRY.temporarily("attention", "plugged", matrix),
    ):
        pass


# --- a class of the current folder ------------------------------------------------------------------------------------


def test_class_of_the_current_folder_is_checked(tmp_path):
    (tmp_path / "mine.py").write_text(ATTENTION + BLIND_TO_MASKS.replace("class Loop", "class Blind"))
    script = """if True:
        from detrkit.cli import main
        assert main(["check", "component", "mine:LoopAttention", "--examples", "2"]) == 0
        print("---")
        assert main(["check", "component", "mine:BlindAttention", "--examples", "5"]) == 1
        assert main(["check", "component", "mine:LoopAttentio"]) == 2
    """
    done = run("-c", script, path=PACKAGE.parent, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    right, wrong = done.stdout.split("---\n")
    assert "broken" not in right
    assert "under the mask" in wrong
    assert "did you mean 'LoopAttention'" in done.stderr
