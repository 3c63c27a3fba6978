"""Groups of queries in foreign layouts, whose tables hold those of all groups one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from detrkit.checkpoints.foreign import Foreign
from detrkit.checkpoints.layouts._renaming import Row

OURS = "queries.groups.#"


def table_rows(offset: str, content: str) -> list[Row]:
    """Rows of the tables, cut into groups: the number of the group stands before the entry's last name."""
    return [(f"{OURS}.offset", f"{offset}.#.weight"), (f"{OURS}.content.weight", f"{content}.#.weight")]


def head_rows(prefix: str) -> list[Row]:
    """Rows of the heads that tell proposals."""
    names = {"output": "enc_output", "output_norm": "enc_output_norm", "class_embed": "enc_out_class_embed"}
    boxes = (f"{OURS}.bbox_embed.layers.#.*", f"{prefix}.enc_out_bbox_embed.#.layers.#.*")
    return [*((f"{OURS}.{ours}.*", f"{prefix}.{theirs}.#.*") for ours, theirs in names.items()), boxes]


def cut(foreign: Foreign, tables: Iterable[str], groups: int) -> Foreign:
    """A file with these tables cut into groups; those that cannot be cut evenly are left whole."""
    tensors, sources = dict(foreign.tensors), dict(foreign.sources)
    for table in tables:
        name = f"{table}.weight"
        if name in tensors and groups and tensors[name].ndim and len(tensors[name]) % groups == 0:
            parts, source = tensors.pop(name).chunk(groups), sources.pop(name)
            tensors |= {f"{table}.{group}.weight": part for group, part in enumerate(parts)}
            sources |= {f"{table}.{group}.weight": source for group in range(groups)}
    return replace(foreign, tensors=tensors, sources=sources)


def number_of_groups(foreign: Foreign, prefix: str) -> int:
    """How many groups the heads show."""
    return sum(bool(re.fullmatch(rf"{re.escape(prefix)}\.enc_output\.\d+\.weight", name)) for name in foreign.tensors)
