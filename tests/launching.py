"""Other processes for tests: forked from one that has imported everything, so that they start at once."""

import multiprocessing
import os
import socket
import sys

import torch

PREPARED = multiprocessing.get_context("forkserver")
PREPARED.set_forkserver_preload(["detrkit.training.loop", "detrkit.backbones.tiny", "detrkit.datasets.toy", "hotcoco"])

SMALL = {
    "d_model": "32",
    "enc_layers": "1",
    "dec_layers": "2",
    "dim_feedforward": "32",
    "num_queries": "6",
    "backbone": "tiny(width=8)",
    "data": "toy(size=48, length=10, held_out=4, objects=(0, 5))",
    "short_side": "48",
    "long_side": "48",
    "batch_size": "2",
    "warmup_steps": "2",
    "steps": "8",
    "dropout": "0.1",
    "transforms": "flip",
    "eval_every": "1",
    "device": "cpu",
}


def small(preset="detr_tiny", **changes):
    """Both configurations of a run of a second."""
    from detrkit.presets import from_pairs

    return from_pairs(preset, {**SMALL, **{name: str(value) for name, value in changes.items()}})


def start(function, *arguments, count=1):
    """Processes that call a function, as torchrun would start them if there are several."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [PREPARED.Process(target=_called, args=(r, count, port, function, arguments)) for r in range(count)]
    for process in started:
        process.start()
    return started


def together(function, *arguments, count):
    """Exit codes of processes that call a function."""
    started = start(function, *arguments, count=count)
    for process in started:
        process.join(50)
    return [process.exitcode for process in started]


def _called(rank, count, port, function, arguments):
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for workers that know what this process knows
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port} if count > 1 else {}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}})
    try:
        function(*arguments)
    except ValueError as error:  # a DetrkitError, as the command line has it
        sys.stderr.write(f"{error}\n")
        sys.exit(getattr(error, "exit_code", 1))
