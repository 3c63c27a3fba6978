"""Where the queries of one layer looked in one image, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detrkit.looks import DenseLook, Look, PointLook
from detrkit.transformer import Memory

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sight:
    """Where the queries of one layer looked in one image.

    Attributes:
        shapes: (height, width) in cells of each level, over the image without padding.
        weights: float32 [Q, H, N] of all N cells, level after level; of points [Q, H, L, P]. Those of a query and head
            sum to one.
        points: float32 [Q, H, L, P, 2], (x, y) as fractions of the image, be they outside of it; None where all cells
            are looked at.
    """

    shapes: tuple[tuple[int, int], ...]
    weights: Floats
    points: Floats | None = None

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.weights.shape[1]

    def cells(self, query: int) -> Floats:
        """Weights [H, N] of a query over the cells; those of points shared out to the four cells around each.

        What lies outside the image is lost, see `outside`.
        """
        if self.points is None:
            return self.weights[query]
        points, weights = (torch.from_numpy(part[query])[None, None] for part in (self.points, self.weights))
        return PointLook(points, weights).over_cells(self.shapes)[0, :, 0].numpy()

    def outside(self, query: int | Sequence[int]) -> Floats:
        """The share [H] of a query's weights that fell outside the image, where zeros are read; of several, [n, H]."""
        if self.points is None:
            return np.zeros_like(self.weights[query][..., 0])
        sizes = np.array(self.shapes, dtype=np.float32)[:, None, ::-1]
        places = self.points[query] * sizes - 0.5  # in cells, from the middle of the first
        cells, beyond = np.floor(places), places - np.floor(places)
        inside = (share * ((cell >= 0) & (cell < sizes)) for cell, share in ((cells, 1 - beyond), (cells + 1, beyond)))
        kept = np.prod(sum(inside), axis=-1)
        return np.maximum(0, 1 - (self.weights[query] * kept).sum((-2, -1)))

    def grid(self, query: int, head: int | None = None) -> Floats:
        """Weights [h, w] of a query over the cells of the finest level, all levels added up.

        A coarser cell shares its weight out by area.

        Args:
            query: number of the query.
            head: number of the head; None: the mean of all.
        """
        cells = self.cells(query)
        weights = cells.mean(0) if head is None else cells[head]
        finest = max(self.shapes)
        ends = np.cumsum([height * width for height, width in self.shapes])
        levels = zip(np.split(weights, ends[:-1]), self.shapes, strict=True)
        shared = [_shared_out(part.reshape(shape), finest) for part, shape in levels]
        return np.asarray(sum(shared), dtype=np.float32)


def _shared_out(weights: Floats, shape: tuple[int, int]) -> Floats:
    """The same weight over another number of cells."""
    if weights.shape == shape:
        return weights
    rows, columns = (_overlap(new, old) for new, old in zip(shape, weights.shape, strict=True))
    return (rows @ weights @ columns.T).astype(np.float32)


def _overlap(new: int, old: int) -> Floats:
    """[new, old]: which share of each old interval of a line lies in each new one."""
    ends = np.arange(new + 1)[:, None] / new * old - np.arange(old)
    return np.diff(ends.clip(0, 1), axis=0).astype(np.float32)


def sight_of(look: Look, memory: Memory, image: int, *, of_cells: bool) -> Sight:
    """One image's part of a look at a memory, without its padding.

    Args:
        look: at all levels of the memory, or at one of them.
        memory: what was looked at.
        image: number of the image.
        of_cells: whether the cells themselves looked, so that those of padding are left out among the queries too.
    """
    visible = _visible(memory, image)
    if isinstance(look, DenseLook):
        visible = _level_of(visible, look.weights.shape[-1])
    shapes = tuple((int(seen.any(1).sum()), int(seen.any(0).sum())) for seen in visible)
    chosen = torch.cat([seen.flatten() for seen in visible])
    rows = chosen if of_cells else slice(None)
    if isinstance(look, DenseLook):
        weights = look.weights[image].transpose(0, 1)[rows][..., chosen]
        return Sight(shapes, _array(weights))
    points, weights = look.points[image][rows], look.weights[image][rows]
    if memory.valid is not None:
        points = points / memory.valid[image][:, None]
    return Sight(shapes, _array(weights), _array(points))


def _visible(memory: Memory, image: int) -> list[torch.Tensor]:
    """Cells [h, w] of each level that are no padding."""
    sizes = [height * width for height, width in memory.shapes]
    if memory.padding is None:
        seen = torch.ones(sum(sizes), dtype=torch.bool, device=memory.tokens.device)
    else:
        seen = ~memory.padding[image]
    return [part.view(shape) for part, shape in zip(seen.split(sizes), memory.shapes, strict=True)]


def _level_of(visible: Sequence[torch.Tensor], cells: int) -> list[torch.Tensor]:
    """All levels, or that one of so many cells which alone was looked at."""
    if sum(level.numel() for level in visible) == cells:
        return list(visible)
    return [next(level for level in reversed(visible) if level.numel() == cells)]


def _array(part: torch.Tensor) -> Floats:
    return part.float().cpu().contiguous().numpy()
