"""What a variant costs: parameters, multiply-accumulates, time of a step and of inference, peak memory.

Parameters, multiplications and (on a CPU) memory are counted, not measured: the same on every machine. Times are
ratios to a base that ran in turn with the variant, where one thread runs on a CPU by its processor time, so that other
work of the machine does not count; never compare seconds of different runs of this.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from detrkit.config import DetectorConfig, TrainConfig
from detrkit.criterion import SetCriterion
from detrkit.errors import ConfigError, DetrkitError, nearest
from detrkit.model import Detector, build
from detrkit.prediction import infer
from detrkit.training.optimizer import make_optimizer

# Products in ATen for which `FlopCounterMode` has no formula.
UNCOUNTED = {"mv", "dot", "vdot", "addmv", "addr", "grid_sampler_2d", "grid_sampler_3d", "_ctc_loss", "_fft_r2c"}

CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


class Parameters(NamedTuple):
    """Numbers of parameters, shared ones counted once; buffers, such as frozen batch norms, are none."""

    total: int
    trainable: int


class Macs(NamedTuple):
    """Multiply-accumulates of a forward pass in convolutions and matrix products.

    Attributes:
        total: how many; half of PyTorch's count of floating-point operations.
        uncounted: operators that multiply and have no formula: others' kernels, sampling; the count lacks them.
    """

    total: int
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Costs:
    """What a variant costs; times as ratios to the base, below 1 is faster.

    Attributes:
        parameters: their number.
        macs: of one image.
        training_time, inference_time: median of the rounds' ratios to the base.
        training_memory, inference_memory: peak bytes, see `peak_memory`.
    """

    parameters: Parameters
    macs: Macs
    training_time: float
    inference_time: float
    training_memory: int
    inference_memory: int

    def to_dict(self) -> dict[str, Any]:
        """Every number by name; parameters and multiplications by their parts."""
        parts = {"parameters": self.parameters._asdict(), "macs": self.macs._asdict()}
        return {**asdict(self), **parts}


@dataclass(frozen=True)
class Workload:
    """What is timed: a batch of random images of one size, unpadded, with random objects.

    Attributes:
        height, width: of the images, in pixels.
        batch: images.
        objects: in each image.
        device: where it runs.
        seed: of what is drawn.
    """

    height: int
    width: int
    batch: int = 1
    objects: int = 5
    device: str = "cpu"
    seed: int = 0

    def images(self) -> Tensor:
        """Normalised images [B, 3, H, W]."""
        shape = (self.batch, 3, self.height, self.width)
        return torch.randn(shape, generator=self._generator()).to(self.device)

    def targets(self, num_classes: int) -> list[dict[str, Tensor]]:
        """Objects of each image."""
        generator = self._generator()
        return [
            {
                "boxes": 0.2 + 0.3 * torch.rand(self.objects, 4, generator=generator),
                "labels": torch.randint(num_classes, (self.objects,), generator=generator),
            }
            for _ in range(self.batch)
        ]

    def inference(self, model: Detector) -> Callable[[], object]:
        """A forward pass in evaluation mode."""
        images = self.images()
        return lambda: infer(model, images, None)

    def training_step(self, model: Detector) -> Callable[[], object]:
        """Forward, matching, losses, backward and update by AdamW, whose learning rate is 0: every step is alike."""
        images, targets = self.images(), self.targets(model.config.num_classes)
        criterion = SetCriterion.from_config(model.config)
        optimizer = make_optimizer(model, TrainConfig(lr=0.0, lr_backbone=0.0))

        def step() -> None:
            model.train()
            optimizer.zero_grad(set_to_none=True)
            criterion(model(images, None, targets), targets).total.backward()
            optimizer.step()

        return step

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def parameters(model: nn.Module) -> Parameters:
    """Count parameters."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Parameters(sum(n for n, _ in counts), sum(n for n, trained in counts if trained))


