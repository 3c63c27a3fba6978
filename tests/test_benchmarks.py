"""The speed benchmarks: each runs on tiny sizes and writes what it printed; their numbers are not looked at here."""

import importlib
import json
import math
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

LIGHT = ["attention", "floor", "matchers", "padding", "positional", "samplers"]
SLOW = ["backbones", "criterion", "model"]


@pytest.fixture
def script(monkeypatch):
    """Imports a script as if it were run, and forgets it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ({path.stem for path in BENCHMARKS.glob("*.py")} - {"__main__"}).intersection(sys.modules):
        del sys.modules[name]


@pytest.fixture
def run(script, tmp_path, capsys):
    """Runs a script; gives what it wrote and what it printed."""

    def quickly(name, *options):
        pytest.importorskip("transformers")
        file = tmp_path / f"{name}.json"
        script(name).main(["--quick", "--rounds", "1", "--json", str(file), *options])
        return json.loads(file.read_text()), capsys.readouterr().out.splitlines()

    return quickly


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.fast) for name in LIGHT),
        *(pytest.param(name, marks=pytest.mark.nightly) if name != "criterion" else name for name in SLOW),
    ],
)
@pytest.mark.timeout(300)
def test_a_benchmark_prints_one_aligned_table_and_a_sentence(run, name):
    wrote, lines = run(name, "--threads", "1")
    about, header, *rows, blank, sentence = lines
    assert len(rows) == len(wrote["rows"]) > 0
    assert blank == ""
    assert sentence == wrote["result"]
    assert wrote["machine"]["rounds"] == 1
    assert all(f"{key} {value}" in about for key, value in wrote["machine"].items())
    assert max(map(len, rows)) <= len(header) <= 120
    numbers = [value for row in wrote["rows"] for value in row.values() if isinstance(value, float)]
    assert all(math.isfinite(number) and number > 0 for number in numbers)


ROLES, MEASURES = ("trainer", "worker 0", "worker 1"), ("RSS", "PSS")


def watched_run(script, tmp_path, *options):
    """What the memory of a run of three epochs with two workers was."""
    file = tmp_path / "memory.json"
    script("dataloading").main([*options, "--json", str(file)])
    return json.loads(file.read_text())


@pytest.mark.timeout(300)
def test_memory_of_every_process_and_epoch_is_told(script, tmp_path, capsys):
    wrote = watched_run(script, tmp_path, "--quick")
    assert [(row["process"], row["measure"]) for row in wrote["rows"]] == list(product(ROLES, MEASURES))
    assert all(len(row["peak_mb_by_epoch"]) == 3 and min(row["peak_mb_by_epoch"]) > 10 for row in wrote["rows"])
    assert "; 3 processes in all." in wrote["result"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:6:2]] == list(ROLES)
    assert lines[-1] == wrote["result"]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_over_epochs_of_photographs(script, tmp_path, shared):
    wrote = watched_run(script, tmp_path, "--data", f"voc(root='{shared / 'data/bccd'}')")
    assert max(row["growth_percent"] for row in wrote["rows"] if row["measure"] == "RSS") < 5


def test_every_script_is_tested():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if not path.stem.startswith("_")}
    assert scripts - {"evaluators", "dataloading"} == {*LIGHT, *SLOW}


@pytest.mark.fast
def test_rivals_run_in_turn_and_the_first_round_is_not_counted(script):
    measuring, calls, ticks = script("_measuring"), [], iter(range(100))
    rivals = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = measuring.interleaved(rivals, 3, clock=lambda: next(ticks))
    assert calls == list("abababab")
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


@pytest.mark.fast
def test_an_accelerator_is_waited_for(script, monkeypatch):
    measuring, calls = script("_measuring"), []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: calls.append("wait"))
    measuring.interleaved({"a": lambda: calls.append("run")}, 1, device="cuda:0")
    assert calls == ["wait", "run", "wait"] * 2


@pytest.mark.fast
def test_a_ratio_is_the_median_of_the_rounds_own(script):
    assert script("_measuring").ratio([1.0, 20.0, 3.0], [2.0, 10.0, 4.0]) == 0.75


@pytest.mark.fast
@pytest.mark.parametrize("wrong", [1.1, float("nan")])
def test_rivals_that_differ_are_not_measured(script, wrong):
    check_same = script("_measuring").check_same
    check_same(torch.tensor([1.0001]), torch.tensor([1.0]), "this")
    with pytest.raises(SystemExit, match="this: differs from its peer"):
        check_same(torch.tensor([wrong]), torch.tensor([1.0]), "this")


@pytest.mark.fast
def test_the_folder_runs_its_scripts():
    def call(*options):
        return subprocess.run([sys.executable, str(BENCHMARKS), *options], capture_output=True, text=True, check=False)

    told = call("--help").stdout
    assert all(name in told for name in (*LIGHT, *SLOW))
    found = call("positional", "--quick", "--rounds", "1")
    assert found.returncode == 0
    assert "In times of the plain statement" in found.stdout
    unknown = call("speed")
    assert unknown.returncode == 2
    assert "unknown benchmark speed" in unknown.stderr
    assert call("positional", "--rounds", "none").returncode == 2
    assert "invalid choice" in call("matchers", "--threads", "2").stderr
