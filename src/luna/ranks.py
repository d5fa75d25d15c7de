"""Processes that train one model together, as torchrun starts them: who is first, and what they add up to.

torchrun names each process in the environment (WORLD_SIZE, RANK, LOCAL_RANK). Without it there is one rank, which is
the first, and nothing here costs anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luna.errors import LunaError

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def world_size() -> int:
    """How many ranks were asked for."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this process is, from 0."""
    return 0 if world_size() == 1 else int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process is the one that speaks, seals and writes what a stage hands on."""
    return rank() == 0


def check_started() -> None:
    """Several ranks were asked for, so somebody has to have started them.

    Raises:
        LunaError: WORLD_SIZE alone is set; the run would be one process that believes to be several.
    """
    missing = [name for name in _NAMES if name not in os.environ]
    if world_size() > 1 and missing:
        raise LunaError(
            f"WORLD_SIZE is {world_size()} but {missing[0]} is not set, so nobody started that many ranks; start them"
            f" with `torchrun --nproc_per_node {world_size()}` or unset WORLD_SIZE"
        )


@contextmanager
def joined() -> Iterator[None]:
    """The ranks meet here and are one group inside the block: gloo between CPUs, NCCL between GPUs.

    Raises:
        LunaError: they were not started by torchrun.
    """
    check_started()
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # By itself accelerate would name the device cpu:0, and no checkpoint can be read onto that.
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def summed(tensor: "Tensor") -> "Tensor":
    """The sum of a CPU tensor over the ranks; all of them have to ask for it."""
    if world_size() == 1:
        return tensor
    from torch import distributed

    total = tensor.clone()
    distributed.all_reduce(total)
    return total


def wait_for_all() -> None:
    """Go on when every rank has come this far."""
    if world_size() > 1:
        import torch

        summed(torch.zeros(1))
