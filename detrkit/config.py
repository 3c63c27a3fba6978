"""Configurations: frozen dataclasses of numbers and spec strings. Imports no torch.

`DetectorConfig` says what a model is, `TrainConfig` how it is trained. A preset is a function that returns a
`DetectorConfig`; its training recipe is attached with `recipe`.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, cast, get_type_hints

from detrkit import fields, fitting
from detrkit.errors import ConfigError, DetrkitError, nearest
from detrkit.fields import Fraction, NonNegative, Positive, Probability, Rate, Role, Seed, Weight, Workers, roles_of
from detrkit.registry import REGISTRY
from detrkit.specs import Spec

Activation = Literal["relu", "gelu", "silu", "prelu"]
AttentionSpec = Annotated[str, Role("attention", "reading")]


@dataclass(frozen=True)
class _Config:
    """What both configurations share: checked replacement of fields, and everything wrong at once."""

    @classmethod
    def annotations(cls) -> dict[str, Any]:
        """Annotation of each field, by name."""
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}

    def replace(self, **changes: Any) -> Self:
        """A copy with these fields changed; unknown names are refused with the nearest one."""
        known = self.annotations()
        unknown = [
            f"unknown field {name!r} of {type(self).__name__}; {nearest(name, known)}"
            for name in changes
            if name not in known
        ]
        if unknown:
            raise ConfigError(unknown)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name; the inverse of ``type(self)(**values)``."""
        return dataclasses.asdict(self)

    told_later: ClassVar[frozenset[str]] = frozenset()
    """Dimensions that its components are told when they are made, by other components."""

    def dimensions(self) -> dict[str, Any]:
        """What this configuration tells its components."""
        return {}

    def problems(self) -> list[str]:
        """Everything that is wrong, a line each: types, ranges, and specs that cannot be made."""
        values, annotations = self.to_dict(), self.annotations()
        found = list(fields.problems(values, annotations, type(self).__name__))
        for name, annotation in annotations.items():
            roles = roles_of(annotation)
            if roles and isinstance(values[name], str):
                role = REGISTRY.first_with(roles, values[name])
                found += REGISTRY.problems(role, values[name], self.dimensions(), name, self.told_later)
        found += self._own_problems()
        return found or list(self._misfits())

    def _own_problems(self) -> Iterator[str]:
        """What is wrong with fields that are right on their own."""
        return iter(())

    def _misfits(self) -> Iterator[str]:
        """Parts that do not fit each other, where each is right on its own."""
        return iter(())

    def check(self) -> Self:
        """This configuration, if nothing is wrong with it.

        Raises:
            ConfigError: all problems at once.
        """
        if found := self.problems():
            raise ConfigError(found)
        return self


