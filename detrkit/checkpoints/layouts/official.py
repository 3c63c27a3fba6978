"""The official DETR checkpoints (facebookresearch/detr, ``.pth``)."""

from __future__ import annotations

from typing import Any, ClassVar, final

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._renaming import Renaming, Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._torch_file import TorchFile, layer_rows
from detrkit.checkpoints.layouts._trunks import trunk_rows
from detrkit.config import DetectorConfig

TRANSFORMER: list[Row] = [
    *layer_rows("encoder", {"self_attn": "self_attn"}),
    ("encoder.norm.*", "transformer.encoder.norm.*"),
    *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "multihead_attn"}),
    ("decoder.norm.*", "transformer.decoder.norm.*"),
]
"""The transformer by the names of ``torch.nn.Transformer``, which the official code keeps."""


@final
class Official(TorchFile):
    """DETR with a ResNet (Carion et al., ECCV 2020), also as part of a panoptic DETR, whose mask head is left out."""

    arguments = TorchFile.arguments | {"eos_coef"}
    varies = TorchFile.varies | {"eos_coef", "pre_norm"}
    learned = True
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

    def base(self, spelling: str) -> DetectorConfig:
        """The preset."""
        return DetectorConfig()

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the template; pre-norm encoders are those that end in a norm."""
        return {**super().fields(foreign, spelling, sizes), "pre_norm": "encoder.norm.weight" in sizes.weights}


LAYOUT = Official()
