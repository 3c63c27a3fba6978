"""The measure of what stands in two files, and that the package stays under its bound."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import shared_lines  # noqa: E402

pytestmark = pytest.mark.fast

SAME = "a = 1\nb = 2\n\n    c = 3\nd = 4\n"
IMPORTS = 'import a\nimport b\n"""Text\nmore\n"""\nimport c\nimport d\n'


def measured(folder, keep, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return shared_lines.measure(folder, keep)


def test_four_lines_the_same_are_a_run_and_three_are_none(tmp_path):
    share, found = measured(tmp_path, shared_lines.every_line, one="x = 0\n" + SAME, two=SAME + "y = 0\n")
    assert share == 80.0
    assert [(run.path.stem, run.first, run.last, run.length) for run in found] == [("one", 2, 6, 4), ("two", 1, 5, 4)]
    assert measured(tmp_path, shared_lines.every_line, two=SAME.replace("c", "z"))[0] == 0.0


def test_runs_within_one_file_do_not_count(tmp_path):
    assert measured(tmp_path, shared_lines.every_line, one=SAME + SAME, two="x = 1\n") == (0.0, [])


def test_code_leaves_imports_and_docstrings_out(tmp_path):
    assert measured(tmp_path, shared_lines.code, one=IMPORTS + "e = 1\n", two=IMPORTS + "f = 1\n") == (0.0, [])
    assert measured(tmp_path, shared_lines.every_line)[0] == pytest.approx(100 * 14 / 16)


def test_the_package_stays_under_its_bound():
    share, found = shared_lines.measure(ROOT / "detrkit", shared_lines.every_line)
    assert share < shared_lines.MOST
    assert found, "a bound that nothing comes near is measured wrongly"
