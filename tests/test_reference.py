"""The reference documentation: every part is on its page, and the committed pages are what the docstrings say."""

import sys
from pathlib import Path

import pytest

import detrkit
from detrkit.registry import REGISTRY

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import reference  # noqa: E402

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def pages():
    return {path.stem: text for path, text in reference.pages().items()}


def test_committed_pages_are_up_to_date():
    assert reference.stale(ROOT) == [], "run `make reference`"


@pytest.mark.parametrize("role", REGISTRY.roles())
def test_every_component_has_a_section_with_its_settings(pages, role):
    assert f"({role}.md)" in pages["README"]
    for name in REGISTRY.builtin(role):
        section = pages[role].split(f"\n### {name}\n")[1].split("\n##")[0]
        assert f"detrkit/{role}/{name}.py" in section
        assert all(f"| `{setting}` |" in section for setting in REGISTRY.signature(role, name).settings)


def test_every_preset_and_field_is_told(pages):
    assert all(f"\n## {name}\n" in pages["presets"] for name in detrkit.presets())
    fields = {**detrkit.DetectorConfig.annotations(), **detrkit.TrainConfig.annotations()}
    assert all(f"| `{name}` |" in pages["configuration"] for name in fields)


def test_links_lead_to_files(pages):
    targets = {t.split(")")[0] for text in pages.values() for t in text.split("](")[1:]}
    folder = ROOT / reference.FOLDER
    assert [t for t in targets if not t.startswith("#") and not (folder / t).exists()] == []


def test_no_markup_of_docstrings_is_left(pages):
    assert [name for name, text in pages.items() if "``" in text.replace("```", "") or "typing." in text] == []


@pytest.mark.parametrize("change", ["edited", "missing", "superfluous"])
def test_stale_page_is_named(tmp_path, change):
    reference.write(tmp_path)
    assert reference.stale(tmp_path) == []
    page = tmp_path / reference.FOLDER / ("gone.md" if change == "superfluous" else "matchers.md")
    page.unlink() if change == "missing" else page.write_text("# something else\n")
    assert reference.stale(tmp_path) == [page.relative_to(tmp_path)]
    reference.write(tmp_path)
    assert reference.stale(tmp_path) == []


DOCSTRING = """Does ``this``.

Written::

    a + b

Args:
    x: [B, 3] a number
        that goes on.
    y: another; see `x`.

Returns:
    Their sum.
"""

MARKDOWN = """Does `this`.

Written:

```
a + b
```

**Args:**

- `x`: [B, 3] a number that goes on.
- `y`: another; see `x`.

**Returns:**

- Their sum.
"""


def test_docstring_becomes_markdown():
    assert reference.markdown(DOCSTRING) == MARKDOWN


def test_signature_is_told_as_it_is_written():
    class Role:
        def forward(self, x: list[int], y: int = 2, *, mask: bool | None = None) -> int:
            """Adds."""

    told = reference.method(Role.forward)
    assert "(\n    x: list[int],\n    y: int = 2,\n    *,\n    mask: bool | None = None,\n) -> int" in told
