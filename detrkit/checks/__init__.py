"""Checks before and beside training: of components, data, configurations and checkpoints."""

from __future__ import annotations

from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a check found.

    Attributes:
        content: everything, in plain JSON.
        text: the same for people, short.
        exit_code: what the command line returns: 0; 1 where a component breaks a law; 2 where training would refuse.
    """

    content: Any
    text: str
    exit_code: int = 0
