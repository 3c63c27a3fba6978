"""The table of planted defects fits the code; `make nightly` plants them."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import mutants  # noqa: E402

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_defect_fits_the_code(mutant):
    assert mutants.misfit(mutant) is None
    assert mutant.old != mutant.new


def test_names_are_different():
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names)


def test_stale_row_is_told():
    row = mutants.MUTANTS[0]
    assert "occurs 0 times in detrkit/matchers/greedy.py" in mutants.misfit(row._replace(old="no such text"))
    assert "occurs 0 times in detrkit/nothing.py" in mutants.misfit(row._replace(file="nothing.py"))
    assert "occurs 2 times" in mutants.misfit(row._replace(file="criterion.py", old="num_boxes: "))
    missing = row._replace(test="test_matchers.py::test_nothing")
    assert mutants.misfit(missing) == "tests/test_matchers.py has no test_nothing"
