"""The official DETR checkpoints (facebookresearch/detr, ``.pth``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, final

from detrkit.checkpoints.foreign import TORCH, Foreign
from detrkit.checkpoints.layouts import SIZES, Layout
from detrkit.checkpoints.layouts._parts import (
    ATTENTIONS,
    Refusal,
    Sizes,
    Trunk,
    attention_of,
    heads_of,
    refused_parts,
    refused_positional,
    trunk_of,
    trunk_rows,
)
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.config import DetectorConfig

ARGUMENTS = (
    *("dropout", "aux_loss", "set_cost_class", "set_cost_bbox", "set_cost_giou"),
    *("cls_loss_coef", "bbox_loss_coef", "giou_loss_coef", "eos_coef", "short_side", "long_side"),
)
"""Fields that tensors do not show; where the official script has an argument for one, it has the same name."""


def layer_rows(side: str, attentions: dict[str, str], entries: str = "*") -> list[Row]:
    """Rows of one side's layers: attentions, the FFN and the norms.

    Args:
        side: encoder or decoder.
        attentions: in the order of the layer, ours to theirs.
        entries: those of an attention that have one name on both sides.
    """
    ours, theirs = f"{side}.layers.#", f"transformer.{side}.layers.#"
    residuals = [*attentions, "ffn"]
    return [
        *((f"{ours}.{name}.{entries}", f"{theirs}.{other}.{entries}") for name, other in attentions.items()),
        *((f"{ours}.ffn.{linear}.*", f"{theirs}.{linear}.*") for linear in ("linear1", "linear2")),
        *((f"{ours}.{name}_residual.norm.*", f"{theirs}.norm{n}.*") for n, name in enumerate(residuals, 1)),
    ]


TRANSFORMER: list[Row] = [
    *layer_rows("encoder", {"self_attn": "self_attn"}),
    ("encoder.norm.*", "transformer.encoder.norm.*"),
    *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "multihead_attn"}),
    ("decoder.norm.*", "transformer.decoder.norm.*"),
]
"""The transformer by the names of ``torch.nn.Transformer``, which the official code keeps."""


class TorchFile(Layout):
    """Template of the layouts in torch files: tensors show the sizes, and arguments beside them tell the rest."""

    kinds = (TORCH,)
    varies = SIZES | frozenset(ARGUMENTS)
    norm: ClassVar[str]

    def config(self, foreign: Foreign, spelling: str, sizes: Sizes) -> DetectorConfig:
        """As the contract; heads and dilation are 8 and none where nothing tells them."""
        base, told = self.base(spelling), foreign.told
        attention = attention_of(told.get("nheads", 8))
        return base.replace(
            **sizes.fields(f"queries.{base.queries}.weight"),
            **{name: told[name] for name in ARGUMENTS if name in told},
            **dict.fromkeys(ATTENTIONS, attention),
            backbone=Trunk(sizes.resnet(), self.norm, bool(told.get("dilation", False))).spec(),
            positional=sizes.positional(),
        )

    def told(self, config: DetectorConfig) -> dict[str, Any]:
        """As the contract; plain values by the names of the official script's arguments."""
        trunk = trunk_of(config.backbone)
        return {
            **{name: getattr(config, name) for name in ARGUMENTS},
            "nheads": heads_of(config.encoder_attention),
            "dilation": trunk is not None and trunk.dilation,
        }

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the contract."""
        yield from refused_parts(config, norm=self.norm, same_heads=ATTENTIONS)


@final
class Official(TorchFile):
    """DETR with a ResNet (Carion et al., ECCV 2020), also as part of a panoptic DETR, whose mask head is left out."""

    varies = TorchFile.varies | {"pre_norm"}
    norm = "frozen"
    superfluous: ClassVar[dict[str, str]] = {
        "mask_head.*": "mask head of a panoptic DETR",
        "bbox_attention.*": "mask head of a panoptic DETR",
        "backbone.0.*num_batches_tracked": "frozen norms count no batches",
    }
    spellings: ClassVar[dict[str, Renaming]] = {
        "": Renaming(
            [
                *TRANSFORMER,
                ("class_embed.*", "class_embed.*"),
                ("bbox_embed.layers.#.*", "bbox_embed.layers.#.*"),
                ("queries.positions.weight", "query_embed.weight"),
                ("neck.projection.*", "input_proj.*"),
                *trunk_rows("backbone.0.body"),
                ("positional.row_embed.weight", "backbone.1.row_embed.weight"),
                ("positional.col_embed.weight", "backbone.1.col_embed.weight"),
            ]
        )
    }

    def config(self, foreign: Foreign, spelling: str, sizes: Sizes) -> DetectorConfig:
        """As the contract; pre-norm encoders are those that end in a norm."""
        pre_norm = "encoder.norm.weight" in sizes.weights
        return super().config(foreign, spelling, sizes).replace(pre_norm=pre_norm)

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the contract."""
        yield from super().refused_parts(config, spelling)
        yield from refused_positional(config, kinds=("sine", "learned"))


LAYOUT = Official()
