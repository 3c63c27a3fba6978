"""The parts of a detector from their names, each told the dimensions that it asks for."""

from __future__ import annotations

from typing import Any

from torch import nn

from detrkit.backbones import Backbone
from detrkit.config import DetectorConfig
from detrkit.encoders import Encoder
from detrkit.errors import ConfigError
from detrkit.fields import roles_of
from detrkit.fitting import part_of
from detrkit.queries import ObjectQueries
from detrkit.queries._groups import GroupedQueries
from detrkit.registry import REGISTRY
from detrkit.specs import Spec
from detrkit.transformer import (
    MLP,
    Decoder,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    Residual,
    initialize,
)


class Parts:
    """Makes the parts of one detector.

    Args:
        config: their names and sizes.
        backbone: tells channels and strides.
    """

    def __init__(self, config: DetectorConfig, backbone: Backbone) -> None:
        self.config = config
        self.dimensions = {
            **config.dimensions(),
            "in_channels": backbone.channels,
            "strides": backbone.strides,
        }
        self.dimensions["box_coder"] = self.make("box_coders", config.box_coder)

    def make(self, role: str, spec: str | None, **told: Any) -> Any:
        """A component, told these dimensions beside the model's; None where the configuration leaves the part out.

        Raises:
            ConfigError: it cannot be with what backbone and neck tell; a line names all three.
        """
        if spec is None:
            return None
        dimensions = {**self.dimensions, **told}
        try:
            return REGISTRY.make(role, spec, **dimensions)
        except ConfigError:
            tellers = " and ".join(part_of(self.config, field).name for field in ("backbone", "neck"))
            lines = REGISTRY.problems(role, spec, dimensions, self.field_of(role, spec))
            raise ConfigError(f"{line}; levels are those of {tellers}" for line in lines) from None

    def field_of(self, role: str, spec: str) -> str:
        """Where the configuration names this part."""
        fields = self.config.annotations().items()
        return next(name for name, kind in fields if role in roles_of(kind) and getattr(self.config, name) == spec)

    def attention(self, spec: str | None, layer: int, **told: Any) -> Any:
        """A dense attention or another reading, for a layer."""
        if spec is None:
            return None
        return self.make(REGISTRY.first_with(("attention", "reading"), spec), spec, layer=layer, **told)

    def queries(self) -> ObjectQueries:
        """Where the decoder starts, in groups or not."""
        groups = [self.make("queries", self.config.queries) for _ in range(self.config.group_detr)]
        return groups[0] if len(groups) == 1 else GroupedQueries(groups)

    def residual(self) -> Residual:
        """What wraps a sublayer."""
        return Residual(self.config.d_model, self.config.dropout, self.config.pre_norm)

    def ffn(self, activation: str) -> FeedForward:
        """What follows the attentions of a layer."""
        config = self.config
        return FeedForward(config.d_model, config.dim_feedforward, config.dropout, activation)

    def encoder(self) -> Encoder:
        """The encoder, initialised."""
        config = self.config
        component = REGISTRY.get("encoders", Spec.parse(config.encoder).name)
        levels = 1 if getattr(component, "coarsest_only", False) else self.dimensions["num_levels"]
        activation = config.encoder_activation or config.activation
        layers = nn.ModuleList(
            EncoderLayer(
                self.attention(config.encoder_attention, layer, num_levels=levels), self.ffn(activation), self.residual
            )
            for layer in range(config.enc_layers)
        )
        encoder = self.make("encoders", config.encoder, layers=layers)
        initialize(encoder)
        return encoder

    def decoder(self) -> Decoder:
        """The decoder, initialised."""
        config = self.config
        layers = [
            DecoderLayer(
                self.attention(config.decoder_self_attention, layer),
                self.attention(config.decoder_cross_attention, layer),
                self.ffn(config.activation),
                self.residual,
            )
            for layer in range(config.dec_layers)
        ]
        norm = nn.LayerNorm(config.d_model) if config.decoder_norm else None
        placement = self.make("placement", config.placement)
        stack = Decoder(layers, norm, placement, look_twice=config.refinement == "look_twice")
        initialize(stack)
        return stack


def box_head(config: DetectorConfig) -> MLP:
    """A fresh head for boxes (DETR, section 3.2)."""
    return MLP(*[config.d_model] * config.bbox_layers, 4)


def too_small_a_table(config: DetectorConfig, positional: Any, backbone: Backbone) -> str | None:
    """A positional table that the largest image would leave, seen through this backbone's stride."""
    cells = -(-config.long_side // backbone.strides[-1])
    if positional is None or positional.max_size is None or cells <= positional.max_size:
        return None
    return (
        f"positional={config.positional} and backbone={config.backbone} do not fit: the table has "
        f"{positional.max_size} cells a side, but long_side={config.long_side} at stride {backbone.strides[-1]} gives "
        f"{cells}; use learned(size={cells}) or learned(interpolate=True)"
    )
