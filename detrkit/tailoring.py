"""What a preset decides by looking at the data, each choice with its reason. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from detrkit.changes import Configs, changed
from detrkit.config import TrainConfig, TrainedPreset

if TYPE_CHECKING:
    from detrkit.checks.survey import Survey

LENGTHS = {"epochs", "steps"}  # two ways to say one thing


class Choice(NamedTuple):
    """A field, or a setting of its spec, that was set because of the data.

    Attributes:
        path: ``FIELD`` or ``FIELD.SETTING``.
        value: what it is set to.
        why: what the data show, and what follows from it.
    """

    path: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.path}={self.value}: {self.why}"


Rule = Callable[["Survey", Configs], Iterator[Choice]]
"""From what the training split holds, and both configurations as they stand, to choices."""


def tailored(*rules: Rule) -> Callable[[TrainedPreset], TrainedPreset]:
    """Decorator of a preset: what it decides once it sees the data, in this order."""

    def attach(preset: TrainedPreset) -> TrainedPreset:
        preset.rules = rules
        return preset

    return attach


def tailor(rules: Iterable[Rule], configs: Configs, given: Collection[str]) -> tuple[Configs, list[Choice]]:
    """Let rules decide for the data of a configuration; what the user has given stays as it is.

    Args:
        rules: in their order; each sees what those before it have decided.
        configs: as the user has changed them, without problems; ``data`` is given.
        given: paths that the user has changed.

    Returns:
        The configurations, and the choices that were made.

    Raises:
        DataError: the data cannot be read.
    """
    seen, made = _survey(configs[1]), list[Choice]()
    for rule in rules:
        choices = [choice for choice in rule(seen, configs) if not _is_given(choice.path, given)]
        configs, _ = changed(configs, {choice.path: choice.value for choice in choices})
        made += choices
    return configs, made


def _is_given(path: str, given: Collection[str]) -> bool:
    """Whether the user has said this, or the spec that it is a setting of, or a setting of the spec that it is."""
    alike = LENGTHS if path in LENGTHS else {path, path.partition(".")[0]}
    return not alike.isdisjoint(given) or any(name.startswith(f"{path}.") for name in given)


def _survey(train: TrainConfig) -> Survey:
    from detrkit.checks.survey import survey
    from detrkit.training.splits import make_data

    return survey(make_data(train, train.train_split), train.train_split, quick=True)
