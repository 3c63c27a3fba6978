"""A study: what is asked, of which base, how often and for how long. Imports no torch.

It is written on the command line, or as a TOML file of the same words (see ``benchmarks/studies/``), or as both: what
the command line says counts.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, get_type_hints

from detrkit import fields
from detrkit.ablation.variations import PRESET, Configs, Variations, split_values
from detrkit.config import TrainConfig
from detrkit.config import difference as differing
from detrkit.errors import ConfigError, DetrkitError, nearest
from detrkit.evaluators import METRICS
from detrkit.fields import Positive, Range
from detrkit.presets import from_pairs, presets

LENGTHS = ("steps", "epochs")
LIKE = "like"
OWN = ("question", "hypothesis", "result")  # no study has them from another


@dataclass(frozen=True)
class Budget:
    """How long each run trains.

    Attributes:
        amount: how much.
        unit: ``steps``, ``epochs``, or ``s`` of training time: then a run ends after the step that exceeds it, and the
            length in the base's own configuration shapes the schedule and is never exceeded.
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``500steps``, ``12epochs`` or ``90s``."""
        found = re.fullmatch(r"(\d+)\s*(steps|epochs)|(\d+(?:\.\d+)?)\s*(s)", text.strip())
        amount, unit = (found[1] or found[3], found[2] or found[4]) if found else ("0", "")
        if not float(amount):
            raise ConfigError([f"--budget: got {text!r}; expected more than 0, as 500steps, 12epochs or 90s"])
        return cls(float(amount), unit)

    @property
    def seconds(self) -> float | None:
        """Limit of the training time, if there is one."""
        return self.amount if self.unit == "s" else None

    def apply(self, train: TrainConfig) -> TrainConfig:
        """The same training for so long."""
        return train.replace(**{self.unit: int(self.amount)}) if self.unit in LENGTHS else train

    def __str__(self) -> str:
        return f"{self.amount:g} {'s of training' if self.unit == 's' else self.unit}"


@dataclass(frozen=True)
class Plan:
    """A study as it is written.

    Attributes:
        question, hypothesis, result: for people; what was found is written when the runs have ended.
        base: a preset.
        fields: what is changed of it in all runs, by field.
        preset_fields: what is changed beside of a preset that is varied, by its name.
        vary: ``FIELD=VALUE,VALUE,...`` each, see `detrkit.ablation.variations`.
        grid: every combination, instead of one change at a time.
        seeds: runs of each variant.
        budget: see `Budget`; by default the base's own length.
        metric: what is compared.
        margin: largest difference of no interest, to be stated before looking.
    """

    question: str | None = None
    hypothesis: str | None = None
    result: str | None = None
    base: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    preset_fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    vary: tuple[str, ...] = ()
    grid: bool = False
    seeds: Positive = 3
    budget: str | None = None
    metric: str = "AP"
    margin: Annotated[float, Range(above=0)] | None = None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """From a TOML file.

        A file says ``like = "OTHER.toml"``, a path from its own folder, to take the words and fields of the other, and
        to write down only what differs. What it asks and what was found is its own.

        Raises:
            DetrkitError: it, or the file that it is like, cannot be read.
            ConfigError: unknown words, each with the nearest one, and values that do not fit.
        """
        plan = cls()
        for place, words in reversed(list(_files(Path(path)))):
            own = plan.replace(str(place), **words)
            silent: dict[str, Any] = {name: None for name in OWN if name not in words}
            plan = dataclasses.replace(own, fields={**plan.fields, **own.fields}, **silent)
        return plan

    def replace(self, place: str, **changes: Any) -> Self:
        """A copy with these words changed; ``place`` is where they were written."""
        known = {item.name for item in dataclasses.fields(self)}
        found = [
            f"{place}: unknown word {name!r}; {nearest(name, {*known, LIKE})}" for name in changes if name not in known
        ]
        given = {name: _frozen(value) for name, value in changes.items() if name in known}
        annotations = {**get_type_hints(type(self), include_extras=True), "fields": dict, "preset_fields": dict}
        found += fields.problems(given, annotations, place)
        if found:
            raise ConfigError(found)
        return dataclasses.replace(self, **given)

    def with_words(self, words: Sequence[str]) -> Self:
        """A copy changed by the words of a command line: a preset, and ``key=value`` each."""
        named = [word for word in words if "=" not in word]
        pairs = [word.split("=", 1) for word in words if "=" in word]
        names = [name for name, _ in pairs]
        found = [f"{name}: given twice" for i, name in enumerate(names) if name in names[:i]]
        if len(named) > 1:
            found.append(f"one base at a time; got {', '.join(named)}; fields are written key=value")
        if found:
            raise ConfigError(found)
        return dataclasses.replace(self, base=named[0] if named else self.base, fields={**self.fields, **dict(pairs)})


@dataclass(frozen=True)
class Study:
    """A study, checked as far as this can be done without data.

    Attributes:
        plan: how it was written.
        variations: its variants, the base first.
        seeds: one run of each variant for each.
        budget: of every run.
    """

    plan: Plan
    variations: Variations
    seeds: tuple[int, ...]
    budget: Budget

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Resolve a plan.

        Raises:
            ConfigError: everything that is wrong with it.
        """
        if found := list(_problems(plan)):
            raise ConfigError(found)
        detector, train = from_pairs(str(plan.base), plan.fields)
        budget = Budget.parse(plan.budget) if plan.budget else _own_budget(train)
        train = budget.apply(train)
        if not train.eval_every:
            raise ConfigError(["eval_every: got 0; a study compares scores, so that its runs must be evaluated"])

        def of_preset(name: str) -> Configs:
            detector, train = from_pairs(name, {**plan.fields, **plan.preset_fields.get(name, {})})
            return detector, budget.apply(train)

        variations = Variations.of(detector, train, plan.vary, grid=plan.grid, of_preset=of_preset)
        return cls(plan, variations, tuple(range(train.seed, train.seed + plan.seeds)), budget)


