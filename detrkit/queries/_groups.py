"""Groups of queries in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detrkit.folding import Foldable
from detrkit.queries import ObjectQueries
from detrkit.transformer import Memory, Proposals, Queries


class GroupedQueries(ObjectQueries):
    """Sources of one kind side by side in training, the first alone otherwise (Chen et al. 2023, Group DETR, 3.2).

    Args:
        groups: the sources, each with tables and heads of its own.
    """

    def __init__(self, groups: Sequence[ObjectQueries]) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.gives, self.box_bias = groups[0].gives, groups[0].box_bias  # type: ignore[misc]

    def embed(self, labels: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """As the first source; what others would say gets a gradient, of zero."""
        first, *others = (source.embed(labels) for source in self.groups)  # type: ignore[operator]
        return first + 0 * sum(others)

    def folded(self) -> nn.Module:
        """The first source, folded too if it can be."""
        first = self.groups[0]
        return first.folded() if isinstance(first, Foldable) else first

    def forward(self, memory: Memory) -> Queries:
        """As the contract; in training, as many queries of each source, group after group."""
        groups = [source(memory) for source in (self.groups if self.training else self.groups[:1])]
        if len(groups) == 1:
            return groups[0]
        content, positions, references = (joined([queries[i] for queries in groups]) for i in range(3))
        said = [queries.proposals for queries in groups if queries.proposals is not None]
        proposals = None
        if said:
            logits, boxes = (torch.cat([one[i] for one in said], dim=1) for i in range(2))
            proposals = Proposals(logits, boxes, said[0].class_agnostic)
        return Queries(cast(Tensor, content), positions, references, proposals=proposals, groups=len(groups))


def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """What all groups have, one after the other; None where they have none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim=1) if there else None
