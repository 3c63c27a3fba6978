"""The parts of a detector from their names, each told the dimensions that it asks for."""

from __future__ import annotations

from typing import Any

from torch import nn

from detrkit.backbones import Backbone
from detrkit.config import DetectorConfig
from detrkit.registry import REGISTRY
from detrkit.transformer import (
    MLP,
    Decoder,
    DecoderLayer,
    Encoder,
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

    def make(self, role: str, spec: str | None, layer: int = 0) -> Any:
        """A component, or None where the configuration leaves the part out."""
        return None if spec is None else REGISTRY.make(role, spec, **{**self.dimensions, "layer": layer})

    def attention(self, spec: str | None, layer: int) -> Any:
        """A dense attention or another reading, for a layer."""
        return None if spec is None else self.make(REGISTRY.first_with(("attention", "reading"), spec), spec, layer)

    def residual(self) -> Residual:
        """What wraps a sublayer."""
        return Residual(self.config.d_model, self.config.dropout, self.config.pre_norm)

    def ffn(self) -> FeedForward:
        """What follows the attentions of a layer."""
        config = self.config
        return FeedForward(config.d_model, config.dim_feedforward, config.dropout, config.activation)

    def encoder(self) -> Encoder:
        """The encoder, initialised."""
        config = self.config
        layers = [
            EncoderLayer(self.attention(config.encoder_attention, layer), self.ffn(), self.residual)
            for layer in range(config.enc_layers)
        ]
        ends_in_norm = layers and (config.pre_norm or config.encoder_norm)
        scale = MLP(config.d_model, config.d_model, config.d_model) if config.scale_positions else None
        stack = Encoder(layers, nn.LayerNorm(config.d_model) if ends_in_norm else None, scale)
        initialize(stack)
        return stack

    def decoder(self) -> Decoder:
        """The decoder, initialised."""
        config = self.config
        layers = [
            DecoderLayer(
                self.attention(config.decoder_self_attention, layer),
                self.attention(config.decoder_cross_attention, layer),
                self.ffn(),
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