def _files(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A study's file with its words, and those that it is like, one after the other."""
    seen: list[Path] = []
    while True:
        try:
            words = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DetrkitError("cannot read the study", path=path, value=f"({error})") from None
        like = words.pop(LIKE, None)
        yield path, words
        if like is None:
            return
        seen.append(path.resolve())
        if not isinstance(like, str) or (path.parent / like).resolve() in seen:
            raise DetrkitError("not another study", path=path, field=LIKE, value=like, expected="the path of one")
        path = path.parent / like


def _problems(plan: Plan) -> list[str]:
    found = []
    if plan.base is None:
        found.append(f"name a preset as the base; {nearest('', presets())}")
    if not plan.vary:
        found.append("--vary: give at least one, for example --vary encoder_attention=sdpa,matrix")
    given = {*plan.fields, *(name for own in plan.preset_fields.values() for name in own)}
    if "num_classes" in given:
        found.append("num_classes: the data tells it; leave it out")
    if plan.metric not in METRICS:
        found.append(f"--metric: got {plan.metric!r}; {nearest(plan.metric, METRICS)}")
    varied = {text.partition("=")[0].strip() for text in plan.vary}
    for name in LENGTHS:
        if name in varied:
            found.append(f"{name} cannot be varied: all runs of a study have one budget; say it with --budget")
    if plan.budget and not Budget.parse(plan.budget).seconds:
        found += [f"{name}: --budget says how long; leave it out" for name in LENGTHS if name in given]
    return [*found, *_problems_of_preset_fields(plan)]


def _problems_of_preset_fields(plan: Plan) -> Iterator[str]:
    """Fields of presets that are not varied, and lengths, which all runs have in common."""
    values = (text.partition("=") for text in plan.vary)
    varied = [preset for path, _, value in values if path.strip() == PRESET for preset in split_values(value)]
    for preset, own in plan.preset_fields.items():
        if preset not in varied:
            yield f"preset_fields.{preset}: no effect, since the preset is not varied; {nearest(preset, varied)}"
        yield from (f"preset_fields.{preset}.{name}: all runs have one length" for name in LENGTHS if name in own)


def _own_budget(train: TrainConfig) -> Budget:
    return Budget(train.steps, "steps") if train.steps is not None else Budget(train.epochs or 0, "epochs")


def _frozen(value: Any) -> Any:
    """TOML's lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


def difference(study: Study, index: int) -> Mapping[str, tuple[Any, Any]]:
    """What a variant changes of the base: field -> (the base's value, its own)."""
    base, other = study.variations.variants[0], study.variations.variants[index]
    pairs = ((base.detector, other.detector), (base.train, other.train))
    return {name: values for a, b in pairs for name, values in differing(a, b).items()}
