"""Foreign layouts of state dicts, read and written: a file of this folder is a layout.

A layout says by which names it calls our entries (a `Renaming`, declared once for both directions), which fields of
`DetectorConfig` it can vary, and how it tells them. This file chooses among layouts, fills models strictly, and refuses
to write a model that would not come back as it is.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from detrkit.checkpoints.foreign import TORCH, Foreign
from detrkit.checkpoints.layouts._attentions import Arguments, attentions_in, refused_attentions
from detrkit.checkpoints.layouts._parts import ATTENTIONS, Refusal, one_line, refused_neck, refused_positional
from detrkit.checkpoints.layouts._renaming import Pattern, Renaming
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._trunks import refused_trunk
from detrkit.checkpoints.report import Entry, LoadReport
from detrkit.config import DetectorConfig, difference
from detrkit.errors import CheckpointError, ConfigError, DataError, nearest
from detrkit.labels import COCO_RAW, LabelSpace

if TYPE_CHECKING:
    from detrkit.model import Detector

SIZES = frozenset({"d_model", "num_queries", "num_classes", "enc_layers", "dec_layers", "dim_feedforward"})
DECODER_LAYER = re.compile(r"\bdecoder\.layers\.(\d+)\.")
PARTS = frozenset({"backbone", "neck", "positional", "matcher", *ATTENTIONS})  # told apart; the matcher is free


class Layout(ABC):
    """Contract of a foreign layout.

    Attributes:
        kinds: what it is found in: ``torch`` for torch files, a ``model_type`` for folders of transformers.
        spellings: tables of its names; where there are several, the one that explains most names is meant.
        superfluous: patterns of entries that a file may hold and no detector of ours needs, with the reason.
        varies: fields of the configuration that it can tell beside its parts; all others are as in `base`.
        attentions: arguments by which it tells settings of the attentions.
        norm: kind of the trunk's norms.
        learned: whether positions may be learned where those of `base` are not.
    """

    kinds: ClassVar[tuple[str, ...]]
    spellings: ClassVar[Mapping[str, Renaming]]
    superfluous: ClassVar[Mapping[str, str]] = {}
    varies: ClassVar[frozenset[str]]
    attentions: ClassVar[Arguments]
    norm: ClassVar[str] = "frozen"
    learned: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def base(self, spelling: str) -> DetectorConfig:
        """The configuration of which it varies some fields."""

    def prepared(self, foreign: Foreign, spelling: str) -> Foreign:
        """A file with what it leaves unsaid."""
        return foreign

    def allows(self, foreign: Foreign, spelling: str) -> bool:
        """Whether what a file tells beside tensors fits a spelling."""
        return True

    def config(self, foreign: Foreign, spelling: str, sizes: Sizes) -> DetectorConfig:
        """The configuration that a prepared file tells and its tensors show.

        Raises:
            CheckpointError: it tells what we cannot express, or contradicts its tensors.
        """
        base = self.base(spelling)
        shown = {**sizes.fields(base), "neck": sizes.neck(base), "positional": sizes.positional(base)}
        attentions = attentions_in(foreign.told, base, self.attentions)
        return base.replace(**{**self.fields(foreign, spelling, sizes), **attentions, **shown})

    @abstractmethod
    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """The trunk, and the fields that words tell and no tensor shows; as `config`."""

    @abstractmethod
    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """What a file says beside tensors, the inverse of `config`."""

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in its names as a file holds it, the inverse of `prepared`."""
        return tensors

    def files(self, model: Detector, told: Mapping[str, Any], spelling: str) -> dict[str, dict[str, Any]]:
        """The tables that stand beside the tensors in a folder, by file name."""
        return {}

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """Parts of a configuration that the layout cannot express."""
        base = self.base(spelling)
        yield from refused_attentions(config, base, self.attentions)
        yield from refused_trunk(config, norm=self.norm)
        yield from refused_neck(config, base)
        yield from refused_positional(config, base, learned=self.learned)

    def label_space(self, foreign: Foreign, count: int) -> LabelSpace:
        """The classes; where nothing names them, 91 are COCO's raw ids."""
        return COCO_RAW if count == len(COCO_RAW) else LabelSpace.numbered(count)

    def ignored(self, foreign: Foreign) -> Iterator[Entry]:
        """What a file tells that has no effect on what is detected, for the report."""
        return iter(())

    def refusals(self, config: DetectorConfig, spelling: str) -> list[Refusal]:
        """Everything in a configuration that the layout cannot express."""
        base = self.base(spelling)
        fixed = [
            Refusal(field, value, repr(only))
            for field, (value, only) in difference(config, base).items()
            if field not in self.varies | PARTS
        ]
        return [*fixed, *self.refused_parts(config, spelling)]