@dataclass(frozen=True)
class DetectorConfig(_Config):
    """What a detector is: its parts by name and its sizes (DETR, section 3.2 and appendix A.4; defaults are DETR-R50).

    None (``none`` on the command line) for `positional` or `decoder_self_attention` leaves the part out. Some fields:

    - `group_detr`: groups of so many queries each in training, of which the first alone stays (Group DETR).
    - `encoder_activation`: of the encoder's layers, where it is not the decoder's `activation`.
    - `encoder_norm`: a post-norm encoder ends in a norm too (as in appendix A.6); a pre-norm one always does.
    - `position_at`: the code of a cell is added in every ``attention`` or once, at the ``input`` (table 3).
    - `feature_scale`: factor of the projected features, before anything is added to them.
    - `bbox_layers`: linear layers of the box head.
    - `square`: images become squares, whatever their shape.
    - `normalize`: ImageNet's mean and deviation are taken out of the pixels; False: these are in [0, 1].
    - `padding_exact`: what is found in an image does not depend on the others of its batch. False: as published, where
      convolutions see some of the padding and the mask is rounded to the nearest cell.
    """

    backbone: Annotated[str, Role("backbones")] = "torchvision(model='resnet50', trainable_levels=3)"
    neck: Annotated[str, Role("necks")] = "single"
    positional: Annotated[str, Role("positional")] | None = "sine"
    queries: Annotated[str, Role("queries")] = "positions"
    placement: Annotated[str, Role("placement")] = "fixed"
    group_detr: Positive = 1
    denoising: Annotated[str, Role("denoising")] | None = None
    encoder: Annotated[str, Role("encoders")] = "stack"
    encoder_attention: AttentionSpec = "sdpa"
    decoder_self_attention: AttentionSpec | None = "sdpa"
    decoder_cross_attention: AttentionSpec = "sdpa"
    matcher: Annotated[str, Role("matchers")] = "scipy"
    selection: Annotated[str, Role("selection")] = "argmax"

    d_model: Positive = 256
    num_queries: Positive = 100
    num_classes: Positive = 91
    enc_layers: NonNegative = 6
    dec_layers: Positive = 6
    dim_feedforward: Positive = 2048
    dropout: Probability = 0.1
    activation: Activation = "relu"
    encoder_activation: Activation | None = None
    pre_norm: bool = False
    encoder_norm: bool = False
    decoder_norm: bool = True
    scale_positions: bool = False
    position_at: Literal["attention", "input"] = "attention"
    feature_scale: Rate = 1.0
    classification: Annotated[str, Role("classification")] = "softmax"
    share_heads: bool = True
    bbox_layers: Positive = 3
    refinement: Literal["none", "iterative", "look_twice"] = "none"
    box_coder: Annotated[str, Role("box_coders")] = "sigmoid"
    reference_eps: Rate = 1e-5
    aux_loss: bool = True

    set_cost_class: Weight = 1.0
    set_cost_bbox: Weight = 5.0
    set_cost_giou: Weight = 2.0
    cls_loss_coef: Weight = 1.0
    bbox_loss_coef: Weight = 5.0
    giou_loss_coef: Weight = 2.0
    giou_eps: Weight = 0.0
    eos_coef: Weight = 0.1

    short_side: Positive = 800
    long_side: Positive = 1333
    square: bool = False
    normalize: bool = True
    padding_exact: bool = False

    told_later: ClassVar[frozenset[str]] = frozenset(
        {"in_channels", "strides", "num_levels", "level_strides", "layers", "box_coder"}
    )

    def dimensions(self) -> dict[str, Any]:
        """Numbers that the parts of the model, and what is done to its images, may ask for."""
        names = (
            "d_model",
            "dropout",
            "num_queries",
            "num_classes",
            "eos_coef",
            "short_side",
            "long_side",
            "reference_eps",
        )
        told = {name: getattr(self, name) for name in (*names, "scale_positions", "square")}
        return {**told, "encoder_norm": self.pre_norm or self.encoder_norm, "layer": 0}

    def _own_problems(self) -> Iterator[str]:
        if self.set_cost_class == self.set_cost_bbox == self.set_cost_giou == 0:
            yield "DetectorConfig.set_cost_*: all are 0; the matching needs at least one cost"
        if self.encoder_norm and self.pre_norm:
            yield "DetectorConfig.encoder_norm: no effect with pre_norm=True, which always ends in a norm; leave it out"
        if self.encoder_activation is not None and (not self.enc_layers or self.encoder_activation == self.activation):
            yield f"DetectorConfig.encoder_activation: no effect; got {self.encoder_activation!r}, leave it out"
        if self.position_at != "attention" and self.positional is None:
            yield f"DetectorConfig.position_at: no effect with positional=None; got {self.position_at!r}"
        if self.scale_positions and (self.positional is None or self.position_at == "input" or not self.enc_layers):
            why = f"positional={self.positional}, position_at={self.position_at}, enc_layers={self.enc_layers}"
            yield f"DetectorConfig.scale_positions: no effect with {why}; no encoder adds positions in every attention"
        if self.refinement != "none" and self.dec_layers == 1:
            yield f"DetectorConfig.refinement: no effect with dec_layers=1; got {self.refinement!r}"
        if not (self.share_heads or self.aux_loss or self.dec_layers == 1):
            yield "DetectorConfig.share_heads: with aux_loss=False only the last layer's heads are trained; share them"
        if isinstance(self.short_side, int) and isinstance(self.long_side, int) and self.long_side < self.short_side:
            yield f"DetectorConfig.long_side: got {self.long_side}; expected at least short_side={self.short_side}"
        if self.square and self.short_side != self.long_side:
            yield f"DetectorConfig.square: short_side={self.short_side} and long_side={self.long_side} differ"

    def _misfits(self) -> Iterator[str]:
        return fitting.problems(self)


