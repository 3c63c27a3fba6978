"""What each paper changed: the steps of the family tree, as ``detrkit diff`` tells them, beside their golden lines.

Write them anew with ``UPDATE_GOLDEN=1 python -m pytest tests/test_family_tree.py``, and read what changed.
"""

import os
from pathlib import Path

import pytest

from detrkit.cli import main

pytestmark = pytest.mark.fast

GOLDEN = Path(__file__).parent / "golden" / "family_tree.txt"
STEPS = {
    "detr_r50": ["detr_r50_dc5", "detr_r101", "conditional_detr_r50", "deformable_detr_r50"],
    "conditional_detr_r50": ["dab_detr_r50"],
    "dab_detr_r50": ["dn_detr_r50"],
    "deformable_detr_r50": ["deformable_detr_r50_single_scale", "deformable_detr_r50_refine"],
    "deformable_detr_r50_refine": ["deformable_detr_r50_two_stage"],
    "deformable_detr_r50_two_stage": ["dino_4scale_r50"],
    "detr_tiny": ["conditional_detr_tiny", "deformable_detr_tiny"],
    "conditional_detr_tiny": ["dab_detr_tiny"],
    "dab_detr_tiny": ["dn_detr_tiny"],
    "deformable_detr_tiny": ["deformable_detr_tiny_single_scale", "deformable_detr_tiny_refine"],
    "deformable_detr_tiny_refine": ["deformable_detr_tiny_two_stage"],
    "deformable_detr_tiny_two_stage": ["dino_tiny"],
}


def test_each_step_prints_what_its_paper_changed(capsys):
    told = ""
    for start, ends in STEPS.items():
        for end in ends:
            assert main(["diff", start, end]) == 0
            told += f"{start} -> {end}\n{capsys.readouterr().out}\n"
    if "UPDATE_GOLDEN" in os.environ:
        GOLDEN.write_text(told)
    assert told == GOLDEN.read_text()


def changes(end):
    """Fields of the step to a model, from the golden lines."""
    block = next(part for part in GOLDEN.read_text().split("\n\n") if part.splitlines()[0].endswith(f"-> {end}"))
    return {line.split()[0] for line in block.splitlines()[1:]}


@pytest.mark.parametrize(
    ("twin", "published", "sizes"),
    [
        ("conditional_detr_tiny", "conditional_detr_r50", {"pre_norm", "dim_feedforward"}),
        ("dab_detr_tiny", "dab_detr_r50", set()),
        ("dn_detr_tiny", "dn_detr_r50", set()),
        ("deformable_detr_tiny", "deformable_detr_r50", {"pre_norm"}),
        ("deformable_detr_tiny_single_scale", "deformable_detr_r50_single_scale", set()),
        ("deformable_detr_tiny_refine", "deformable_detr_r50_refine", set()),
        ("deformable_detr_tiny_two_stage", "deformable_detr_r50_two_stage", set()),
        ("dino_tiny", "dino_4scale_r50", set()),
    ],
)
def test_a_twin_changes_what_its_paper_changed(twin, published, sizes):
    """But for rates, lengths and sizes, which the toy data want otherwise, and what the tiny DETR has already."""
    recipe = {"epochs", "lr", "lr_backbone", "lr_drop", "lr_factors", "num_queries", "dim_feedforward", "dropout"}
    already = {"set_cost_class", "cls_loss_coef"}
    assert changes(twin) - recipe - sizes <= changes(published)
    assert changes(published) - recipe - already <= changes(twin)