class Chosen(NamedTuple):
    """A layout, one of its spellings, and the number of decoder layers."""

    layout: Layout
    spelling: str
    layers: int

    @property
    def renaming(self) -> Renaming:
        """The table of names."""
        return self.layout.spellings[self.spelling].of(self.layers)


@cache
def layouts() -> tuple[Layout, ...]:
    """All layouts, one a file, by name."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in sorted(names)]
    return tuple(module.LAYOUT for module in modules)


def layouts_of(kind: str) -> list[Layout]:
    """The layouts that are found in files of a kind."""
    return [layout for layout in layouts() if kind in layout.kinds]


def choose(foreign: Foreign) -> Chosen:
    """The layout and spelling that explain most names of a file.

    Raises:
        CheckpointError: no layout is for this kind of file, or none explains half of its names.
    """
    able = layouts_of(foreign.kind)
    if not able:
        known = sorted({kind for layout in layouts() for kind in layout.kinds if kind != TORCH})
        raise CheckpointError(
            "no layout for this model type",
            path=foreign.path,
            field="model_type",
            value=foreign.kind,
            hint=nearest(foreign.kind, known),
        )
    layers = len({found[1] for name in foreign.tensors if (found := DECODER_LAYER.search(name))})
    candidates = [Chosen(layout, spelling, layers) for layout in able for spelling in layout.spellings]
    candidates = [chosen for chosen in candidates if chosen.layout.allows(foreign, chosen.spelling)]
    scores = [chosen.renaming.explained(foreign.tensors) for chosen in candidates]
    best = max(scores)
    if 2 * best < len(foreign.tensors):
        raise CheckpointError(
            "no detector in a known layout",
            path=foreign.path,
            value=f"(entries such as {next(iter(foreign.tensors))!r})",
            expected=" or ".join(layout.name for layout in able),
        )
    return candidates[scores.index(best)]


def load_foreign(foreign: Foreign) -> Detector:
    """The detector that a foreign file describes, filled, in evaluation mode, with its report in ``loaded``.

    Raises:
        CheckpointError: of no known layout, telling what we cannot express, or its entries do not fit.
    """
    from detrkit.model import build

    chosen = choose(foreign)
    foreign = chosen.layout.prepared(foreign, chosen.spelling)
    weights = chosen.renaming.to_ours(foreign.tensors, path=foreign.path)
    sizes = Sizes(weights, chosen.renaming, foreign.path)
    try:
        config = chosen.layout.config(foreign, chosen.spelling, sizes).check()
        label_space = chosen.layout.label_space(foreign, config.num_classes)
        model = build(config, label_space=label_space)
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"describes no detector: {one_line(error)}", path=foreign.path) from None
    own = model.state_dict()
    entries = fit(own, weights, foreign, chosen)
    model.load_state_dict({name: weights[name] for name in own})
    model.loaded = LoadReport(str(foreign.path), chosen.layout.name, entries)
    return model.eval()


def fit(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], foreign: Foreign, chosen: Chosen
) -> tuple[Entry, ...]:
    """What becomes of every tensor, when all fit.

    Args:
        own: the model's state dict.
        weights: the file's, in our names.
        foreign: the file.
        chosen: its layout.

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape or kind of number.
    """
    renaming = chosen.renaming
    used = {part for name in own for part in renaming.place(name, foreign.tensors)}
    notes = {
        name: "a copy of another entry" if renaming.ours(name) in own else _reason(name, chosen.layout.superfluous)
        for name in foreign.tensors
        if name not in used
    }
    unknown = [name for name, note in notes.items() if note is None]
    if missing := [name for name in own if name not in weights]:
        wanted = [part for name in missing for part in renaming.theirs(name) or (name,) if part not in foreign.tensors]
        raise CheckpointError(
            f"{_entries(len(wanted))} missing", path=foreign.path, field=wanted[0], hint=_nearest(wanted[0], unknown)
        )
    for name, tensor in own.items():
        _check_tensor(weights[name], tensor, foreign.path, " + ".join(renaming.place(name, foreign.tensors)))
    if unknown:
        names = [theirs for name in own for theirs in renaming.theirs(name)]
        raise CheckpointError(
            f"{_entries(len(unknown))} unknown", path=foreign.path, field=unknown[0], hint=_nearest(unknown[0], names)
        )
    loaded = [_entry(name, weights[name], own[name], foreign, renaming) for name in own]
    unused = [Entry("unused", source=foreign.sources[name], note=note or "") for name, note in notes.items()]
    others = [Entry("unused", source=name, note="no tensor") for name in foreign.others]
    return (*loaded, *unused, *others, *chosen.layout.ignored(foreign))


def _entry(name: str, tensor: Tensor, own: Tensor, foreign: Foreign, renaming: Renaming) -> Entry:
    source = " + ".join(foreign.sources[part] for part in renaming.place(name, foreign.tensors))
    note = "" if tensor.dtype == own.dtype else f"{tensor.dtype} -> {own.dtype}".replace("torch.", "")
    return Entry("loaded" if source == name else "renamed", name, source, note)


def _reason(name: str, superfluous: Mapping[str, str]) -> str | None:
    return next((note for pattern, note in superfluous.items() if Pattern(pattern).match(name) is not None), None)


def _entries(number: int) -> str:
    return "an entry is" if number == 1 else f"{number} entries are"


def _nearest(name: str, choices: Iterable[str]) -> str | None:
    close = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else None


def _check_tensor(tensor: Tensor, own: Tensor, path: Path, field: str) -> None:
    if tensor.shape != own.shape:
        raise CheckpointError(
            "has the wrong shape", path=path, field=field, value=tuple(tensor.shape), expected=str(tuple(own.shape))
        )
    if tensor.is_floating_point() != own.is_floating_point():
        raise CheckpointError(
            "has the wrong kind of number", path=path, field=field, value=str(tensor.dtype), expected=str(own.dtype)
        )


def express(
    model: Detector, able: Mapping[Any, Iterable[str]], path: Path
) -> tuple[Chosen, dict[str, Tensor], dict[str, Any]]:
    """How a model is written: the first layout and spelling that can express it, tensors in their order, and words.

    Args:
        model: the model.
        able: spellings that may be used, by layout.
        path: where it will be written, for errors.

    Raises:
        CheckpointError: none can; says what keeps the nearest one from it.
    """
    layers = model.config.dec_layers
    candidates = [Chosen(layout, spelling, layers) for layout, spellings in able.items() for spelling in spellings]
    refusals = {chosen: chosen.layout.refusals(model.config, chosen.spelling) for chosen in candidates}
    chosen = min(refusals, key=lambda candidate: len(refusals[candidate]))
    if found := refusals[chosen]:
        field, value, expected = found[0]
        raise CheckpointError(
            f"the layout {chosen.layout.name!r} cannot express this model",
            path=path,
            field=field,
            value="None" if value is None else value,
            expected=expected,
        )
    told = chosen.layout.told(model.config, chosen.spelling)
    return chosen, chosen.layout.completed(chosen.renaming.from_ours(model.state_dict())), told


def with_dilation(foreign: Foreign, dilation: bool | None) -> Foreign:
    """A file that tells whether its trunk is dilated, where the caller knows better than it."""
    return foreign if dilation is None else dataclasses.replace(foreign, told={**foreign.told, "dilation": dilation})
