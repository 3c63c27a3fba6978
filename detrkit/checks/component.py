"""The check of a component: the laws of its role, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from detrkit.checks import Outcome
from detrkit.listing import import_component
from detrkit.specs import Spec
from detrkit.testing import check_component


def check_laws(name: str, settings: Sequence[str], *, examples: int, seed: int) -> Outcome:
    """Laws kept and broken.

    Args:
        name: ``MODULE:CLASS``, or ``ROLE/NAME``.
        settings: of the component, each ``key=value``.
        examples: drawn cases a law.
        seed: of the first case.

    Raises:
        DetrkitError: no such component, or settings that it does not take.
    """
    given = Spec.parse(f"it({', '.join(settings)})").settings
    results = check_component(import_component(name), examples=examples, seed=seed, **given)
    lines = []
    for result in results:
        lines.append(f"{result.outcome:<13} {result.description}")
        if result.detail and result.outcome == "broken":
            lines.append(f"{'':<13} {result.law}, seed {result.seed}: {result.detail}")
    outcomes = [result.outcome for result in results]
    idle, broken = outcomes.count("not concerned"), outcomes.count("broken")
    concerned = len(outcomes) - idle
    kept = f"{concerned - broken} of" if broken else "all"
    lines.append(f"{kept} {concerned} laws kept" + (f", {idle} do not concern it" if idle else ""))
    return Outcome([asdict(result) for result in results], "\n".join([*lines, ""]), exit_code=1 if broken else 0)
