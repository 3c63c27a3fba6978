"""Explanations as what the explorer's page reads: few bytes, and what was left out."""

from __future__ import annotations

import base64
import json
import zlib
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.explanation.explanation import Explanation
from detrkit.explanation.sight import Sight
from detrkit.explanation.slots import COLORS, KINDS, Slots

LOSERS = 3  # shown of each winner
LEAST = 12  # queries that are shown even if they find nothing
MARGIN = 0.5  # points up to half an image outside of it keep their place
MARKED = 200  # boxes that are shown of each slot
SLOTS = 100


class Plan(NamedTuple):
    """How much of an explanation is packed: queries, layers of the encoder from the last, and cells that look."""

    queries: int
    encoder_layers: int
    cells: int


PLANS = (
    *(Plan(40, 6, 1200), Plan(30, 6, 600), Plan(24, 3, 400), Plan(20, 1, 400)),
    *(Plan(16, 1, 200), Plan(12, 1, 100), Plan(8, 1, 50), Plan(4, 1, 16)),
)


def fitting(name: str, seen: Explanation, *, threshold: float, side: int, budget: int) -> str:
    """An explanation as JSON within so many bytes, by the largest plan that fits; else by the smallest."""
    packed = ""
    for plan in PLANS:
        packed = json.dumps(packed_image(name, seen, plan, threshold, side), separators=(",", ":"))
        if len(packed) <= budget:
            break
    return packed


def packed_image(name: str, seen: Explanation, plan: Plan, threshold: float, side: int) -> dict[str, Any]:
    """One image: what is shown of it, its queries, and where they looked."""
    chosen = chosen_queries(seen, threshold, plan.queries)
    found = int((seen.scores[-1].max(-1) >= threshold).sum())
    scores = seen.scores[:, chosen]
    place = {query: index for index, query in enumerate(chosen)}
    size = np.array([seen.image.width, seen.image.height] * 2)
    return {
        "name": name,
        "size": seen.image.size,
        "picture": jpeg(seen.image, side),
        "queries": chosen,
        "found": found,
        "detections": min(found, len(chosen)),
        "winners": [place.get(int(seen.winners[query]), -1) for query in chosen],
        "boxes": packed((seen.boxes[:, chosen] / size).astype(np.float32)),
        "labels": scores.argmax(-1).tolist(),
        "scores": scores.max(-1).round(3).tolist(),
        "cross": packed_sights(seen.cross, [list(chosen)] * len(seen.cross)) if seen.cross else None,
        "encoder": packed_encoder(seen, plan),
        "between": None if seen.queries is None else packed_maps(seen.queries[:, :, chosen][..., chosen]),
    }


def chosen_queries(seen: Explanation, threshold: float, most: int) -> list[int]:
    """The detections, best first, the best that lost to each, and the best of the rest if there are few."""
    best = seen.scores[-1].max(-1)
    ranked = np.argsort(-best, kind="stable").tolist()
    winners = [query for query in ranked if best[query] >= threshold][:most]
    losers = [query for winner in winners for query in seen.losers(winner)[:LOSERS] if best[query] < threshold]
    shown = list(dict.fromkeys([*winners, *losers]))[:most]
    rest = [query for query in ranked if query not in shown]
    return shown + rest[: max(0, min(LEAST, most) - len(shown))]


def packed_encoder(seen: Explanation, plan: Plan) -> dict[str, Any] | None:
    """Cells of the finest level, evenly thinned out, in the last layers."""
    if not seen.encoder:
        return None
    first = max(0, len(seen.encoder) - plan.encoder_layers)
    kept = seen.encoder[first:]
    level, (height, width) = max(enumerate(kept[0].shapes), key=lambda numbered: numbered[1])
    step = next(s for s in range(1, height + width) if -(-height // s) * -(-width // s) <= plan.cells)
    rows, columns = (
        np.arange(step // 2, max(size, step // 2 + 1), step).clip(max=size - 1) for size in (height, width)
    )
    start = sum(h * w for h, w in kept[0].shapes[:level])
    cells = (start + rows[:, None] * width + columns).flatten().tolist()
    return {
        **packed_sights(kept, [cells] * len(kept), merged=True),
        "first": first,
        "layers": len(seen.encoder),
        "grid": [height, width],
        "rows": rows.tolist(),
        "columns": columns.tolist(),
    }


def packed_sights(sights: tuple[Sight, ...], queries: list[list[int]], *, merged: bool = False) -> dict[str, Any]:
    """Where these queries of each layer looked: maps over the finest level, or points.

    Args:
        merged: maps are the mean over the heads.
    """
    pairs = list(zip(sights, queries, strict=True))
    strides = [list(shape) for shape in sights[0].shapes]
    if sights[0].points is None:
        heads: list[int | None] = [None] if merged else list(range(sights[0].heads))
        maps = [[[sight.grid(query, head) for head in heads] for query in asked] for sight, asked in pairs]
        return {"maps": packed_maps(np.array(maps)), "shapes": strides}
    points = np.stack([sight.points[asked] for sight, asked in pairs if sight.points is not None])
    weights = np.stack([sight.weights[asked] for sight, asked in pairs])
    outside = np.array([sight.outside(asked).mean(-1) for sight, asked in pairs])
    fractions = (points + MARGIN) / (1 + 2 * MARGIN)
    return {
        "points": packed((fractions.clip(0, 1) * 65535).round().astype(np.uint16)),
        "weights": packed_maps(weights),
        "outside": outside.round(4).tolist(),
        "shapes": strides,
    }


def packed_maps(weights: NDArray[np.floating]) -> dict[str, Any]:
    """Weights [..., h, w] in 255 steps of the largest of each map."""
    tops = weights.max((-2, -1), keepdims=True)
    steps = np.divide(255 * weights, tops, out=np.zeros_like(weights), where=tops > 0)
    return {"steps": packed(steps.round().astype(np.uint8)), "tops": packed(tops[..., 0, 0].astype(np.float32))}


def packed(values: NDArray[Any]) -> dict[str, Any]:
    """An array as text: shape, kind of its numbers, and its bytes, deflated."""
    data = zlib.compress(values.astype(values.dtype.newbyteorder("<")).tobytes(), 9)
    return {"kind": values.dtype.name, "shape": values.shape, "data": base64.b64encode(data).decode("ascii")}


def packed_slots(found: Slots, threshold: float) -> dict[str, Any]:
    """The busiest slots, and some boxes of each from all over the data."""
    order = found.order()[:SLOTS]
    rows = np.unique(np.linspace(0, len(found.boxes) - 1, min(MARKED, len(found.boxes))).astype(int))
    boxes = found.boxes[rows][:, order].transpose(1, 0, 2)
    return {
        "queries": order.tolist(),
        "images": len(found.boxes),
        "found": found.found(threshold)[order].round(3).tolist(),
        "boxes": packed((boxes.clip(0, 1) * 255).round().astype(np.uint8)),
        "kinds": packed(found.kinds[rows][:, order].T.astype(np.uint8)),
        "names": KINDS,
        "colors": COLORS,
    }


def jpeg(image: Image.Image, side: int) -> str:
    """A picture of at most so many pixels a side, as a data URL."""
    small, file = image.copy(), BytesIO()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.convert("RGB").save(file, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
