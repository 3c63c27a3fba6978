"""The laws that every component of a role keeps; shipped, so that authors of plug-ins run them on their own parts.

A law is a function of a maker and a drawer::

    @law("attention")
    def masked_keys_have_no_influence(make, draw): ...

``make(**dimensions_and_settings)`` gives a fresh component, ``draw(low, high)`` an integer of the closed interval.
`check_component` draws from a seeded generator; under hypothesis, ``draw`` is ``data.draw(st.integers(low, high))`` and
failures shrink. A law that is broken raises AssertionError with a sentence; one that does not concern a component
raises `NotConcerned`. Boxes, criterion and model are no roles, but have laws too: ``laws_of("boxes")``.
"""

from __future__ import annotations

from detrkit.testing.law import (
    Draw,
    LawResult,
    Make,
    NotConcerned,
    check_component,
    concern,
    law,
    laws_of,
    seeded_draw,
)

__all__ = [
    "Draw",
    "LawResult",
    "Make",
    "NotConcerned",
    "check_component",
    "concern",
    "law",
    "laws_of",
    "seeded_draw",
]
