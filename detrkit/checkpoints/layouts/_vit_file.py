"""What the official files of LW-DETR and RF-DETR share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._attentions import Arguments, with_settings
from detrkit.checkpoints.layouts._groups import cut, head_rows, number_of_groups, table_rows
from detrkit.checkpoints.layouts._parts import Refusal
from detrkit.checkpoints.layouts._renaming import Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._torch_file import TorchFile, layer_rows
from detrkit.config import DetectorConfig

TRUNK, PROJECTOR = "backbone.0.encoder", "backbone.0.projector"


def projector_rows() -> list[Row]:
    """Rows of the projector."""
    ours, theirs = "neck.levels.#", f"{PROJECTOR}.stages.#"
    block, layer = f"{ours}.block", f"{theirs}.0"
    places = {f"{block}.first": f"{layer}.cv1", f"{block}.last": f"{layer}.cv2"}
    places |= {f"{block}.blocks.#.{n}": f"{layer}.m.#.cv{n + 1}" for n in range(2)}
    sampling = f"{ours}.samplings.#", f"{PROJECTOR}.stages_sampling.#.#.0"
    return [
        *((f"{one}.conv.*", f"{other}.conv.*") for one, other in places.items()),
        *((f"{one}.norm.*", f"{other}.bn.*") for one, other in places.items()),
        *((f"{sampling[0]}.{part}.*", f"{sampling[1]}.{of}.*") for part, of in (("conv", "conv"), ("norm", "bn"))),
        *((f"{sampling[0]}.{entry}", f"{sampling[1]}.{entry}") for entry in ("weight", "bias")),
        (f"{ours}.norm.*", f"{theirs}.1.*"),
    ]


def decoder_rows() -> list[Row]:
    """Rows of decoder, queries and heads."""
    return [
        *layer_rows("decoder", {"self_attn": "self_attn", "cross_attn": "cross_attn"}),
        ("decoder.norm.*", "transformer.decoder.norm.*"),
        ("decoder.placement.position_head.layers.#.*", "transformer.decoder.ref_point_head.layers.#.*"),
        *head_rows("transformer"),
        ("class_embed.*", "class_embed.*"),
        ("bbox_embed.layers.#.*", "bbox_embed.layers.#.*"),
        *table_rows("refpoint_embed", "query_feat"),
    ]


class VitFile(TorchFile):
    """Template of the official files; read, not written."""

    attentions: ClassVar[Arguments] = {
        "decoder_self_attention": {"heads": "sa_nheads"},
        "decoder_cross_attention": {"heads": "ca_nheads", "points": "dec_n_points"},
    }

    @abstractmethod
    def trunk_in(self, foreign: Foreign, sizes: Sizes) -> dict[str, Any]:
        """Settings of the trunk.

        Raises:
            CheckpointError: none that is known.
        """

    def sides_in(self, foreign: Foreign, sizes: Sizes) -> dict[str, int]:
        """The sides of images, where they are not those of `base`."""
        return {}

    def prepared(self, foreign: Foreign, spelling: str) -> Foreign:
        """As the contract, with the tables of queries cut into groups."""
        return cut(foreign)

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the contract; detections are as many as queries, as in the official scripts."""
        base = self.base(spelling)
        return {
            **self.sides_in(foreign, sizes),
            **{name: foreign.told[name] for name in self.arguments if name in foreign.told},
            "group_detr": number_of_groups(foreign),
            "selection": with_settings("topk", {"k": sizes.fields(base)["num_queries"]}, "selection"),
            "backbone": with_settings(base.backbone, self.trunk_in(foreign, sizes), "backbones"),
        }

    def refused_parts(self, config: DetectorConfig, spelling: str) -> Iterator[Refusal]:
        """Everything: these files are read only."""
        yield Refusal("queries", config.queries, "those of another member: LW-DETR and RF-DETR are read only")
