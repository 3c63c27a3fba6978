"""Several processes that train as one: what they tell each other, and that they fail and stop together.

They are started by ``torchrun``. Each computes the gradients of its share of a window, divided by the numbers of the
whole window; the gradients are then added up once a step. So a step is the same however its images are shared out,
and a process without a share, or with fewer micro-batches than another, is nothing special.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # others wait while one evaluates; that a process died is noticed by torchrun, at once


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them; alone by default.

    Attributes:
        rank: number of this process.
        count: how many there are.
        local_rank: number of this process on its machine; says which GPU it has.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def started(cls) -> Processes:
        """What ``torchrun`` says in the environment; alone without it."""
        return cls(*(int(os.environ.get(name, least)) for name, least in _ENVIRONMENT.items()))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, evaluates and speaks."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """While this lasts, the processes can talk: about tensors on GPUs by nccl, about all else by gloo."""
        if self.count == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, rank=self.rank, world_size=self.count, timeout=PATIENCE)
        yield
        distributed.destroy_process_group()  # not after a failure: the others may wait for ever

    def exchange(self, function: Callable[[], T]) -> list[T]:
        """What the function gives in each process, by rank; called by all of them at the same point.

        A failure of one is a failure of all: it is raised where it happened, and the others end with its exit code.
        """
        if self.count == 1:
            return [function()]
        result, failure, exit_code = None, None, None
        try:
            result = function()
        except Exception as error:
            failure, exit_code = error, getattr(error, "exit_code", 1)
        answers: list[Any] = [None] * self.count
        distributed.all_gather_object(answers, (result, exit_code))
        if failure is not None:
            raise failure
        for _, exit_code in answers:
            if exit_code is not None:
                raise SystemExit(exit_code)
        return [answer for answer, _ in answers]

    def of_first(self, function: Callable[[], T]) -> T:
        """What the function gives in the first process, the only one to call it; known to all."""
        return self.exchange(lambda: function() if self.is_first else None)[0]  # type: ignore[return-value]

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their sums over the processes, equal to the bit in all; without images they are 0."""
        if self.count > 1:
            parameters = list(parameters)
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self._together((p.grad for p in parameters if p.grad is not None), distributed.all_reduce)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        if self.count > 1:
            self._together(tensors, lambda joined: distributed.broadcast(joined, src=0))

    @staticmethod
    def _together(tensors: Iterable[Tensor], collective: Callable[[Tensor], Any]) -> None:
        """Apply a collective to all tensors of a dtype at once: one message instead of hundreds of small ones."""
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            joined = torch.cat([tensor.detach().flatten() for tensor in group])
            collective(joined)
            for tensor, part in zip(group, joined.split([tensor.numel() for tensor in group]), strict=True):
                tensor.detach().copy_(part.view_as(tensor))


_ENVIRONMENT = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
