"""How fast is each dense attention beside PyTorch's own as the official DETR calls it? Forward, and with gradients.

The peer is ``nn.MultiheadAttention`` as in the official code: sequences first, and the weights asked for and thrown
away. The same without weights stands beside it. Inference is in evaluation; training has the published dropout of 0.1.

python benchmarks/attention.py --json benchmarks/results/attention-2025-01-31.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from _measuring import COMPARED, Table, check_same, inferring, learning, parse
from torch import Tensor, nn

import detrkit
from detrkit.registry import REGISTRY

D_MODEL, HEADS, DROPOUT = 256, 8, 0.1
OFFICIAL, WITHOUT = "official", "official, no weights"
# images, queries, keys (850: 800x1066 at stride 32), and how many keys of the second image are padding
CASES = {
    "encoder self": (2, 850, 850, 150),
    "decoder self": (2, 100, 100, 0),
    "decoder cross": (2, 100, 850, 150),
}
QUICK = {"encoder self": (2, 9, 9, 3), "decoder cross": (2, 4, 9, 3)}


class Official(nn.Module):
    """``nn.MultiheadAttention`` as the official code calls it, on tokens [N, B, D]."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D_MODEL, HEADS, DROPOUT)
        self.need_weights = need_weights

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What the queries read."""
        return self.attention(query, key, value, key_padding_mask=mask, need_weights=self.need_weights)[0]


class Ours(nn.Module):
    """A registered attention, on tokens [B, N, D]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.attention = detrkit.make("attention", name, d_model=D_MODEL, dropout=DROPOUT)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What the queries read."""
        return self.attention(query, key, value, mask=mask).output


def contestants(device: str) -> dict[str, nn.Module]:
    """All dense attentions that are registered, and the official ones, with the same weights."""
    names = [name for name in detrkit.names("attention") if REGISTRY.get("attention", name).function == "dense"]
    modules = {OFFICIAL: Official(True), WITHOUT: Official(False), **{name: Ours(name) for name in names}}
    weights = modules[OFFICIAL].attention.state_dict()
    for module in modules.values():
        module.attention.load_state_dict(weights)
    return {name: module.to(device) for name, module in modules.items()}


def tokens(images: int, queries: int, keys: int, padded: int, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Queries [B, Q, D], keys [B, K, D] and their mask; None where nothing is padded."""
    query, key = (torch.randn(images, count, D_MODEL, device=device, requires_grad=True) for count in (queries, keys))
    mask = torch.zeros(images, keys, dtype=torch.bool, device=device)
    mask[1:, keys - padded :] = True
    return query, key, mask if padded else None


def rivals(
    modules: dict[str, nn.Module], task: str, query: Tensor, key: Tensor, mask: Tensor | None
) -> dict[str, Callable[[], object]]:
    """The task for each module, after a look that all say the same."""
    found, runs = {}, {}
    for name, module in modules.items():
        first = isinstance(module, Official)
        places = [x.detach().transpose(0, 1).contiguous().requires_grad_() if first else x for x in (query, key)]
        inputs = (places[0], places[1], places[1], mask)
        with torch.no_grad():
            read = module.eval()(*inputs)
        found[name] = read.transpose(0, 1) if first else read
        check_same(found[name], found[OFFICIAL], name)
        loss = lambda module=module, inputs=inputs: module(*inputs).square().mean()  # noqa: E731
        runs[name] = learning(module.train(), loss) if task == "training" else inferring(module, *inputs)
    return runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=21)
    columns = {"attention": "<13", "task": "<9", **COMPARED}
    table = Table(options, "torch", columns=columns, sizes=QUICK if options.quick else CASES)
    modules = contestants(options.device)
    for case, sizes in table.about["sizes"].items():
        for task in ("inference", "training"):
            runs = rivals(modules, task, *tokens(*sizes, options.device))
            table.compare(runs, peer=OFFICIAL, attention=case, task=task)
    means = ", ".join(f"{name} {table.ratio(name):.2f}" for name in modules if name != OFFICIAL)
    table.conclude(f"In times of the official call (geometric means): {means}.")


if __name__ == "__main__":
    main()
