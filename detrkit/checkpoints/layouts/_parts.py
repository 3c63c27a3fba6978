"""What a configuration's parts are to a foreign layout, and what of them it cannot express."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from detrkit.config import DetectorConfig
from detrkit.errors import DetrkitError
from detrkit.specs import Spec

PYRAMID_TAKES = 3  # maps of the backbone, in the published code on several levels
ATTENTIONS = ("encoder_attention", "decoder_self_attention", "decoder_cross_attention")


class Refusal(NamedTuple):
    """A field of a configuration that a layout cannot express, with what it could."""

    field: str
    value: Any
    expected: str


def refused_positional(config: DetectorConfig, base: DetectorConfig, *, learned: bool) -> Iterator[Refusal]:
    """Positional encodings other than the base's, or than a learned table where the layout has one."""
    spec, wanted = (None if text is None else Spec.parse(text) for text in (config.positional, base.positional))
    if learned and spec and spec.name == "learned" and not set(spec.settings) - {"size"}:
        return
    if spec != wanted or spec is None:
        kinds = dict.fromkeys([str(base.positional), *(["learned"] if learned else [])])
        yield Refusal("positional", config.positional, " or ".join(kinds))


def refused_neck(config: DetectorConfig, base: DetectorConfig) -> Iterator[Refusal]:
    """Necks of another kind than the base's, and levels that the published code does not make."""
    spec, wanted = Spec.parse(config.neck), Spec.parse(base.neck)
    levels, extra = (spec.settings.get(name, usual) for name, usual in (("levels", 4), ("extra", 1)))
    if spec.name != wanted.name:
        yield Refusal("neck", config.neck, repr(base.neck))
    elif spec.name == "pyramid" and (levels, extra) != (1, 0) and levels - extra != PYRAMID_TAKES:
        yield Refusal("neck", config.neck, f"one level, or {PYRAMID_TAKES} of the backbone and extra ones")


def one_line(error: DetrkitError) -> str:
    """An error's sentences in one line."""
    return "; ".join(str(error).splitlines())
