"""Reading ``--vary``: values, settings inside specs, one factor at a time and the grid, sameness, and mistakes."""

import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detrkit.ablation.variations import Variations, split_values
from detrkit.errors import ConfigError
from detrkit.presets import training_recipe, unchecked

pytestmark = pytest.mark.fast

DETECTOR, TRAIN = unchecked("detr_tiny"), training_recipe("detr_tiny")


def vary(*asked, grid=False, **changes):
    return Variations.of(DETECTOR.replace(**changes), TRAIN, asked, grid=grid)


def names(found):
    return [variant.name for variant in found.variants]


def problems(*asked, grid=False, **changes):
    with pytest.raises(ConfigError) as error:
        vary(*asked, grid=grid, **changes)
    return list(error.value.problems)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("sdpa,matrix", ["sdpa", "matrix"]),
        (" sdpa , matrix ", ["sdpa", "matrix"]),
        ("tiny(width=8, depth=2),tiny(width=16)", ["tiny(width=8, depth=2)", "tiny(width=16)"]),
        ("toy(size=(32, 48)),toy", ["toy(size=(32, 48))", "toy"]),
        ("voc(root='a,b'),voc(root='c)')", ["voc(root='a,b')", "voc(root='c)')"]),
        ("'backbone,encoder',none", ["backbone,encoder", "none"]),
        ("1", ["1"]),
    ],
)
def test_commas_split_outside_brackets_and_quotes(text, pieces):
    assert split_values(text) == pieces


@given(st.lists(st.sampled_from(["a", "b(c=1, d=(2, 3))", "'e,f'", '"[g"', "{}"]), min_size=1, max_size=5))
def test_joining_undoes_splitting(pieces):
    assert split_values(" ,".join(pieces)) == [piece.strip("'\"") for piece in pieces]


@given(st.text("ab,()[]'\" =", max_size=12))
def test_splitting_either_reads_or_refuses(text):
    with suppress(ValueError, SyntaxError):
        assert len(split_values(text)) <= text.count(",") + 1


def test_one_factor_at_a_time():
    found = vary(
        "encoder_attention=sdpa,matrix,per_head", "aux_loss=true,false", "backbone=tiny(width=8),tiny(width=16)"
    )
    assert names(found) == [
        "base",
        "encoder_attention=matrix",
        "encoder_attention=per_head",
        "aux_loss=false",
        "backbone=tiny(width=8)",
        "backbone=tiny(width=16)",
    ]
    assert found.same == {"encoder_attention=sdpa": "base", "aux_loss=true": "base"}
    assert found.variants[0].detector == DETECTOR
    assert found.variants[3].detector == DETECTOR.replace(aux_loss=False)
    assert found.variants[3].changes == {"aux_loss": "false"}
    assert {variant.train for variant in found.variants} == {TRAIN}


def test_grid():
    found = vary("encoder_attention=sdpa,matrix", "lr=1e-4,2e-4,4e-4", grid=True)
    assert names(found) == [
        "base",
        "encoder_attention=sdpa, lr=1e-4",
        "encoder_attention=sdpa, lr=4e-4",
        "encoder_attention=matrix, lr=1e-4",
        "encoder_attention=matrix, lr=2e-4",
        "encoder_attention=matrix, lr=4e-4",
    ]
    assert found.same == {"encoder_attention=sdpa, lr=2e-4": "base"}
    assert (found.variants[3].detector.encoder_attention, found.variants[3].train.lr) == ("matrix", 1e-4)


def test_setting_of_the_base():
    found = vary("backbone.depth=1,2,3", "encoder_attention.heads=2,8")
    assert [v.detector.backbone for v in found.variants[1:3]] == [
        "tiny(depth=1, stride=16)",
        "tiny(depth=3, stride=16)",
    ]
    assert found.variants[3].detector.encoder_attention == "sdpa(heads=2)"
    assert found.same == {"backbone.depth=2": "base", "encoder_attention.heads=8": "base"}  # 8 is the default


