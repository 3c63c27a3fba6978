"""What the parts of a detector need of each other and give to each other, checked before any of them is made.

A component says it in two class attributes, ``needs`` and ``gives``, sets of the names below; the names are read by
people too, in the sentence that refuses parts that do not fit. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from detrkit.fields import roles_of
from detrkit.registry import REGISTRY
from detrkit.specs import Spec

if TYPE_CHECKING:
    from detrkit.config import DetectorConfig

POSITIONS = "positions of the queries"
KEY_POSITIONS = "positions of what is read"
REFERENCES = "references"
BOXES = "references that are boxes"
SINE = "sine codes of references"
LEVELS = "tokens in levels"
LABELS = "an embedding of labels"
NO_BACKGROUND = "classes without a no-object"

Names = frozenset[str]
NOTHING: Names = frozenset()


class Part(NamedTuple):
    """A part as the configuration names it, ``queries=points``, with what it needs and gives."""

    name: str
    needs: Names = NOTHING
    gives: Names = NOTHING


def problems(config: DetectorConfig) -> Iterator[str]:
    """A line for each need that nothing meets, and for what is given twice or to nobody; every spec can be read."""
    for part, told, tellers in _told(config):
        if missing := sorted(part.needs - told):
            yield f"{part.name} needs {' and '.join(missing)}, {_not_given(tellers)}"
    queries, placement = part_of(config, "queries"), part_of(config, "placement")
    for what in sorted(queries.gives & placement.gives):
        yield f"{queries.name} and {placement.name} do not fit: both give {what}"
    readings = [part_of(config, f"decoder_{place}_attention") for place in ("self", "cross")]
    if SINE in placement.gives and not any(SINE in reading.needs for reading in readings):
        yield f"{placement.name} gives {SINE}, which neither {' nor '.join(r.name for r in readings)} needs"
    if config.padding_exact and getattr(_component(config, "placement")[0], "sees_padding", False):
        yield f"padding_exact=True and {placement.name} do not fit: its positions depend on the padding"
    if config.reference_eps != type(config).reference_eps:
        if REFERENCES not in queries.gives | placement.gives:
            yield f"reference_eps: no effect without {REFERENCES}, {_not_given([queries.name, placement.name])}"
        elif not _asks(config, "box_coder", "reference_eps"):
            yield f"reference_eps: no effect with box_coder={config.box_coder}; leave it out"
    if config.eos_coef != type(config).eos_coef and not _asks(config, "classification", "eos_coef"):
        yield f"eos_coef: no effect with classification={config.classification}; leave it out"


def _not_given(tellers: Sequence[str]) -> str:
    return f"which {tellers[0]} does not give" if len(tellers) == 1 else f"which none of {', '.join(tellers)} gives"


def part_of(config: DetectorConfig, field: str) -> Part:
    """The part that stands in a field of the configuration."""
    component, name = _component(config, field)
    return Part(f"{field}={name}", getattr(component, "needs", NOTHING), getattr(component, "gives", NOTHING))


def _told(config: DetectorConfig) -> Iterator[tuple[Part, Names, list[str]]]:
    """Parts that may need something, each with what it is told, and the names of those that could tell it."""
    queries, placement, classes = (part_of(config, field) for field in ("queries", "placement", "classification"))
    coded = config.positional is not None and config.position_at == "attention"
    codes = [f"positional={config.positional}"] + [f"position_at={config.position_at}"] * (not coded)
    start, starting = queries.gives | placement.gives, [queries.name, placement.name]
    tokens = frozenset({LEVELS, KEY_POSITIONS}) if coded else frozenset({LEVELS})
    yield queries, tokens | classes.gives, [classes.name]
    yield placement, queries.gives, [queries.name]
    yield part_of(config, "box_coder"), start, starting
    yield part_of(config, "denoising"), queries.gives | classes.gives, [queries.name, classes.name]
    if config.refinement != "none":
        yield Part(f"refinement={config.refinement}", frozenset({REFERENCES})), start, starting
    if config.enc_layers:
        own = frozenset({REFERENCES, POSITIONS}) if coded else frozenset({REFERENCES})
        yield part_of(config, "encoder_attention"), tokens | own, codes
    keys = frozenset({KEY_POSITIONS}) if POSITIONS in start else NOTHING
    yield part_of(config, "decoder_self_attention"), start | keys, starting
    yield part_of(config, "decoder_cross_attention"), start | tokens, [*starting, *codes]


def _component(config: DetectorConfig, field: str) -> tuple[type | None, str]:
    spec = getattr(config, field)
    if spec is None:
        return None, "None"
    name = Spec.parse(spec).name
    return REGISTRY.get(REGISTRY.first_with(roles_of(config.annotations()[field]), name), name), name


def _asks(config: DetectorConfig, field: str, dimension: str) -> bool:
    role = roles_of(config.annotations()[field])[0]
    return dimension in REGISTRY.signature(role, _component(config, field)[1]).dimensions
