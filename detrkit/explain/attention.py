"""Attention weights as the model computed them, without a change to its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from detrkit.attention import Attention, AttentionOutput
from detrkit.detections import Detections
from detrkit.errors import DetrkitError
from detrkit.model import mask_at
from detrkit.prediction import infer, results
from detrkit.preprocessing import normalize, pad, resize

if TYPE_CHECKING:
    from detrkit.model import Detector
    from detrkit.transformer import DecoderLayer


class NoWeightsError(DetrkitError):
    """An attention that computes no weights, so that there is nothing to look at."""


@contextmanager
def record_weights(attention: nn.Module) -> Iterator[list[Float[Tensor, "B H Q K"]]]:
    """Within the block, every call of this attention also gives its weights, which are appended to the list."""
    recorded: list[Tensor] = []

    def ask(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**options, "need_weights": True}

    def keep(_: nn.Module, __: Any, answer: AttentionOutput) -> None:
        if answer.weights is not None:
            recorded.append(answer.weights.detach())

    hooks = [attention.register_forward_pre_hook(ask, with_kwargs=True), attention.register_forward_hook(keep)]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def cross_attention(
    model: Detector, images: Sequence[Image.Image], *, layer: int = -1
) -> list[tuple[Detections, Float[Tensor, "H Q h w"]]]:
    """Detections of RGB images, and where each query of a decoder layer looked.

    Args:
        model: a detector.
        images: RGB images.
        layer: decoder layer, the last by default.

    Returns:
        For each image all detections (one a query) and the weights [heads, queries, rows, columns] over the cells of
        the unpadded image; each query's weights sum to one.

    Raises:
        NoWeightsError: the decoder reads otherwise than by dense attention, or several levels.
    """
    config, device = model.config, next(model.parameters()).device
    inputs = pad([normalize(resize(image, config.short_side, config.long_side)) for image in images]).to(device)
    chosen = cast("DecoderLayer", model.decoder.layers[layer])
    if len(model.neck.strides) > 1:
        raise NoWeightsError("gives several levels; weights are shown on one", field=f"neck={config.neck}")
    no_weights = NoWeightsError("gives no weights", field=f"decoder_cross_attention={config.decoder_cross_attention}")
    if not isinstance(chosen.cross_attn, Attention):
        raise no_weights
    with record_weights(chosen.cross_attn) as recorded:
        output = infer(model, inputs.images.to(next(model.parameters()).dtype), inputs.mask)
    if not recorded:
        raise no_weights
    height, width = (-(-side // model.neck.strides[-1]) for side in inputs.images.shape[-2:])
    maps = recorded[0].float().unflatten(-1, (height, width))
    if inputs.mask is not None:
        visible = ~mask_at(inputs.mask, height, width)
        shapes = [(int(v.any(1).sum()), int(v.any(0).sum())) for v in visible]
    else:
        shapes = [(height, width)] * len(images)
    found = results(model, output, [(image.height, image.width) for image in images])
    return [(f, m[..., :rows, :columns]) for f, m, (rows, columns) in zip(found, maps, shapes, strict=True)]
