"""RT-DETR and RT-DETRv2 (lyuwenyu/RT-DETR, ``.pth``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._attentions import Arguments, refused_attentions, told_of_attentions
from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._rt_detr import (
    STAGE_NUMBERS,
    SUPERFLUOUS,
    classes,
    conv_rows,
    fusion_rows,
    parts_shown,
    refused_parts,
)
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._torch_file import ARGUMENTS, TorchFile
from detrkit.config import DetectorConfig
from detrkit.labels import LabelSpace
from detrkit.presets import unchecked

LAYERS = {
    "encoder": ("encoder.encoder.0.layers", {"self_attn": "norm1", "ffn": "norm2"}),
    "decoder": ("decoder.decoder.layers", {"self_attn": "norm1", "cross_attn": "norm2", "ffn": "norm3"}),
}
"""Their prefix of each side's layers, and norms by the sublayer that they follow."""


def trunk_rows() -> Iterator[Row]:
    """The trunk; the first shortcut averages nothing."""
    for index in range(3):
        yield from conv_rows(f"backbone.body.stem.{index}", f"backbone.conv1.conv1_{index + 1}")
    for stage in STAGE_NUMBERS:
        ours, theirs = f"backbone.body.stages.{stage}.#", f"backbone.res_layers.{stage}.blocks.#"
        for index, letter in enumerate("abc"):
            yield from conv_rows(f"{ours}.branch.{index}", f"{theirs}.branch2{letter}")
        yield from conv_rows(f"{ours}.shortcut.1", f"{theirs}.short" if stage == 0 else f"{theirs}.short.conv")


def layer_rows(side: str) -> Iterator[Row]:
    """Rows of one side's layers; attentions and the FFN have our names."""
    prefix, norms = LAYERS[side]
    ours, theirs = f"{side}.layers.#", f"{prefix}.#"
    for name, norm in norms.items():
        yield from (
            [(f"{ours}.ffn.linear#.*", f"{theirs}.linear#.*")]
            if name == "ffn"
            else [(f"{ours}.{name}.*", f"{theirs}.{name}.*")]
        )
        yield f"{ours}.{name}_residual.norm.*", f"{theirs}.{norm}.*"


@final
class RtDetr(TorchFile):
    """RT-DETR (Zhao et al., CVPR 2024) and RT-DETRv2, which has the same entries."""

    varies = TorchFile.varies | {"encoder"}
    superfluous: ClassVar[dict[str, str]] = SUPERFLUOUS
    arguments = ARGUMENTS - {"dropout"}
    attentions: ClassVar[Arguments] = {
        "encoder_attention": {"heads": "nheads"},
        "decoder_self_attention": {"heads": "nheads"},
        "decoder_cross_attention": {
            "heads": "nheads",
            "points": "dec_n_points",
            "offset_scale": "offset_scale",
            "method": "method",
        },
    }
    spellings: ClassVar[dict[str, Renaming]] = {
        "": Renaming(
            [
                *trunk_rows(),
                *conv_rows("neck.projections.#", "encoder.input_proj.#", "0", "1"),
                *layer_rows("encoder"),
                *fusion_rows("encoder"),
                *conv_rows("encoder.output.#", "decoder.input_proj.#"),
                *layer_rows("decoder"),
                ("queries.labels.weight", "decoder.denoising_class_embed.weight"),
                ("decoder.placement.position_head.layers.#.*", "decoder.query_pos_head.layers.#.*"),
                ("queries.output.*", "decoder.enc_output.0.*"),
                ("queries.output_norm.*", "decoder.enc_output.1.*"),
                ("queries.class_embed.*", "decoder.enc_score_head.*"),
                ("queries.bbox_embed.layers.#.*", "decoder.enc_bbox_head.layers.#.*"),
                ("class_embed.#.*", "decoder.dec_score_head.#.*"),
                ("bbox_embed.#.layers.#.*", "decoder.dec_bbox_head.#.layers.#.*"),
            ]
        )
    }

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return unchecked("rt_detr_r50")

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the contract; trunk and encoder are shown by tensors."""
        told = {name: foreign.told[name] for name in self.arguments if name in foreign.told}
        return {**told, **parts_shown(sizes, self.base(spelling))}

    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """As the contract; plain values by names of ours."""
        told = {name: getattr(config, name) for name in sorted(self.arguments)}
        return {**told, **told_of_attentions(config, self.attentions)}

    def label_space(self, foreign: Foreign, count: int) -> LabelSpace:
        """As the contract; eighty are COCO's."""
        return classes(count)

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """As the contract."""
        base = self.base(spelling)
        yield from refused_attentions(config, base, self.attentions)
        yield from refused_parts(config, base)


LAYOUT = RtDetr()