def macs(model: nn.Module, height: int, width: int) -> Macs:
    """Multiply-accumulates of one image's forward pass in evaluation mode; computes nothing, leaves the model alone.

    Runs on tensors without data, which take no fused path: attention and PyTorch's encoder come apart into the products
    that they are made of, so that equal functions count alike. A kernel's own savings (blocks that a mask hides) do not
    count. Element-wise work, norms, softmax and biases do not either, as in the figures of papers, which call this
    number "GFLOPs" (DETR, table 1).

    Raises:
        DetrkitError: shapes within the model depend on values, or a kernel of others cannot tell its output's shape.
    """
    tensors = {name: t.detach().to("meta") for name, t in (*model.named_parameters(), *model.named_buffers())}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    images = torch.empty(1, 3, height, width, device="meta", dtype=dtype)
    counter, seen = FlopCounterMode(display=False), _Operators()
    try:
        with torch.no_grad(), _evaluation(model), counter, seen:
            torch.func.functional_call(model, tensors, (images,))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DetrkitError("the forward pass cannot be followed without data", field="macs", hint=reason) from error
    return Macs(counter.get_total_flops() // 2, tuple(sorted(seen.uncounted)))


def interleaved(
    rivals: Mapping[str, Callable[[], object]], rounds: int = 10, *, threads: int = 2, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each rival by `clock`, each round running all of them in turn, after one round that is not counted.

    Every other round runs them in reverse, so that none always follows the same one.
    """
    now = CLOCKS[clock(threads, device)]
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    order = list(rivals)
    with using_threads(threads):
        for counted in range(rounds + 1):
            for name in order if counted % 2 else reversed(order):
                wait()
                start = now()
                rivals[name]()
                wait()
                if counted:
                    seconds[name].append(now() - start)
    return seconds


def clock(threads: int, device: str = "cpu") -> str:
    """What times are taken by: ``processor`` for one thread of a CPU; ``wall`` where several things run at once."""
    return "processor" if threads == 1 and torch.device(device).type == "cpu" else "wall"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the rounds' own ratios, so that a slow spell of the machine counts for both."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def peak_memory(run: Callable[[], object], holding: nn.Module, *, device: str = "cpu") -> int:
    """Most bytes of tensors alive at once while ``run`` runs, those of the module counted from the start.

    ``run`` runs twice, so that what a first step leaves behind, the state of an optimizer, counts too. On a GPU the
    number is that of PyTorch's allocator, less what was alive before. On a CPU, storages are counted as operators give
    them back and as they die: exact and repeatable, where the resident size of a process depends on the mood of an
    allocator and includes hundreds of megabytes of libraries. What a kernel takes and gives back within one call is not
    seen there.
    """
    held = (*holding.parameters(), *holding.buffers())
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        others = torch.cuda.memory_allocated(device) - sum(tensor.untyped_storage().nbytes() for tensor in held)
        run()
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - others
    with _LiveBytes(held) as live:
        run()
        run()
    return live.peak


def measure(
    configs: Mapping[str, DetectorConfig], base: str, workload: Workload, *, rounds: int = 10, threads: int = 2
) -> dict[str, Costs]:
    """Costs of every variant; all of them are held in memory at once, so that they can run in turn.

    Args:
        configs: detectors by name of the variant.
        base: the one that times are ratios to.
        workload: what they are given.
        rounds: of timing, after one that is not counted.
        threads: of PyTorch on a CPU.
    """
    if base not in configs:
        raise ConfigError([f"base: got {base!r}; {nearest(base, configs)}"])
    models = {name: build(config).to(workload.device) for name, config in configs.items()}
    tasks = {
        "inference": {name: workload.inference(model) for name, model in models.items()},
        "training": {name: workload.training_step(model) for name, model in models.items()},
    }
    memory = {
        (task, name): peak_memory(run, models[name], device=workload.device)
        for task, runs in tasks.items()
        for name, run in runs.items()
    }
    times = {task: interleaved(runs, rounds, threads=threads, device=workload.device) for task, runs in tasks.items()}
    return {
        name: Costs(
            parameters(model),
            macs(model, workload.height, workload.width),
            training_time=ratio(times["training"][name], times["training"][base]),
            inference_time=ratio(times["inference"][name], times["inference"][base]),
            training_memory=memory["training", name],
            inference_memory=memory["inference", name],
        )
        for name, model in models.items()
    }


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block, each module's own mode after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Operators(TorchDispatchMode):
    """Notes operators that multiply and that the counter has no formula for: known ones, and all of other libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.uncounted: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        namespace, _, operator = name.partition(".")
        if namespace not in ("aten", "prim", "prims") or operator in UNCOUNTED:
            self.uncounted.add(name)
        return func(*args, **(kwargs or {}))


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operators give back, until they die."""

    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()
        for tensor in held:
            self.see(tensor)

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage, if it is a new one."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        """A storage has died."""
        self.alive.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, Tensor):
                self.see(item)
        return result


def _nothing() -> None:
    """A CPU is done when it returns."""