def test_setting_of_a_varied_spec():
    found = vary("encoder_attention.heads=2,8", "encoder_attention=matrix,sdpa", grid=True)
    specs = [variant.detector.encoder_attention for variant in found.variants[1:]]
    assert specs == ["matrix(heads=2)", "matrix(heads=8)", "sdpa(heads=2)"]


def test_setting_of_the_data_set():
    found = Variations.of(DETECTOR, TRAIN, ["data.size=32,(32, 48)"])
    assert [variant.train.data for variant in found.variants] == ["toy", "toy(size=32)", "toy(size=(32, 48))"]


def test_values_are_compared_by_meaning():
    found = vary("lr=1e-4,0.0001", "backbone=tiny( stride=16,depth = 2 )", "encoder_attention=sdpa,sdpa(heads=8)")
    assert names(found) == ["base", "lr=1e-4"]
    assert found.same["lr=0.0001"] == "lr=1e-4"
    assert set(found.same.values()) == {"base", "lr=1e-4"}


def test_length_of_training():
    found = vary("steps=100,200", "epochs=3")
    assert [(v.train.steps, v.train.epochs) for v in found.variants[1:]] == [(100, None), (200, None), (None, 3)]


def test_another_preset_brings_its_parts_and_its_recipe():
    found = vary("lr=1e-3", "preset=detr_tiny,dab_detr_tiny", grid=True)
    assert names(found) == ["base", "preset=detr_tiny, lr=1e-3", "preset=dab_detr_tiny, lr=1e-3"]
    assert found.variants[2].detector == unchecked("dab_detr_tiny")
    assert found.variants[2].train == training_recipe("dab_detr_tiny", lr=1e-3)
    assert vary("preset=detr_tiny").same == {"preset=detr_tiny": "base"}
    assert problems("preset=detr_tny")[0].startswith("preset=detr_tny: unknown preset 'detr_tny'; did you mean")


def test_left_out_parts_and_quoted_texts():
    found = vary("positional=none,learned", "freeze='backbone,encoder'")
    assert [v.detector.positional for v in found.variants[1:3]] == [None, "learned"]
    assert found.variants[3].train.freeze == "backbone,encoder"


def test_nothing_varied_is_the_base():
    assert names(vary()) == names(vary(grid=True)) == ["base"]


def test_everything_that_cannot_be_read_is_said_at_once():
    found = problems(
        "encoder_atention=x", "lr.x=3", "seed=1", "num_classes=4", "lr", "aux_loss=,true", "aux_loss=(", "lr=1", "lr=2"
    )
    expected = [
        "unknown field 'encoder_atention'; did you mean 'encoder_attention'?",
        "lr is no spec and has no settings",
        "seed cannot be varied: differences are paired by seed",
        "num_classes cannot be varied: the data set gives it",
        "expected FIELD=VALUE,VALUE",
        "an empty value",
        "do not close",
        "lr is varied twice",
    ]
    assert len(found) == len(expected)
    assert all(text in line for text, line in zip(expected, found, strict=True))
    assert found[0].startswith("--vary encoder_atention=x: ")


def test_everything_that_cannot_be_built_is_said_at_once():
    found = problems(
        "encoder_attention=sdpaa", "encoder_attention.hads=2", "encoder_attention.heads=3", "lr=x", "dropout=2"
    )
    expected = [
        "did you mean 'sdpa'?",
        "TrainConfig.lr",
        "DetectorConfig.dropout",
        "did you mean 'heads'?",
        "not divisible",
    ]
    assert len(found) == len(expected)
    for text in expected:
        assert any(text in line for line in found)
    assert any(line.startswith("encoder_attention=sdpaa: ") for line in found)


def test_faults_of_the_base_are_said_once():
    assert len(problems("aux_loss=true,false", dropout=2.0)) == 1


def test_setting_of_a_part_that_is_left_out():
    found = problems("positional=none", "positional.temperature=20", grid=True)
    assert found == [
        "positional=none, positional.temperature=20: there is no positional whose temperature could be set"
    ]


def test_importing_needs_no_torch():
    code = "import sys, detrkit.ablation.variations, detrkit.ablation.conclusions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
