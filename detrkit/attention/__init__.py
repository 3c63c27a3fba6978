"""The role `attention`: how one set of tokens reads another.

All components whose ``function`` is ``"dense"`` compute softmax(q k^T / sqrt(d)) v over several heads (Attention Is All
You Need, section 3.2) and share one canonical parameter layout, that of ``nn.MultiheadAttention``::

    in_proj_weight [3D, D]   in_proj_bias [3D]   out_proj.weight [D, D]   out_proj.bias [D]

so that weights trained with one load into any other. This file binds no name of a component's file: importing
``detrkit.attention.torch`` would replace it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, empty, nn, zeros
from torch import bool as torch_bool
from torch.nn import functional as F
from torch.random import fork_rng

from detrkit.errors import ConfigError, ShapeError
from detrkit.fields import Positive, Probability

State = dict[str, Tensor]


class AttentionOutput(NamedTuple):
    """What an attention gives: the tokens read, and the weights where they were asked for."""

    output: Float[Tensor, "B Q D"]
    weights: Float[Tensor, "B H Q K"] | None


def uneven_heads(d_model: int, heads: int) -> Iterator[str]:
    """Refuse a number of heads that does not divide the width."""
    if d_model % heads:
        yield f"d_model={d_model} is not divisible by heads={heads}"


class Attention(nn.Module, ABC):
    """Contract of the role. Keep it by defining `forward`.

    Laws: a key under the mask has no influence, not even when it is NaN; an image whose keys are all masked gives
    zeros and finite gradients; asking for the weights does not change the output; weights are non-negative and sum
    to one (to zero for a fully masked image).

    Attributes:
        function: components with the same value compute the same function and share one state-dict layout.
    """

    function: ClassVar[str] = "dense"

    @abstractmethod
    def forward(
        self,
        query: Float[Tensor, "B Q D"],
        key: Float[Tensor, "B K D"],
        value: Float[Tensor, "B K D"],
        *,
        mask: Bool[Tensor, "B K"] | None = None,
        need_weights: bool = False,
    ) -> AttentionOutput:
        """Read ``value`` where ``key`` answers ``query``.

        Args:
            query: [B, Q, D].
            key: [B, K, D].
            value: [B, K, D].
            mask: [B, K] bool, True = padding, not to be read.
            need_weights: also return the weights [B, H, Q, K].

        Raises:
            ShapeError: a mask of another dtype or shape.
        """

    def __call__(self, *args: Any, **kwargs: Any) -> AttentionOutput:
        """As `forward`."""
        return super().__call__(*args, **kwargs)


class DenseAttention(Attention):
    """Template of the dense attentions: parameters, masks and fully padded images once; a component fills `attend`.

    Args:
        d_model: width D of the tokens.
        dropout: probability of dropping an attention weight in training.
        heads: number of heads H; divides D.
    """

    def __init__(self, d_model: Positive, dropout: Probability = 0.0, *, heads: Positive = 8) -> None:
        super().__init__()
        if found := list(self.problems(d_model, heads)):
            raise ConfigError(f"{type(self).__name__}: {line}" for line in found)
        self.d_model, self.heads, self.head_dim, self.dropout = d_model, heads, d_model // heads, dropout
        with fork_rng(devices=[]):  # what a component draws first must not shift the numbers of `reset_parameters`
            self.make_parameters()
        self.register_state_dict_post_hook(_state_to_canonical)
        self.register_load_state_dict_pre_hook(_state_from_canonical)
        self.reset_parameters()

    problems = staticmethod(uneven_heads)

    def make_parameters(self) -> None:
        """Create the parameters; here in the canonical layout."""
        self.in_proj_weight = nn.Parameter(empty(3 * self.d_model, self.d_model))
        self.in_proj_bias = nn.Parameter(empty(3 * self.d_model))
        self.out_proj = nn.Linear(self.d_model, self.d_model)

    def to_canonical(self, own: State) -> State:
        """Own state dict -> canonical layout. Overridden by a component that keeps its parameters otherwise."""
        return own

    def from_canonical(self, canonical: State) -> State:
        """Canonical layout -> own state dict."""
        return canonical

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices and zero biases, as the official DETR; the same numbers for every component."""
        d = self.d_model
        device = next(self.parameters()).device
        initial = {
            "in_proj_weight": nn.init.xavier_uniform_(empty(3 * d, d, device=device)),
            "in_proj_bias": zeros(3 * d, device=device),
            "out_proj.weight": nn.init.xavier_uniform_(empty(d, d, device=device)),
            "out_proj.bias": zeros(d, device=device),
        }
        self.load_state_dict(initial)

    def forward(
        self,
        query: Float[Tensor, "B Q D"],
        key: Float[Tensor, "B K D"],
        value: Float[Tensor, "B K D"],
        *,
        mask: Bool[Tensor, "B K"] | None = None,
        need_weights: bool = False,
    ) -> AttentionOutput:
        """As the contract; the output of a fully masked image is exactly zero."""
        if mask is None:
            return self.attend(query, key, value, None, need_weights)
        check_mask(mask, key)
        blind = mask.all(dim=1)
        key, value = (tokens.masked_fill(mask[..., None], 0) for tokens in (key, value))
        output, weights = self.attend(query, key, value, mask & ~blind[:, None], need_weights)
        output = output.masked_fill(blind[:, None, None], 0)
        if weights is not None:
            weights = weights.masked_fill(blind[:, None, None, None], 0)
        return AttentionOutput(output, weights)

    @abstractmethod
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> AttentionOutput:
        """The attention proper; every image has at least one visible key, and hidden keys and values are zero."""

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project by the canonical parameters and split heads: three tensors [B, H, N, D/H]."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        tokens = (query, key, value)
        projected = (F.linear(x, w, b) for x, w, b in zip(tokens, weights, biases, strict=True))
        q, k, v = (x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for x in projected)
        return q, k, v

    def merge(self, heads: Float[Tensor, "B H Q d"]) -> Float[Tensor, "B Q D"]:
        """Join the heads and apply the output projection."""
        return self.out_proj(heads.transpose(1, 2).flatten(2))


def check_mask(mask: Tensor, key: Tensor) -> None:
    """Refuse a mask that is not bool [B, K].

    Raises:
        ShapeError: another dtype, or a shape that does not belong to the keys.
    """
    if mask.dtype != torch_bool:
        raise ShapeError(
            "attention mask has the wrong dtype",
            field="mask",
            value=str(mask.dtype),
            expected="torch.bool, True = padding",
        )
    if mask.shape != key.shape[:2]:
        raise ShapeError(
            "attention mask does not fit the keys",
            field="mask",
            value=tuple(mask.shape),
            expected=f"{tuple(key.shape[:2])}, from keys of shape {tuple(key.shape)}",
        )


def _state_to_canonical(module: DenseAttention, state: State, prefix: str, _: Any) -> None:
    _convert(state, prefix, module.to_canonical)


def _state_from_canonical(module: DenseAttention, state: State, prefix: str, *_: Any) -> None:
    _convert(state, prefix, module.from_canonical)


def _convert(state: State, prefix: str, change: Any) -> None:
    """Replace the entries under the prefix by their changed form, in place."""
    own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    state.update({prefix + name: tensor for name, tensor in change(own).items()})
