"""The guided tour: every block runs, every value, shape and comparison in the text is true, every picture is made."""

import re
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import tour  # noqa: E402

FOLLOWED = {chapter.before.path for chapter in tour.chapters() if chapter.before}
TRAINING_TAKES = 900  # seconds on a machine in use by others; under two minutes on a quiet one


def story(chapter):
    """A chapter to be played, with time to train where its story does."""
    long = chapter.before or chapter.path in FOLLOWED
    return pytest.param(chapter, id=chapter.path.stem, marks=pytest.mark.timeout(TRAINING_TAKES if long else 180))


@pytest.fixture(autouse=True)
def drawing():
    import matplotlib

    with matplotlib.rc_context():
        tour.prepare()
        yield


# a chapter that another goes on from is played, and held against its text, with that one
STORIES = [story(chapter) for chapter in tour.chapters() if chapter.path not in FOLLOWED]


@pytest.mark.parametrize("chapter", STORIES)
def test_chapter_is_true(chapter, tmp_path):
    findings = [] if chapter.before is None else tour.play(chapter.before, tmp_path).findings
    findings += tour.play(chapter, tmp_path).findings
    assert findings == [], "\n".join(findings)
    for name in [*(chapter.before.pictures if chapter.before else []), *chapter.pictures]:
        with Image.open(tmp_path / name) as made, Image.open(tour.TOUR / name) as committed:
            assert abs(made.width - committed.width) <= 2, name


@pytest.mark.fast
def test_tour_is_whole():
    numbers = [int(chapter.path.name[:2]) for chapter in tour.chapters()]
    assert numbers == list(range(1, 12))
    for chapter in tour.chapters():
        languages = [piece.language for piece in chapter.pieces()]
        assert languages.count("python") >= 3, chapter.path.name
        assert chapter.pictures, chapter.path.name
        assert {"## Questions", "## Exercises"} <= set(chapter.text.splitlines()), chapter.path.name


@pytest.mark.fast
def test_committed_pictures_are_shown_and_small():
    shown = {name for chapter in tour.chapters() for name in chapter.pictures}
    committed = {path.relative_to(tour.TOUR).as_posix(): path for path in (tour.TOUR / "images").iterdir()}
    assert shown == set(committed)
    assert [name for name, path in committed.items() if path.stat().st_size > tour.LARGEST_PICTURE] == []


@pytest.mark.fast
@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]), ids=lambda path: path.stem
)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", re.sub(r"`[^`\n]*`", "", text))
    assert [t for t in targets if "://" not in t and not (path.parent / t).exists()] == []


# --- the player finds what is wrong -----------------------------------------------------------------------------------


def played(tmp_path, monkeypatch, text):
    """Findings of a chapter with this text."""
    monkeypatch.setattr(tour, "ROOT", tmp_path)
    path = tmp_path / "01-x.md"
    path.write_text(textwrap.dedent(text))
    return tour.Player(tour.Chapter(path), tmp_path / "work").play().findings


TRUE = """
    It prints 0.333 and more.

    A table says 12.5 (DETR, table 1).

    ```python
    import torch
    x, part, B = 3, torch.zeros(2, 4), 2
    print("a third is", 1 / x)
    ```
    ```text
    a third ... 0.333
    ```

    Now `part.sum() == 0`.

    | tensor | shape | here |
    |---|---|---|
    | `part` | `[B, x + 1]` | `[2, 4]` |

    ```console
    $ detrkit diff detr_r50 detr_r50
    $ detrkit diff dab_detr_r50 dn_detr_r50
    queries    anchors -> labelled
    ...
    ```
"""

LIES = {
    "printed value": ("a third ... 0.333", "a third ... 0.335", "but this was printed"),
    "printed word": ("a third ...", "a fourth ...", "but this was printed"),
    "comparison": ("`part.sum() == 0`", "`part.sum() == 1`", "not true"),
    "shape": ("`[2, 4]`", "`[2, 5]`", "shape of part"),
    "letter": ("`[B, x + 1]`", "`[B, x]`", "elsewhere"),
    "output of a command": ("anchors -> labelled", "anchors -> mixed", "but this was printed"),
    "not shown": ("a third ... 0.333\n", "", "but this was printed"),
    "nothing printed": ('print("a third is", 1 / x)', "pass", "no block printed"),
    "exception": ("import torch", "import torch; 1 / 0", "ZeroDivisionError"),
    "number in the prose": ("0.333 and", "0.444 and", "0.444"),
    "picture": ("Now ", "![a picture](images/x.png) Now ", "no block saves"),
    "language": ("```text", "```toml", "expected python"),
}


def test_true_chapter_has_no_findings(tmp_path, monkeypatch):
    assert played(tmp_path, monkeypatch, TRUE) == []


@pytest.mark.parametrize(("old", "new", "finding"), LIES.values(), ids=LIES)
def test_lie_is_found(tmp_path, monkeypatch, old, new, finding):
    assert TRUE.count(old) == 1
    assert any(finding in line for line in played(tmp_path, monkeypatch, TRUE.replace(old, new)))


AGREEING = [
    ("0.33", "0.3333333", ""),
    ("0.33", "0.34", ""),
    ("1e-05", "1.4e-05", ""),
    ("a ... z", "a b\nc z", ""),
    ("10 apples", "12 apples", "within 30 %"),
    ("loss  0.50", "loss 0.61", "within 30 %"),
    ("v1.2_3 x", "v1.2_3 x", ""),
]
DISAGREEING = [
    ("0.33", "0.35", ""),
    ("10", "11", ""),
    ("10", "14", "within 30 %"),
    ("a ... z", "a b", ""),
    ("x", "x\ny", ""),
]


@pytest.mark.fast
@pytest.mark.parametrize(("shown", "got", "options"), AGREEING)
def test_outputs_agree(shown, got, options):
    assert tour.agree(shown, got, options)


@pytest.mark.fast
@pytest.mark.parametrize(("shown", "got", "options"), DISAGREEING)
def test_outputs_differ(shown, got, options):
    assert not tour.agree(shown, got, options)


def test_accepting_makes_a_chapter_true(tmp_path, monkeypatch):
    monkeypatch.setattr(tour, "ROOT", tmp_path)
    path = tmp_path / "01-x.md"
    path.write_text("```python\nprint(7)\n```\n```text\n8\n```\n")
    player = tour.Player(tour.Chapter(path), tmp_path / "work").play()
    assert len(player.findings) == 1
    tour.accept(player)
    assert path.read_text() == "```python\nprint(7)\n```\n```text\n7\n```\n"
    assert tour.Player(tour.Chapter(path), tmp_path / "work").play().findings == []