@dataclass(frozen=True)
class TrainConfig(_Config):
    """How a detector is trained (DETR, section 4 and appendix A.4; defaults are the official recipe of 300 epochs).

    The length is given in `epochs` or in optimizer `steps`. A step sees a window of `batch_size` x `accumulate` x
    processes images, and is the same however these three share them out. Some fields:

    - `init_from`: a run, a checkpoint or a folder to start from, see `detrkit.build`.
    - `lr_drop`: the epoch after which the rate falls to a tenth under ``schedule="step"``; by default two thirds of
      the run.
    - `lr_factors`: ``"decoder=0.1,class_embed.bias=2"`` multiplies the rate of the parameters of these names, or in
      parts of these names; ``*`` stands for anything, and the last pattern that matches counts.
    - `no_decay`: ``"*norm,*bias"`` keeps the weight decay from the parameters of such names, as `lr_factors` has them.
    - `freeze`: ``"backbone,encoder.layers.0"`` stops the training of such parameters.
    - `ema_decay`: share of the averaged weights that a step keeps; these are then scored and become the best
      checkpoint, at the end of the run where nothing is scored. 0: no average.
    - `patience`: evaluations without a better AP after which a run ends; 0: it goes on.
    - `multi_scale`: share by which the images of a step grow or shrink at most, all to one size (RT-DETR: 0.25).
    - `plain_epochs`: last epochs in which images are flipped at most, without other `transforms` and `multi_scale`.
    - `amp`: ``bf16`` takes the products of the forward pass in bfloat16; losses and weights stay float32.
    - `on_bad_image`: ``skip`` leaves images out that cannot be read, and counts them.
    - `save_every` (epochs) and `save_minutes` (of training): when the run is saved to be resumed; 0: not by this.
    """

    data: Annotated[str, Role("datasets")] | None = None
    train_split: str = "train"
    val_split: str = "val"
    init_from: str | None = None

    lr: Rate = 1e-4
    lr_backbone: Rate = 1e-5
    lr_factors: str | None = None
    freeze: str | None = None
    weight_decay: Weight = 1e-4
    no_decay: str | None = None
    clip_max_norm: Weight = 0.1
    batch_size: Positive = 2
    accumulate: Positive = 1
    epochs: Positive | None = 300
    steps: Positive | None = None
    schedule: Literal["step", "linear", "cosine"] = "step"
    lr_drop: Positive | None = None
    warmup_steps: NonNegative = 0
    ema_decay: Fraction = 0.0
    patience: NonNegative = 0
    transforms: Annotated[str, Role("transforms")] | None = "detr"
    multi_scale: Fraction = 0.0
    plain_epochs: NonNegative = 0

    seed: Seed = 42
    num_workers: Workers = 0
    device: str = "auto"
    amp: Literal["none", "bf16"] = "none"
    deterministic: bool = False
    on_bad_image: Literal["error", "skip"] = "error"
    eval_every: NonNegative = 1
    save_every: NonNegative = 1
    save_minutes: Weight = 10.0
    tensorboard: bool = False

    def replace(self, **changes: Any) -> Self:
        """As for every config; giving `steps` clears `epochs`, and the other way round."""
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if changes.get(one) is not None and other not in changes:
                changes = {**changes, other: None}
        return super().replace(**changes)

    def dimensions(self) -> dict[str, Any]:
        """What the data set is told, and the usual sides of images; training tells transforms the detector's own."""
        sides = {name: getattr(DetectorConfig, name) for name in ("short_side", "long_side")}
        return {"split": self.train_split, **sides, "square": DetectorConfig.square}

    def factors(self) -> dict[str, float]:
        """Factor of the learning rate by pattern of parameters' names, as `lr_factors` gives them."""
        pairs = (item.rpartition("=") for item in fields.items(self.lr_factors))
        return {pattern.strip(): float(factor) for pattern, _, factor in pairs}

    def _own_problems(self) -> Iterator[str]:
        if (self.epochs is None) == (self.steps is None):
            yield f"TrainConfig.epochs, steps: got {self.epochs} and {self.steps}; expected just one of them"
        if self.lr_drop is not None and self.schedule != "step":
            yield f"TrainConfig.lr_drop: no effect with schedule={self.schedule!r}; leave it out or use schedule=step"
        if self.patience and self.eval_every == 0:
            yield "TrainConfig.patience: no effect with eval_every=0; leave it out, or evaluate"
        if self.plain_epochs and self.transforms in (None, "flip") and not self.multi_scale:
            yield f"TrainConfig.plain_epochs: no effect with transforms={self.transforms} and multi_scale=0"
        if self.plain_epochs and self.epochs is not None and self.plain_epochs >= self.epochs:
            yield f"TrainConfig.plain_epochs: got {self.plain_epochs}; expected less than epochs={self.epochs}"
        yield from self._problems_of_patterns()

    def _problems_of_patterns(self) -> Iterator[str]:
        for name in ("freeze", "no_decay"):
            if isinstance(value := getattr(self, name), str) and not fields.items(value):
                yield f"TrainConfig.{name}: got {value!r}; expected NAME,NAME,... of parameters or their parts"
        if self.no_decay is not None and self.weight_decay == 0:
            yield "TrainConfig.no_decay: no effect with weight_decay=0; leave it out"
        if not isinstance(self.lr_factors, str):
            return
        try:
            factors = self.factors()
        except ValueError:
            factors = {}
        if not factors or not all(pattern and fields.accepts(rate, Rate) for pattern, rate in factors.items()):
            yield f"TrainConfig.lr_factors: got {self.lr_factors!r}; expected NAME=FACTOR,... with factors from 0"


