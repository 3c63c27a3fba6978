"""A study from the command line to its page: right pairs, nothing trained twice, nothing compared that cannot be."""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_checks import NASTY, assert_stands_alone

import detrkit
from detrkit.ablation import runner
from detrkit.ablation.identity import differences
from detrkit.ablation.report import page
from detrkit.ablation.study import Budget, Plan, Study
from detrkit.ablation.text import as_markdown, as_text
from detrkit.cli import main
from detrkit.errors import ConfigError, DetrkitError, NonFiniteError
from detrkit.training.log import MetricsLog
from detrkit.training.loop import Trainer

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "benchmarks/studies").glob("*.toml"))
BASE = [
    "detr_tiny", "backbone=tiny(width=8)", "d_model=32", "num_queries=5", "enc_layers=1", "dec_layers=1",
    "dim_feedforward=32", "data=toy(length=8, held_out=4, size=32)", "short_side=32", "long_side=32", "eval_every=1",
]  # fmt: skip
VARY = ["--vary", "encoder_attention=matrix", "--seeds", "2", "--budget", "3steps"]


@pytest.fixture
def call(capsys):
    """Runs ``detrkit ablate`` in this process: exit code, stdout, stderr."""

    def run(*words):
        try:
            code = main(["ablate", *map(str, words)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def names(folder):
    """Files of a study's runs with their times."""
    return {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()}


def all_losses(folder):
    """Losses of every run of a study."""
    return {path.parent.relative_to(folder): losses(path.parent) for path in folder.rglob("metrics.jsonl")}


def runs_of(content):
    """What must not depend on how often a study was stopped."""
    kept = ("seed", "score", "steps", "curve", "dynamics", "identity")
    return {v["name"]: [{name: run[name] for name in kept} for run in v["runs"]] for v in content["variants"]}


def table_of(content):
    """All that a study says but its costs, times among them."""
    said = [
        {name: v[name] for name in ("name", "mean", "noise", "comparison", "behaviour")} for v in content["variants"]
    ]
    return said, runs_of(content)


def losses(folder):
    """Loss of every step of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


# --- a whole study ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study's folder."""
    folder = tmp_path_factory.mktemp("study") / "a"
    assert main(["ablate", *BASE, *VARY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def content(study):
    """What that study found."""
    return json.loads((study / "study.json").read_text())


def test_a_study_leaves_runs_table_and_page(study, content):
    base, matrix = content["variants"]
    assert [run["seed"] for run in base["runs"]] == [run["seed"] for run in matrix["runs"]] == [42, 43]
    assert matrix["diff"] == {"encoder_attention": ["sdpa", "matrix"]}
    assert matrix["comparison"]["seeds"] == 2
    assert base["comparison"] is None
    assert base["costs"]["training_time"] == base["costs"]["inference_time"] == 1
    assert matrix["costs"]["macs"]["total"] == base["costs"]["macs"]["total"] > 0
    assert {path.relative_to(study / "runs").as_posix() for path in study.rglob("config.json")} == {
        f"{variant}/seed-{seed}/config.json" for variant in ("base", "encoder_attention=matrix") for seed in (42, 43)
    }
    for variant in content["variants"]:
        assert [len(curve) for run in variant["runs"] for curve in run["dynamics"].values()] == [3] * 14
        assert variant["behaviour"]["ends"]["unmatched"]["mean"] <= 1
    assert matrix["behaviour"]["ends"]["unmatched"]["difference"] == pytest.approx(0, abs=0.5)
    text = assert_stands_alone((study / "report.html").read_text(encoding="utf-8")).text
    assert matrix["comparison"]["sentence"] in text
    picture = ElementTree.parse(study / "ranking.svg").getroot()
    assert "encoder_attention=matrix" in [piece.text for piece in picture]
    assert "](ranking.svg)" in (study / "report.md").read_text(encoding="utf-8")
    assert "| encoder_attention=matrix |" in (study / "report.md").read_text(encoding="utf-8")


def test_the_page_leads_to_what_each_detector_looks_at(study, content):
    text = (study / "report.html").read_text(encoding="utf-8")
    for variant in content["variants"]:
        assert variant["sights"].keys() & {"worst", "best"}
        for kind, path in variant["sights"].items():
            assert f'href="{path}"' in text
            page = (study / path).read_text(encoding="utf-8")
            assert f"The {kind} images of {variant['name']}, seed 42" in page
    assert len({path for variant in content["variants"] for path in variant["sights"].values()}) > 1


def test_equivalent_attentions_train_alike(study, content):
    for seed in (42, 43):
        a, b = (losses(study / "runs" / name / f"seed-{seed}") for name in ("base", "encoder_attention=matrix"))
        assert len(a) == 3
        assert a == pytest.approx(b, rel=1e-4)
    assert abs(content["variants"][1]["comparison"]["difference"]) < 0.01


def test_finished_runs_are_reused_also_by_fewer_seeds(study, content, call):
    before = names(study)
    code, out, err = call(*BASE, *VARY, "--out", study, "--json")
    assert code == 0, err
    assert content == json.loads(out)
    assert names(study) == before
    assert "4 of them finished" in err
    fewer = json.loads(call(*BASE, *VARY[:2], "--budget", "3steps", "--seeds", "1", "--out", study, "--json")[1])
    assert runs_of(fewer)["base"] == runs_of(content)["base"][:1]
    assert fewer["variants"][1]["comparison"]["verdict"] in ("identical in every run", "too few seeds")


def test_studies_share_what_they_have_trained(study, content, call, tmp_path):
    """Another study with the same base finds its runs in the store; a longer one trains its own beside them."""
    shared = ["--runs", tmp_path / "runs", "--seeds", "1", "--json"]
    code, out, err = call(*BASE, *VARY, *shared, "--out", tmp_path / "a")
    assert (code, runs_of(json.loads(out))["base"]) == (0, runs_of(content)["base"][:1]), err
    before = names(tmp_path)
    other = ["--vary", "lr=1e-3", "--budget", "3steps"]
    code, out, err = call(*BASE, *other, *shared, "--out", tmp_path / "b")
    assert "2 runs, 1 of them finished" in err
    assert before.items() < names(tmp_path).items()  # what was there is untouched
    assert len(list((tmp_path / "runs").iterdir())) == 3
    code, _, err = call(*BASE, *other[:2], "--budget", "2steps", *shared, "--out", tmp_path / "b")
    assert (code, "2 runs, 0 of them finished" in err) == (0, True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["lr=3e-3"], "train.lr ("),
        (["data=toy(length=9, held_out=4, size=32)"], "data.train.images (8, now 9)"),
        (["--budget", "4steps"], "train.steps (3, now 4)"),
    ],
)
def test_runs_of_another_identity_are_refused_by_what_differs(study, call, words, named):
    before = names(study)
    base = [word for word in BASE if word.split("=")[0] != words[0].split("=")[0]]
    code, out, err = call(*base, *VARY, *words, "--out", study)
    assert (code, out) == (2, "")
    assert named in err
    assert "runs/base/seed-42 and " in err
    assert names(study) == before


def test_an_ordinary_run_in_a_studys_place_is_left_alone(call, tmp_path):
    place = tmp_path / "runs/base/seed-42"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    code, _, err = call(*BASE, *VARY, "--out", tmp_path)
    assert code == 2
    assert "a run that is no part of a study" in err


# --- stopped and gone on with -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of a process, as far as files go."""


@pytest.mark.parametrize("steps", [4, 5])
def test_a_killed_study_goes_on_to_the_same_result(study, content, call, tmp_path, monkeypatch, steps):
    """Killed in the second run, before and after a step of it; then stopped by a signal in the third."""
    whole, done = Trainer.step, []

    def step(self, window):
        done.append(1)
        if len(done) == steps:
            raise Killed
        return whole(self, window)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(Killed):
        call(*BASE, *VARY, "--out", tmp_path)

    def interrupted(self, window):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, window)

    monkeypatch.setattr(Trainer, "step", interrupted)
    code, out, err = call(*BASE, *VARY, "--out", tmp_path)
    assert (code, out) == (143, "")
    assert "the study was stopped; the same command goes on with it" in err
    monkeypatch.undo()
    code, out, err = call(*BASE, *VARY, "--out", tmp_path, "--json")
    assert code == 0, err
    assert runs_of(json.loads(out)) == runs_of(content)
    assert all_losses(tmp_path) == all_losses(study)


@pytest.mark.parametrize("seed", range(2))
def test_a_study_killed_at_random_gives_the_same_table(study, content, call, tmp_path, monkeypatch, seed):
    """Killed again and again, before or after any step, line of a log or file of a run, until it ends."""
    chance, kills = random.Random(seed), 0
    left = chance.randrange(1, 30)

    def deadly(whole):
        def call(*args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            done = whole(*args, **options)
            left -= 1
            if left == 0:
                raise Killed
            return done

        return call

    for owner, name in ((Trainer, "step"), (MetricsLog, "write"), (runner, "replace_text"), (Trainer, "save")):
        monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
    while True:
        try:
            code, out, err = call(*BASE, *VARY, "--out", tmp_path, "--json")
        except Killed:
            kills, left = kills + 1, chance.randrange(8, 40)
        else:
            break
    assert (code, kills >= 3) == (0, True), err
    assert table_of(json.loads(out)) == table_of(content)
    assert all_losses(tmp_path) == all_losses(study)


def test_workers_stop_with_the_study_and_then_give_the_same(study, content, call, tmp_path):
    words = [*BASE, *VARY, "--seeds", "1", "--out", tmp_path, "--workers", "2", "--json"]

    def stop():
        while not list(tmp_path.rglob("identity.json")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    code, out, err = call(*words)
    assert (code, out) == (143, "")
    assert "the same command goes on with it" in err
    code, out, err = call(*words)
    assert code == 0, err
    assert runs_of(json.loads(out)) == {name: runs[:1] for name, runs in runs_of(content).items()}
    assert all_losses(tmp_path).items() < all_losses(study).items()


def test_a_run_that_fails_in_a_worker_is_named(tmp_path, monkeypatch):
    job = runner.Job("base", 1, tmp_path / "runs/base/seed-1", {"detector": {}, "train": {}, "threads": 1})
    monkeypatch.setattr(runner, "_command", lambda _: [sys.executable, "-c", "raise SystemExit('the reason')"])
    with pytest.raises(detrkit.errors.DetrkitError, match="the run failed: the reason"):
        runner.run_all([job], tmp_path, workers=1, say=lambda _: None)


def test_time_is_a_budget(call, tmp_path):
    words = [*BASE, "--vary", "encoder_attention=matrix", "--seeds", "1", "--budget", "0.001s", "steps=50"]
    code, out, _ = call(*words, "--out", tmp_path, "--json")
    content = json.loads(out)
    assert code == 0
    for variant in content["variants"]:
        (run,) = variant["runs"]
        assert (run["steps"], run["out_of_time"], run["curve"][0][0]) == (1, True, 1)
    assert "runs ended by time, after 1 to 1 steps" in as_text(content)


def test_losses_that_are_not_finite_are_a_result(call, tmp_path, monkeypatch):
    def diverge(self, window):
        raise NonFiniteError("the loss is not finite")

    monkeypatch.setattr(Trainer, "step", diverge)
    code, out, err = call(*BASE, *VARY, "--out", tmp_path)
    assert code == 0, err
    assert "base, seed 42: no score: the loss is not finite" in out
    assert "no seed has a score of both" in out


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("--vary lr=1e-3", "name a preset as the base"),
    ("detr_tiny data=toy", "--vary: give at least one"),
    ("detr_tny data=toy --vary lr=1e-3", "did you mean 'detr_tiny'"),
    ("detr_tiny data=toy --vary encoder_atention=sdpa", "did you mean 'encoder_attention'"),
    ("detr_tiny data=toy --vary encoder_attention=matrx", "did you mean 'matrix'"),
    ("detr_tiny data=toy --vary lr=1e-3 --metric AP500", "did you mean 'AP50'"),
    ("detr_tiny data=toy --vary lr=1e-3 --budget 5minutes", "expected more than 0, as 500steps, 12epochs or 90s"),
    ("detr_tiny data=toy --vary lr=1e-3 --budget 0steps", "--budget: got '0steps'"),
    ("detr_tiny data=toy --vary lr=1e-3 --margin -1", "margin: got -1.0; expected float"),
    ("detr_tiny data=toy --vary lr=1e-3 --seeds 0", "got 0; expected at least 1"),
    ("detr_tiny data=toy --vary steps=3,4", "steps cannot be varied"),
    ("detr_tiny data=toy --vary seed=3,4", "seed cannot be varied"),
    ("detr_tiny data=toy steps=4 --vary lr=1e-3 --budget 3steps", "steps: --budget says how long"),
    ("detr_tiny data=toy eval_every=0 --vary lr=1e-3", "runs must be evaluated"),
    ("detr_r50 --vary lr=1e-3", "data: must be given"),
    ("detr_tiny data=toy(held_out=4) --vary data.held_out=5", "data.held_out=5: not scored on the images of the base"),
    ("detr_tiny data=toy --vary lr=1e-3 --sees 3", "did you mean '--seeds'"),
    ("--study missing.toml", "missing.toml: cannot read the study"),
    ("detr_tiny num_classes=3 --vary lr=1", "num_classes: the data tells it"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_mistake_is_one_line_and_exit_code_two(call, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words.split())
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert sentence in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_a_study_file_is_read_and_the_command_line_counts(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('base = "detr_tiny"\nvary = ["lr=1e-3"]\nseeds = 4\n[fields]\ndata = "toy"\nd_model = 32\n')
    plan = Plan.read(path).with_words(["d_model=64"]).replace("x", seeds=2)
    made = Study.of(plan)
    assert (made.seeds, made.variations.variants[0].detector.d_model) == ((42, 43), 64)
    path.write_text('bse = "detr_tiny"\nseeds = "many"\n')
    with pytest.raises(ConfigError) as refused:
        Plan.read(path)
    unknown, wrong = refused.value.problems
    assert "unknown word 'bse'; did you mean 'base'" in unknown
    assert wrong.endswith("seeds: got 'many'; expected int, at least 1")


@pytest.mark.fast
def test_a_study_is_like_another_but_for_what_it_says_itself(tmp_path):
    first, middle, last = (tmp_path / name for name in ("first.toml", "bases/middle.toml", "bases/last.toml"))
    last.parent.mkdir()
    first.write_text('like = "bases/middle.toml"\nquestion = "Is it?"\n[fields]\nd_model = 64\n')
    middle.write_text('like = "last.toml"\nresult = "Yes."\nseeds = 2\nvary = ["lr=1"]\n')
    last.write_text('base = "detr_tiny"\nquestion = "Was it?"\nseeds = 4\n[fields]\nd_model = 32\ndropout = 0.5\n')
    plan = Plan.read(first)
    assert plan == Plan(
        question="Is it?", base="detr_tiny", seeds=2, vary=("lr=1",), fields={"d_model": 64, "dropout": 0.5}
    )
    for written, sentence in (
        (
            'like = "../first.toml"',
            "middle.toml:like: not another study; got '../first.toml'; expected the path of one",
        ),
        ("like = 3", "middle.toml:like: not another study; got 3"),
        ('like = "none.toml"', "none.toml: cannot read the study"),
        ('like = "last.toml"\nsede = 3', "middle.toml: unknown word 'sede'; did you mean 'seeds'"),
        ('liek = "last.toml"', "middle.toml: unknown word 'liek'; did you mean 'like'"),
        ('like = "last.toml"\nfields = 3', "middle.toml.fields: got 3"),
    ):
        middle.write_text(written)
        with pytest.raises(DetrkitError) as refused:
            Plan.read(first)
        assert sentence in str(refused.value)


@pytest.mark.fast
def test_fields_and_budget_of_a_study_hold_for_every_preset():
    plan = Plan.read(STUDIES[0]).replace("x", vary=("preset=dab_detr_tiny",), fields={"d_model": 64}, budget="9steps")
    variant = Study.of(plan).variations.variants[1]
    assert (variant.detector.placement, variant.detector.d_model, variant.train.steps) == ("modulated", 64, 9)


@pytest.mark.fast
def test_a_preset_that_is_varied_may_have_fields_of_its_own(tmp_path):
    path = tmp_path / "s.toml"
    written = 'base = "detr_tiny"\nvary = ["preset=dab_detr_tiny,dn_detr_tiny"]\n[fields]\ndec_layers = 2\n'
    path.write_text(written + "[preset_fields.dn_detr_tiny]\ndec_layers = 4\n")
    variants = Study.of(Plan.read(path)).variations.variants
    assert [variant.detector.dec_layers for variant in variants] == [2, 2, 4]
    path.write_text(written + "[preset_fields.dn_tiny]\nsteps = 4\n")
    with pytest.raises(ConfigError) as refused:
        Study.of(Plan.read(path))
    unused, length = refused.value.problems
    assert unused == (
        "preset_fields.dn_tiny: no effect, since the preset is not varied; did you mean 'dn_detr_tiny'? "
        "(known: dab_detr_tiny, dn_detr_tiny)"
    )
    assert length == "preset_fields.dn_tiny.steps: all runs have one length"


@pytest.mark.fast
@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_ready_studies_can_be_run(path):
    plan = Plan.read(path)
    asked = {} if plan.vary else {"vary": ("backbone.weights=trunk.pth",)}  # the user says where weights lie
    made = Study.of(plan.replace("x", **asked))
    assert None not in (plan.question, plan.hypothesis, plan.budget)
    assert len(made.variations.variants) > 1
    assert not made.variations.same


@pytest.mark.fast
def test_budgets():
    assert str(Budget.parse("90s")) == "90 s of training"
    assert Budget.parse("2.5 s").seconds == 2.5
    assert Budget.parse("12epochs").apply(detrkit.training_recipe("detr_tiny")).epochs == 12


@pytest.mark.fast
def test_names_of_variants_become_folders_that_differ():
    found = {runner.folder_name(name) for name in ("a=b(c='d')", "a=b(c='/d')", "a=b[c='d']", "../x", "a" * 300)}
    assert len(found) == 5
    assert all("/" not in name and len(name) < 100 for name in found)
    assert runner.folder_name("encoder_attention=matrix") == "encoder_attention=matrix"


@pytest.mark.fast
def test_differences_name_what_one_side_lacks():
    assert list(differences({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}})) == ["a.c (None, now 2)"]


def test_nothing_of_a_study_is_taken_as_html(content):
    content = json.loads(json.dumps(content))
    content["question"] = content["hypothesis"] = content["variants"][1]["name"] = NASTY
    content["base"]["fields"] = {NASTY: NASTY}
    assert assert_stands_alone(page(content)).text.count(NASTY) >= 5
    assert NASTY in as_markdown(content)
