"""Networks of timm as backbones."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detrkit.backbones._trunk import FINEST, Norm, Trunk, unknown_model
from detrkit.errors import CheckpointError, ConfigError
from detrkit.fields import NonNegative


@final
class TimmBackbone(Trunk):
    """Any timm network that gives feature maps, plain vision transformers included.

    All levels from stride 4 on, the last map of each. Channels and strides are those that timm's ``feature_info``
    tells. timm takes seconds to import, so it is imported when a backbone is made.

    Args:
        model: name of the network, see ``timm.list_models()``.
        weights: file with the network's weights under timm's names; or ``"DEFAULT"`` or ``"imagenet"`` for published
            ones that the cache of the Hugging Face hub holds already. None: random.
        norm: as in the component ``torchvision``.
        dilation: as in the component ``torchvision``.
        trainable_levels: as in the component ``torchvision``.

    Raises:
        ConfigError: timm is not installed, an unknown model, one without such feature maps, one that cannot be
            dilated, or more trainable levels than it has.
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
            raise ConfigError(f"timm: {line}" for line in found)
        plan = _plan(model)
        self.body = _features(model, dilation)
        self.settle(
            f"timm: model {model!r}",
            norm=norm,
            trainable_levels=trainable_levels,
            weights=None if weights is None else _weight_file(plan, str(weights)),
            names=_names_in_files(self.body, plan),
            known=plan.state_dict(),
        )

    @staticmethod
    def problems(model: str, dilation: bool) -> Iterable[str]:
        """A line when timm is missing, the model is unknown or gives no maps, or cannot be dilated."""
        try:
            timm = _timm()
        except ImportError as error:
            yield f"timm cannot be imported ({error}); pip install timm"
            return
        if not timm.is_model(model):
            yield unknown_model(model, timm.list_models(), "timm.list_models()")
        elif not _levels(_plan(model)):
            yield f"model {model!r} gives no feature maps of stride {FINEST} or more"
        elif dilation and not _can_dilate(model):
            yield f"dilation: {model!r} cannot be dilated by timm; resnet50 and most convolutional networks can"

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """As the contract says: one map [B, C_l, ceil(H / s_l), ceil(W / s_l)] a level."""
        maps = self.body(images)
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":  # transformers of the swin kind
            return [level.permute(0, 3, 1, 2) for level in maps]
        return list(maps)


def _timm() -> ModuleType:
    import timm

    return timm


@lru_cache(maxsize=8)
def _plan(model: str) -> nn.Module:
    """The whole network without values: what it is made of, and what its entries are called in a file."""
    with torch.device("meta"):
        return _timm().create_model(model, pretrained=False).eval()


def _levels(plan: nn.Module) -> dict[int, int]:
    """For each stride from `FINEST` on, the index of the last map that has it."""
    strides = [info["reduction"] for info in getattr(plan, "feature_info", [])]
    return {stride: index for index, stride in enumerate(strides) if stride >= FINEST}


def _features(model: str, dilation: bool) -> nn.Module:
    """The network as timm's feature extractor, for images of any size."""
    levels = _levels(_plan(model))
    options: dict[str, Any] = {"output_stride": max(levels) // 2} if dilation else {}
    if "dynamic_img_size" in inspect.signature(type(_plan(model)).__init__).parameters:
        options["dynamic_img_size"] = True
    body = _timm().create_model(
        model, pretrained=False, features_only=True, out_indices=tuple(levels.values()), **options
    )
    for module in body.modules():
        if hasattr(module, "dynamic_img_pad"):
            module.dynamic_img_pad = True
    return body


def _can_dilate(model: str) -> bool:
    try:
        with torch.device("meta"):
            strides = _features(model, dilation=True).feature_info.reduction()  # type: ignore[union-attr,operator]
    except Exception:  # timm's networks say in many ways that they cannot
        return False
    return strides[-1] == max(_levels(_plan(model))) // 2


def _names_in_files(body: nn.Module, plan: nn.Module) -> dict[str, str]:
    """The name that each entry of timm's feature extractor has in the whole network."""
    unfolded = {
        f"{outer}_{inner}": f"{outer}.{inner}"
        for outer, child in plan.named_children()
        for inner, _ in child.named_children()
    }
    names = {}
    for key in body.state_dict():
        top, _, rest = key.partition(".")
        if hasattr(plan, top):
            names[key] = key
        else:  # a sequence that timm unfolded, or the whole network under one name
            names[key] = f"{unfolded[top]}.{rest}" if top in unfolded else rest
    return names


def _weight_file(plan: nn.Module, weights: str) -> Path:
    """The file itself, or that of published weights in the hub's cache; nothing is ever downloaded."""
    if weights not in ("DEFAULT", "imagenet"):
        return Path(weights).expanduser()
    from huggingface_hub import try_to_load_from_cache

    config: Mapping[str, Any] = plan.pretrained_cfg  # type: ignore[assignment]
    repository = config.get("hf_hub_id")
    file = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    if not isinstance(file, str):
        raise CheckpointError(
            f"the weights {weights!r} of {config.get('architecture')} are not in the hub's cache",
            hint=f"fetch model.safetensors of {repository}, and give weights='FILE'",
        )
    return Path(file)
