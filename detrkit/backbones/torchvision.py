"""Classification networks of torchvision as backbones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.backbones._trunk import FINEST, PROBES, Norm, Trunk, keep_every_pixel, stride_of, unknown_model
from detrkit.errors import CheckpointError, ConfigError
from detrkit.fields import NonNegative


@final
class TorchvisionBackbone(Trunk):
    """Any torchvision network that is a chain of feature maps (DETR, section 4: ResNet-50).

    All levels from stride 4 on, each taken before the next reduction. The entries are named as in torchvision below
    the prefix ``body.``; the classifier, with its expansion by a trailing 1x1 convolution, is left out.

    Args:
        model: name of the network, see ``torchvision.models.list_models()``.
        weights: file with the network's weights; or ``"DEFAULT"``, ``"imagenet"`` or a name such as
            ``"IMAGENET1K_V1"`` for published ones that torch's cache holds already. None: random.
        norm: ``"frozen"``: batch norms have fixed statistics and scales, as in DETR; ``"batch"``: those of trained
            levels stay as they are.
        dilation: dilate the last stage instead of its stride (DETR-DC5); the last two levels then have one stride.
        trainable_levels: how many levels, counted from the coarsest, are trained; what comes before is frozen. For a
            ResNet, 3 freezes the stem and layer1, as in DETR, which wants pretrained weights. None: all.

    Raises:
        ConfigError: unknown model, one that is no chain of feature maps, one that cannot be dilated, or more
            trainable levels than it has.
        CheckpointError: the weights cannot be had, read, or fitted.
    """

    def __init__(
        self,
        *,
        model: str = "resnet50",
        weights: str | Path | None = None,
        norm: Norm = "frozen",
        dilation: bool = False,
        trainable_levels: NonNegative | None = None,
    ) -> None:
        super().__init__()
        if found := list(self.problems(model, dilation)):
            raise ConfigError(f"torchvision: {line}" for line in found)
        plan = _plan(model)
        self.body = Chain(_network(model, dilation), plan)
        self.settle(
            f"torchvision: model {model!r}",
            norm=norm,
            trainable_levels=trainable_levels,
            weights=None if weights is None else _weight_file(model, str(weights)),
            names={key: key for key in self.body.state_dict()},
            known=plan.entries,
        )

    @staticmethod
    def problems(model: str, dilation: bool) -> Iterable[str]:
        """A line when the model is unknown, is no chain of feature maps, or cannot be dilated."""
        known = torchvision.models.list_models(module=torchvision.models)
        if model not in known:
            yield unknown_model(model, known, "torchvision.models.list_models()")
        elif not _plan(model).taps:
            yield (
                f"model {model!r} is no chain of feature maps with ceil(size / stride) cells; "
                "the component timm takes more kinds of networks, for example timm(model=...)"
            )
        elif dilation and not _can_dilate(model):
            yield f"dilation: {model!r} cannot be dilated by torchvision; resnet50 and other bottleneck ResNets can"

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """As the contract says: one map [B, C_l, ceil(H / s_l), ceil(W / s_l)] a level."""
        return self.body(images)


class Plan(NamedTuple):
    """What a network's trunk is made of: its units, those after which a level ends, and the whole network's entries."""

    units: list[str]
    taps: list[str]
    entries: frozenset[str]


class Chain(nn.Sequential):
    """Units of a network one after the other, under their own names; gives the maps after some of them."""

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.taps = frozenset(plan.taps)
        for name in plan.units:
            outer, _, inner = name.rpartition(".")
            if outer and outer not in self._modules:
                self.add_module(outer, nn.Sequential())
            self.get_submodule(outer).add_module(inner, network.get_submodule(name))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps after the tapped units, finest first."""
        maps = []
        for name, unit in _units(self):
            x = unit(x)
            if name in self.taps:
                maps.append(x)
        return maps


def _units(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children in their order; a plain sequence among them is unfolded."""
    for name, child in network.named_children():
        if type(child) is nn.Sequential:
            yield from ((f"{name}.{inner}", unit) for inner, unit in child.named_children())
        else:
            yield name, child


def _network(model: str, dilation: bool) -> nn.Module:
    options: dict[str, Any] = {"replace_stride_with_dilation": [False, False, True]} if dilation else {}
    return torchvision.models.get_model(model, weights=None, **options)


def _network_on_meta(model: str, dilation: bool = False) -> nn.Module:
    try:
        with torch.device("meta"):
            return _network(model, dilation).eval()
    except NotImplementedError:
        if dilation:
            raise
    with torch.random.fork_rng(devices=[]):  # regnets compute their widths with tensors
        return _network(model, dilation).to("meta").eval()


def _can_dilate(model: str) -> bool:
    try:
        _network_on_meta(model, dilation=True)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


@lru_cache(maxsize=8)
def _plan(model: str) -> Plan:
    """Find the trunk: the longest run of units that give maps of ceil(size / stride) cells; no taps when there is none.

    What follows must be a head: a convolution or an attention there means that the children are no chain.
    """
    network = _network_on_meta(model)
    entries = frozenset(network.state_dict())
    keep_every_pixel(network)
    units = list(_units(network))
    strides = list(_strides(units))
    rest = (module for _, unit in units[len(strides) :] for module in unit.modules())
    if any(isinstance(module, nn.Conv2d | nn.MultiheadAttention) for module in rest):
        return Plan([], [], entries)
    units = units[: _end_without_expansion([unit for _, unit in units[: len(strides)]])]
    following = [*strides[1 : len(units)], float("inf")]
    names = [name for name, _ in units]
    taps = [name for name, stride, after in zip(names, strides, following, strict=False) if FINEST <= stride < after]
    return Plan(names, taps, entries)


def _strides(units: Iterable[tuple[str, nn.Module]]) -> Iterator[int]:
    maps = [torch.empty(1, 3, *size, device="meta") for size in PROBES]
    for _, unit in units:
        try:
            maps = [unit(x) for x in maps]
        except Exception:  # whatever a foreign unit raises, it is no link of a chain of maps
            return
        stride = stride_of(maps)
        if stride is None:
            return
        yield stride


def _end_without_expansion(units: Sequence[nn.Module]) -> int:
    """Number of units before a trailing 1x1 convolution (with its norm and activation), which serves the classifier."""
    for index in reversed(range(len(units))):
        convolutions = [module for module in units[index].modules() if isinstance(module, nn.Conv2d)]
        if convolutions:
            only_pointwise = all(conv.kernel_size == (1, 1) for conv in convolutions)
            return index if only_pointwise else len(units)
    return len(units)


def has_published_weights(model: str) -> bool:
    """Whether torch's cache holds the default weights of a network."""
    return _published(model, "DEFAULT").is_file()


def _published(model: str, name: str) -> Path:
    """Where torch's cache keeps published weights."""
    url = torchvision.models.get_model_weights(model).__members__[name].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _weight_file(model: str, weights: str) -> Path:
    """The file itself, or that of published weights in torch's cache; nothing is ever downloaded."""
    published = torchvision.models.get_model_weights(model).__members__
    name = "DEFAULT" if weights == "imagenet" else weights
    if name not in published:
        return Path(weights).expanduser()
    file = _published(model, name)
    if not file.is_file():
        raise CheckpointError(
            f"the weights {name} of {model} are not in torch's cache",
            path=file,
            hint=(f"fetch {published[name].url} into that place, or give weights='FILE'"),
        )
    return file
