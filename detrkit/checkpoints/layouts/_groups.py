"""Groups of queries in foreign layouts, whose tables hold those of all groups one after the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._renaming import Row

OURS = "queries.groups.#"
TABLES = re.compile(r"(?:(?:model\.)?reference_point_embed|refpoint_embed|(?:model\.)?query_feat)\.weight")
PART = re.compile(r"(.+)\.(\d+)\.weight")
HEAD = re.compile(r"\w+\.enc_output\.\d+\.weight")


def table_rows(offset: str, content: str) -> list[Row]:
    """Rows of the tables as `cut` names them: the number of the group before the entry's last name."""
    return [(f"{OURS}.offset", f"{offset}.#.weight"), (f"{OURS}.content.weight", f"{content}.#.weight")]


def head_rows(prefix: str) -> list[Row]:
    """Rows of the heads that tell proposals, one a group."""
    names = {"output": "enc_output", "output_norm": "enc_output_norm", "class_embed": "enc_out_class_embed"}
    boxes = (f"{OURS}.bbox_embed.layers.#.*", f"{prefix}.enc_out_bbox_embed.#.layers.#.*")
    return [*((f"{OURS}.{ours}.*", f"{prefix}.{theirs}.#.*") for ours, theirs in names.items()), boxes]


def number_of_groups(foreign: Foreign) -> int:
    """How many groups the heads show."""
    return sum(HEAD.fullmatch(name) is not None for name in foreign.tensors)


def cut(foreign: Foreign) -> Foreign:
    """A file with the tables of queries cut into groups; those that cannot be cut evenly are left whole."""
    tensors, sources, groups = dict(foreign.tensors), dict(foreign.sources), number_of_groups(foreign)
    for name, tensor in foreign.tensors.items():
        if TABLES.fullmatch(name) and groups and tensor.ndim and len(tensor) % groups == 0:
            names = [f"{name.removesuffix('weight')}{group}.weight" for group in range(groups)]
            tensors |= dict(zip(names, tensor.chunk(groups), strict=True))
            sources |= dict.fromkeys(names, sources[name])
            del tensors[name], sources[name]
    return replace(foreign, tensors=tensors, sources=sources)


def joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries with the tables of queries whole, the inverse of `cut`; groups stand in their order."""
    found: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        part = PART.fullmatch(name)
        table = f"{part[1]}.weight" if part else name
        found.setdefault(table if TABLES.fullmatch(table) else name, []).append(tensor)
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in found.items()}
