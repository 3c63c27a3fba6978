"""The laws of the role `selection`."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.testing.law import Draw, Make, law
from detrkit.testing.tensors import check_close, draw_generator


@law("selection")
def selected_is_as_declared(make: Make, draw: Draw) -> None:
    """Gives three [B, N], the same N for every image, labels and queries int64 and in their ranges."""
    scores = draw_scores(draw)
    selected = make().select(scores)
    shape = selected.scores.shape
    assert len(shape) == 2, f"scores have shape {tuple(shape)}, not [B, N]"
    assert shape[0] == len(scores), f"{shape[0]} images of {len(scores)}"
    for name, limit in (("labels", scores.shape[2]), ("queries", scores.shape[1])):
        part = getattr(selected, name)
        assert part.dtype == torch.int64, f"{name} are {part.dtype}"
        assert part.shape == shape, f"{name} have shape {tuple(part.shape)}, not {tuple(shape)}"
        assert ((part >= 0) & (part < limit)).all(), f"{name} leave 0..{limit - 1}"


@law("selection")
def scores_are_those_of_query_and_label(make: Make, draw: Draw) -> None:
    """Each score is that of its query and label, and no pair occurs twice."""
    scores = draw_scores(draw)
    for image, best, labels, queries in zip(scores, *make().select(scores), strict=True):
        check_close(best, image[queries, labels], "from its query and label", rtol=0)
        pairs = list(zip(queries.tolist(), labels.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs), "a pair of query and label occurs twice"


@law("selection")
def scores_fall(make: Make, draw: Draw) -> None:
    """Best first; equal scores by query, then by label."""
    scores = draw_scores(draw)
    for best, labels, queries in zip(*make().select(scores), strict=True):
        ranks = list(zip((-best).tolist(), queries.tolist(), labels.tolist(), strict=True))
        assert ranks == sorted(ranks), "not ranked by score, query and label"


@law("selection")
def the_best_pair_is_found(make: Make, draw: Draw) -> None:
    """The first detection has the best score of all."""
    scores = draw_scores(draw)
    best = make().select(scores).scores
    check_close(best[:, 0], scores.flatten(1).amax(1), "at the first place", rtol=0)


@law("selection")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Images are selected from in a batch as one by one."""
    scores, selection = draw_scores(draw), make()
    together = selection.select(scores)
    for i in range(len(scores)):
        check_close(
            tuple(selection.select(scores[i : i + 1])), [part[i : i + 1] for part in together], "in a batch", rtol=0
        )


def draw_scores(draw: Draw) -> Tensor:
    """Scores [B, Q, K] in [0, 1], often equal ones."""
    shape, steps = (draw(1, 3), draw(1, 9), draw(1, 5)), (2, 10, 10**6)[draw(0, 2)]
    return torch.randint(0, steps + 1, shape, generator=draw_generator(draw)) / steps
