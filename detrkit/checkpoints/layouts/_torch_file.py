"""What the layouts in torch files share: tensors show the sizes, and arguments beside them tell the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from detrkit.checkpoints.foreign import TORCH, Foreign
from detrkit.checkpoints.layouts import SIZES, Layout
from detrkit.checkpoints.layouts._attentions import Arguments, told_of_attentions
from detrkit.checkpoints.layouts._renaming import Row
from detrkit.checkpoints.layouts._sizes import Sizes
from detrkit.checkpoints.layouts._trunks import Trunk, trunk_of
from detrkit.config import DetectorConfig

ARGUMENTS = frozenset(
    {
        *("num_queries", "dropout", "aux_loss", "set_cost_class", "set_cost_bbox", "set_cost_giou"),
        *("cls_loss_coef", "bbox_loss_coef", "giou_loss_coef", "short_side", "long_side"),
    }
)
"""Fields told by name; where the official script has an argument for one, it has the same name."""


def layer_rows(side: str, attentions: dict[str, str], entries: Iterable[str] = ("*",)) -> Iterator[Row]:
    """Rows of one side's layers: attentions, the FFN and the norms.

    Args:
        side: encoder or decoder.
        attentions: in the order of the layer, ours to theirs.
        entries: those of an attention that have one name on both sides.
    """
    ours, theirs = f"{side}.layers.#", f"transformer.{side}.layers.#"
    for name, other in attentions.items():
        yield from ((f"{ours}.{name}.{entry}", f"{theirs}.{other}.{entry}") for entry in entries)
    yield from ((f"{ours}.ffn.{linear}.*", f"{theirs}.{linear}.*") for linear in ("linear1", "linear2"))
    for number, name in enumerate([*attentions, "ffn"], 1):
        yield f"{ours}.{name}_residual.norm.*", f"{theirs}.norm{number}.*"


class TorchFile(Layout):
    """Template of the layouts of official code.

    Attributes:
        arguments: fields that are told by name.
    """

    kinds = (TORCH,)
    arguments: ClassVar[frozenset[str]] = ARGUMENTS
    varies = SIZES | ARGUMENTS
    attentions: ClassVar[Arguments] = {
        "encoder_attention": {"heads": "nheads", "points": "enc_n_points"},
        "decoder_self_attention": {"heads": "nheads"},
        "decoder_cross_attention": {"heads": "nheads", "points": "dec_n_points"},
    }

    def fields(self, foreign: Foreign, spelling: str, sizes: Sizes) -> dict[str, Any]:
        """As the contract; where nothing tells them, heads are 8 and nothing is dilated."""
        told = {name: foreign.told[name] for name in self.arguments if name in foreign.told}
        trunk = Trunk(sizes.resnet(), self.norm, bool(foreign.told.get("dilation", False)))
        return {**told, "backbone": trunk.spec()}

    def told(self, config: DetectorConfig, spelling: str) -> dict[str, Any]:
        """As the contract; plain values by the names of the official script's arguments."""
        trunk = trunk_of(config.backbone)
        return {
            **{name: getattr(config, name) for name in sorted(self.arguments)},
            **told_of_attentions(config, self.attentions),
            "dilation": trunk is not None and trunk.dilation,
        }