Preset = Callable[[], DetectorConfig]


class TrainedPreset(Protocol):
    """A preset with its recipe.

    Attributes:
        recipe: how this model is trained.
        changes: the same as changes of `TrainConfig`.
        rules: what it decides by looking at the data, see `detrkit.tailoring`.
    """

    recipe: TrainConfig
    changes: dict[str, Any]
    rules: tuple[Callable[..., Any], ...]

    def __call__(self) -> DetectorConfig:
        """The detector."""


def recipe(**changes: Any) -> Callable[[Preset], TrainedPreset]:
    """Decorator of a preset: how this model is trained, as changes of `TrainConfig`."""

    def attach(preset: Preset) -> TrainedPreset:
        trained = cast(TrainedPreset, preset)
        trained.recipe, trained.changes, trained.rules = TrainConfig().replace(**changes), changes, ()
        return trained

    return attach


def read_file(path: str | Path) -> dict[str, Any]:
    """Fields from a TOML file, or from the JSON that a run saves; what a run says about its environment is left out.

    Raises:
        DetrkitError: the file is missing or cannot be read.
        ConfigError: unknown fields, each with its line and the nearest name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        loaded = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DetrkitError("cannot read the configuration", path=path, value=f"({error})") from None
    if not isinstance(loaded, dict):
        raise DetrkitError("not a table of fields", path=path, value=type(loaded).__name__)
    sections = [loaded.pop(name) for name in ("detector", "train") if isinstance(loaded.get(name), dict)]
    loaded.pop("environment", None)
    found = {**{name: v for part in sections for name, v in part.items()}, **loaded}
    known = {"preset", *DetectorConfig.annotations(), *TrainConfig.annotations()}
    if unknown := [name for name in found if name not in known]:
        places = {name: f"{path}:{_line_of(name, text)}" for name in unknown}
        raise ConfigError(f"{place}: unknown field {name!r}; {nearest(name, known)}" for name, place in places.items())
    return found


def _line_of(name: str, text: str) -> int:
    return next((number for number, line in enumerate(text.splitlines(), 1) if name in line), 1)


def difference(a: _Config, b: _Config) -> dict[str, tuple[Any, Any]]:
    """Fields in which two configurations differ, specs compared by meaning: name -> (value of a, value of b)."""
    both = {name: (value, b.to_dict()[name]) for name, value in a.to_dict().items()}
    return {name: (x, y) for name, (x, y) in both.items() if _meaning(x, name, a) != _meaning(y, name, b)}


def _meaning(value: Any, name: str, owner: _Config) -> Any:
    return Spec.parse(value) if roles_of(owner.annotations()[name]) and isinstance(value, str) else value
