"""The command line: light and fast to answer, one line for every mistake, and a whole run from train to predict."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import detrkit
from detrkit.cli import Commands, main

COMMANDS = [name for name in vars(Commands) if not name.startswith("_")]
HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "matplotlib", "PIL")

FEWER = "toy(length=3, held_out=3, size=32, classes=2)"
TINY = [
    "backbone=tiny(width=8)", "d_model=32", "num_queries=5", "enc_layers=1", "dec_layers=1", "dim_feedforward=32",
    "data=toy(length=6, held_out=24, size=32)",
    "short_side=32", "long_side=32", "batch_size=2", "steps=4", "eval_every=1",
]  # fmt: skip


def program(*words, cwd=None):
    """The program as a process of its own."""
    command = [sys.executable, "-m", "detrkit.cli", *map(str, words)]
    path = os.pathsep.join([str(Path(detrkit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.fixture
def call(capsys):
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


# --- light ------------------------------------------------------------------------------------------------------------

WITHOUT_TORCH = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS), ["list"],
                 ["list", "--json"], ["show", "detr_r50"], ["lst"], ["train", "--outt", "x"],
                 *(["check", thing, "--help"] for thing in ("component", "data", "config", "checkpoint"))]  # fmt: skip


@pytest.mark.fast
def test_import_and_help_load_nothing_heavy():
    script = f"""if True:
        import contextlib, io, sys
        import detrkit
        assert not set({HEAVY}) & set(sys.modules), "import detrkit"
        from detrkit.cli import main
        for words in {WITHOUT_TORCH}:
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                main(words)
            heavy = set({HEAVY}) & set(sys.modules)
            assert not heavy, (words, heavy)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def seconds(*command):
    """Wall time of a Python program that must succeed."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], capture_output=True, check=True)
    return time.perf_counter() - started


@pytest.mark.fast
@pytest.mark.parametrize(
    "command",
    [["-c", "import detrkit"], ["-m", "detrkit.cli", "--help"]]
    + [["-m", "detrkit.cli", c, "--help"] for c in COMMANDS],
    ids=["import", "help", *COMMANDS],
)
def test_answers_within_a_second(command):
    times = []
    while len(times) < 3 and min(times, default=1.0) >= 1.0:
        times.append(seconds(*command))
    assert min(times) < 1.0, times


@pytest.mark.fast
@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_explains_itself(call, words):
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    assert out.startswith("usage: detrkit")


@pytest.mark.fast
def test_version(call):
    assert call("--version") == (0, f"detrkit {detrkit.__version__}\n", "")


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("", "COMMAND"),
    ("lst", "did you mean 'list'"),
    ("trian detr_r50", "did you mean 'train'"),
    ("list --jsn", "did you mean '--json'"),
    ("train detr_tiny --dryrun", "did you mean '--dry-run'"),
    ("predict run --treshold 0.3", "did you mean '--threshold'"),
    ("list attenton", "did you mean 'attention'"),
    ("show detr_r5", "did you mean 'detr_r50'"),
    ("show attention matrx", "did you mean 'matrix'"),
    ("show atention/matrix", "did you mean 'attention'"),
    ("diff detr_r50 detr_tny", "did you mean 'detr_tiny'"),
    ("train", "name a preset"),
    ("train detr_tny", "did you mean 'detr_tiny'"),
    ("train detr_tiny detr_r50", "one preset at a time"),
    ("train detr_tiny num_query=3", "did you mean 'num_queries'"),
    ("train detr_tiny lr=1 lr=2", "lr: given twice"),
    ("train detr_tiny lr=fast", "TrainConfig.lr: got 'fast'; expected float"),
    ("train detr_tiny d_model=abc", "DetectorConfig.d_model: got 'abc'; expected int, at least 1"),
    ("train detr_tiny dropout=1.5", "expected float, at least 0 and at most 1"),
    ("train detr_tiny matcher=scippy", "did you mean 'scipy'"),
    ("train detr_tiny encoder_attention=sdpa(head=4)", "did you mean 'heads'"),
    ("train detr_tiny encoder_attention=__import__('os')", "not a spec string"),
    ("train detr_tiny data=cocoo", "unknown name in role 'datasets'"),
    ("train detr_r50 --dry-run", "data: must be given"),
    ("train detr_tiny device=nonsense", "device: got 'nonsense'"),
    ("train detr_tiny steps=3 epochs=3", "epochs, steps: got 3 and 3"),
    ("train --config missing.toml", "missing.toml: cannot read the configuration"),
    ("train --resume missing", "missing: no run there"),
    ("train detr_tiny --resume missing", "takes no fields"),
    ("eval missing", "missing: no such run or checkpoint"),
    ("predict missing x.jpg", "missing: no such run or checkpoint"),
    ("predict run --batch-size 0", "got 0; expected at least 1"),
    ("predict run --limit -1", "got -1; expected at least 1"),
    ("eval run --batch-size x", "'x'"),
    ("check component matchers/numpy --examples 0", "got 0; expected at least 1"),
    ("check component matchers/numpy --seed -1", "got -1; expected at least 0"),
    ("predict run --threshold high", "invalid float value: 'high'"),
    ("export missing", "missing: no such run or checkpoint"),
    ("export run --format onyx", "invalid choice: 'onyx'"),
    ("check component matchers/nump", "did you mean 'numpy'"),
    ("check component matchr/numpy", "expected MODULE:CLASS, or ROLE/NAME"),
    ("check component no_such_module:Class", "no_such_module: module does not import"),
    ("check component detrkit.matchers.numpy:NumpyMatchr", "did you mean 'NumpyMatcher'"),
    ("check component json:JSONDecoder", "keeps no contract"),
    ("check component attention/matrix --set heads", "not a spec string"),
    ("check", "WHAT"),
    ("check dat toy", "invalid choice: 'dat'"),
    ("check data", "SPEC"),
    ("check data tyo", "did you mean 'toy'"),
    ("check data toy(size=3)", "size"),
    ("check data voc(root='missing')", "missing:root: no such folder"),
    ("check data toy --quik", "did you mean '--quick'"),
    ("check data toy --preset detr_tny", "did you mean 'detr_tiny'"),
    ("check config", "FILE|PRESET"),
    ("check config detr_tny", "did you mean 'detr_tiny'"),
    ("check config missing.toml", "missing.toml: cannot read the configuration"),
    ("check config detr_tiny lrr=3", "did you mean 'lr'"),
    ("check config detr_tiny freeze=nothing", "matches no trained parameter"),
    ("check checkpoint missing", "missing: no such run or checkpoint"),
    ("report missing", "missing: no run there"),
]


@pytest.mark.fast
@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[words or "nothing" for words, _ in MISTAKES])
def test_mistake_is_one_line_and_exit_code_two(call, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words.split())
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("detrkit")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_several_mistakes_are_a_line_each(call):
    code, out, err = call("train", "detr_tiny", "num_query=3", "lr=fast", "dropout=2", "matcher=scippy")
    assert (code, out, len(err.splitlines())) == (2, "", 4)


@pytest.mark.fast
def test_traceback_only_with_debug():
    plain, debug = program("list", "attenton"), program("list", "attenton", "--debug")
    assert (plain.returncode, "Traceback" in plain.stderr) == (2, False)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "did you mean 'attention'" in debug.stderr


@pytest.mark.fast
def test_failure_is_one_line_and_exit_code_one(call, monkeypatch):
    def fail(_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(Commands, "list", staticmethod(fail))
    code, out, err = call("list")
    assert (code, out) == (1, "")
    assert err == "detrkit: failed: RuntimeError: two lines; run again with --debug for the traceback\n"


@pytest.mark.fast
def test_interrupt_and_closed_pipe_are_quiet():
    script = """if True:
        from detrkit.cli import Commands, main
        def stop(_):
            raise KeyboardInterrupt
        Commands.list = staticmethod(stop)
        raise SystemExit(main(["list"]))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    piped = subprocess.run(
        f"{sys.executable} -m detrkit.cli list --json | true", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in piped.stderr


# --- what there is ----------------------------------------------------------------------------------------------------


@pytest.mark.fast
def test_list(call):
    code, out, err = call("list", "--json")
    listed = json.loads(out)
    assert (code, err) == (0, "")
    assert {role: sorted(names) for role, names in listed.items()} == {
        **{role: detrkit.names(role) for role in detrkit.roles()}, "presets": detrkit.presets(),
    }  # fmt: skip
    assert [name for names in listed.values() for name, line in names.items() if len(line) < 10] == []
    assert json.loads(call("list", "matchers", "--json")[1]) == {"matchers": listed["matchers"]}
    text = call("list")[1]
    assert all(f"  {name} " in text for names in listed.values() for name in names)


@pytest.mark.fast
def test_show_component(call):
    code, out, err = call("show", "attention", "matrix", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert shown["settings"] == {"heads": {"takes": "int, at least 1", "default": 8}}
    assert set(shown["dimensions"]) == {"d_model", "dropout"}
    assert call("show", "attention/matrix", "--json") == (code, out, err)
    assert "heads  8            int, at least 1" in call("show", "attention", "matrix")[1]


@pytest.mark.fast
def test_show_preset(call):
    shown = json.loads(call("show", "detr_tiny", "--json")[1])
    assert shown["detector"] == detrkit.config("detr_tiny").to_dict()
    assert shown["train"] == detrkit.training_recipe("detr_tiny").to_dict()
    assert "d_model                  128" in call("show", "detr_tiny")[1]


@pytest.mark.fast
def test_diff(call):
    code, out, err = call("diff", "detr_r50", "detr_tiny", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["d_model"] == {"a": 256, "b": 128}
    assert "matcher" not in found
    assert "d_model          256 -> 128\n" in call("diff", "detr_r50", "detr_tiny")[1]
    assert call("diff", "detr_r50", "detr_r50") == (0, "", "")


@pytest.mark.fast
def test_check_component(call):
    code, out, err = call("check", "component", "matchers/numpy", "--examples", 3)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("all ")
    assert "broken" not in out
    code, out, err = call("check", "component", "matchers/greedy", "--examples", 2, "--json")
    results = json.loads(out)
    assert (code, err) == (0, "")
    assert {result["outcome"] for result in results} == {"kept", "not concerned"}


@pytest.mark.fast
def test_check_component_takes_settings(call):
    assert call("check", "component", "attention/matrix", "--examples", 1, "--set", "heads=2", "--json")[0] == 0


# --- a whole run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its folder, and what the program said."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    done = program("train", "detr_tiny", "--out", folder, *TINY)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_training_leaves_a_run(run):
    folder, done = run
    files = {
        "config.json",
        "metrics.jsonl",
        "last.safetensors",
        "curves.png",
        "predictions.png",
        "attention.png",
        "report.html",
    }
    assert files <= {path.name for path in folder.iterdir()}
    assert str(folder) in done.stdout
    assert "steps of 2 images on" in done.stderr
    assert "steps of" not in done.stdout
    assert "Traceback" not in done.stderr
    assert json.loads((folder / "config.json").read_text())["detector"]["d_model"] == 32
    kinds = [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert (kinds.count("train"), kinds.count("eval")) == (4, 2)


def test_run_folder_is_not_overwritten(run, call):
    folder, _ = run
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, out, err = call("train", "detr_tiny", "--out", folder, *TINY)
    assert (code, out) == (2, "")
    assert "holds a run already" in err
    assert len(err.splitlines()) == 1
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_finished_run_can_be_resumed(run, call):
    folder, _ = run
    weights = (folder / "last.safetensors").read_bytes()
    code, _, err = call("train", "--resume", folder)
    assert code == 0, err
    assert (folder / "last.safetensors").read_bytes() == weights


def test_run_gives_its_configuration_to_another(run, call, tmp_path):
    folder, _ = run
    code, out, err = call("train", "--config", folder / "config.json", "--dry-run", "epochs=2", "--out", tmp_path / "b")
    assert (code, err) == (0, "")
    assert out.startswith("ok: 6 training images")


def test_diff_of_a_run(run, call):
    found = json.loads(call("diff", "detr_tiny", run[0], "--json")[1])
    assert found["d_model"] == {"a": 128, "b": 32}
    assert found["steps"] == {"a": 4800, "b": 4}
    assert "matcher" not in found


def test_eval_prints_json_alone(run, call):
    code, out, err = call("eval", run[0], "--json")
    numbers = json.loads(out)
    assert code == 0
    assert 0 <= numbers["AP"] <= 1
    assert {"AP50", "AP75", "AP/circle", "AR100/circle", "objects", "errors", "confusion"} <= set(numbers)
    assert "Traceback" not in err
    table = call("eval", run[0], "--split", "test", "--data", "toy(length=3, size=32)")[1]
    assert table.splitlines()[0].split()[0] == "AP"
    assert [line.split()[0] for line in table.split("\n\n")[1].splitlines()] == ["class", *numbers["objects"], "all"]
    assert "\nbackground " in table
    assert call("eval", run[0], "--evaluator", "voc(points=11)")[1].startswith("AP ")
    assert "did you mean 'voc'" in call("eval", run[0], "--evaluator", "voc2012")[2]


def test_eval_on_fewer_classes_says_what_it_leaves_out(run, call, tmp_path):
    found = json.loads(call("predict", run[0], "--threshold", "0", "--json", "--data", FEWER, "--out", tmp_path)[1])
    others = sum(one["name"] == "triangle" for image in found.values() for one in image)
    code, out, err = call("eval", run[0], "--data", FEWER)
    assert code == 0
    assert out.startswith("AP ")
    total = sum(map(len, found.values()))
    assert ("detections left out" in err) == (others > 0)
    assert f"{others} of {total} detections left out" in err or not others


def test_predict_prints_json_and_draws(run, call, tmp_path):
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (30, 40), "white").save(tmp_path / "folder" / "b.jpg")
    words = ["--out", tmp_path / "out", "--threshold", "0", "--json"]
    code, out, _ = call("predict", run[0], *words, tmp_path / "a.png", tmp_path / "folder")
    found = json.loads(out)
    assert (code, len(found)) == (0, 2)
    assert len(list((tmp_path / "out").iterdir())) >= 2


@pytest.mark.parametrize(
    ("image", "sentence"),
    [(b"", "a.jpg"), (b"<html>", "a.jpg"), (None, "a.jpg")],
    ids=["empty", "page", "missing"],
)
def test_unreadable_image_is_one_line(run, call, tmp_path, image, sentence):
    if image is not None:
        (tmp_path / "a.jpg").write_bytes(image)
    code, out, err = call("predict", run[0], tmp_path / "a.jpg", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    message = err.rpartition("\r")[2]  # behind the progress bar
    assert sentence in message
    assert len(message.splitlines()) == 1, err


def test_threshold_out_of_range_is_one_line(run, call, tmp_path):
    code, out, err = call("predict", run[0], "--threshold", "1.5", "--limit", "1", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "threshold out of range; got 1.5; expected 0 to 1" in err


@pytest.mark.fast
@pytest.mark.parametrize("place", [0, 1, 2])
def test_dry_run_trains_and_writes_nothing(call, tmp_path, monkeypatch, place):
    """Wherever the options stand among the words."""
    monkeypatch.chdir(tmp_path)
    words = ["detr_tiny", "data=toy(length=3)"]
    code, out, err = call("train", *words[:place], "--out", tmp_path / "run", *words[place:], "--dry-run", "lr=1e-3")
    assert (code, err) == (0, "")
    assert out == "ok: 3 training images, classes circle, square, triangle; nothing was trained\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_dry_run_checks_what_training_would(call):
    code, out, err = call("train", "detr_tiny", "data=toy(objects=(5, 1))", "--dry-run")
    assert (code, out) == (2, "")
    assert "objects" in err


# --- what strangers met -----------------------------------------------------------------------------------------------


def test_an_unreadable_file_of_a_folder_is_left_out_and_named_but_a_named_one_is_refused(run, call, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "good.png")
    (folder / "bad.jpg").write_bytes(b"")
    code, out, err = call("predict", run[0], folder, "--json", "--out", tmp_path / "out")
    assert (code, list(json.loads(out))) == (0, ["good"])
    assert "bad.jpg" in err
    assert "left out" in err
    code, _, err = call("predict", run[0], folder / "bad.jpg", "--out", tmp_path / "out")
    assert code == 2
    assert "bad.jpg" in err


def test_a_dry_run_opens_every_image(call, tmp_path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(whole)
    (tmp_path / "JPEGImages/a.jpg").write_bytes(whole.read_bytes()[:1000])
    box = "<xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax>"
    (tmp_path / "Annotations/a.xml").write_text(
        f"<annotation><object><name>cell</name><bndbox>{box}</bndbox></object></annotation>"
    )
    for split in ("train", "val"):
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("a\n")
    fields = [word for word in TINY if not word.startswith("data=")]
    code, out, err = call("train", "detr_tiny", *fields, f"data=voc(root='{tmp_path}')", "--dry-run")
    assert (code, out) == (2, "")
    assert "a.jpg" in err
    (tmp_path / "JPEGImages/a.jpg").write_bytes(whole.read_bytes())
    assert call("train", "detr_tiny", *fields, f"data=voc(root='{tmp_path}')", "--dry-run")[0] == 0


def test_eval_of_a_lone_checkpoint_asks_for_its_data(run, call, tmp_path):
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((Path(run[0]) / "last.safetensors").read_bytes())
    code, _, err = call("eval", lone)
    assert code == 2
    assert "--data" in err


# --- reports and checks -----------------------------------------------------------------------------------------------


def test_report_is_written_anew(run, call):
    page = Path(run[0]) / "report.html"
    page.unlink()
    code, out, _ = call("report", run[0])
    assert (code, out) == (0, f"{page}\n")
    assert "Worst images" in page.read_text(encoding="utf-8")


def test_check_checkpoint_of_a_run(run, call):
    code, out, _ = call("check", "checkpoint", run[0], "--json")
    best, last = json.loads(out)
    assert (code, best["kind"], last["kind"]) == (0, "detector", "training")
    assert last["progress"]["step"] == 4
    assert best["label_space"]["names"] == ["circle", "square", "triangle"]
    assert best["counts"] == {"loaded": len(best["report"]["entries"])}
    assert "intact" in call("check", "checkpoint", run[0], "--tensors")[1]


def test_check_of_a_damaged_checkpoint_is_one_line(run, call, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray((Path(run[0]) / "best.safetensors").read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    code, out, err = call("check", "checkpoint", damaged)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "damaged" in err


def test_check_config_of_a_run(run, call):
    code, out, err = call("check", "config", run[0], "num_queries=7", "--json")
    found = json.loads(out)
    assert (code, err, found["preset"]) == (0, "", "detr_tiny")
    assert found["changes"]["num_queries"] == [20, 7]
    assert call("check", "config", Path(run[0]) / "config.json", "num_queries=7", "--json")[1] == out


def test_check_data_writes_a_page(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("check", "data", "toy(length=4, held_out=3, size=32)", "--preset", "detr_tiny", "--json")
    found = json.loads(out)
    assert (code, err, found["refusals"]) == (0, "", [])
    assert {name: split["images"] for name, split in found["splits"].items()} == {"train": 4, "val": 3}
    assert (tmp_path / found["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert found["page"] == "check-toy/index.html"


def test_a_run_that_leaves_bad_images_out_is_reported_without_them(call, tmp_path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "data" / name).mkdir(parents=True)
    box = "<xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax>"
    for name in ("good", "bad"):
        Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / f"data/JPEGImages/{name}.jpg")
        (tmp_path / f"data/Annotations/{name}.xml").write_text(
            f"<annotation><object><name>cell</name><bndbox>{box}</bndbox></object></annotation>"
        )
    for split in ("train", "val"):
        (tmp_path / f"data/ImageSets/Main/{split}.txt").write_text("good\nbad\n")
    image = tmp_path / "data/JPEGImages/bad.jpg"
    image.write_bytes(image.read_bytes()[:900])
    data = f"data=voc(root='{tmp_path}/data')"
    fields = [data if word.startswith("data=") else word for word in TINY]
    code, _, err = call("train", "detr_tiny", *fields, "on_bad_image=skip", "--out", tmp_path / "run")
    assert code == 0, err
    assert "bad.jpg" in (tmp_path / "run/report.html").read_text(encoding="utf-8")


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.fast
def test_bench_hands_its_words_to_the_scripts_of_the_checkout(call, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "run", lambda words, **_: started.append(words) or SimpleNamespace(returncode=3))
    code, _, _ = call("bench", "model", "floor", "--rounds", "2", "--device", "cuda", "--quick")
    folder = Path(detrkit.__file__).parents[1] / "benchmarks"
    assert started == [[sys.executable, str(folder), "model", "floor", "--rounds", "2", "--device", "cuda", "--quick"]]
    assert code == 3


@pytest.mark.fast
def test_bench_of_an_installed_package_says_where_the_scripts_are(call, monkeypatch, tmp_path):
    monkeypatch.setattr(detrkit, "__file__", str(tmp_path / "detrkit" / "__init__.py"))
    code, out, err = call("bench")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "they come with a checkout" in err


def test_eval_looks_as_it_is_told(run, call, monkeypatch):
    asked = []
    made = detrkit.Detector.for_inference
    monkeypatch.setattr(detrkit.Detector, "for_inference", lambda self, **how: asked.append(how) or made(self, **how))
    for words in ([], ["--no-fold", "--amp", "bf16"]):
        assert call("eval", run[0], "--json", *words)[0] == 0
    assert asked == [
        {"fold": True, "amp": "none", "compile": False},
        {"fold": False, "amp": "bf16", "compile": False},
    ]
