"""Several ranks that hold a part of every weight each (FSDP2), for models that do not fit a GPU with all they need.

Torch's own `fully_shard` on the layers and on the whole; it works between GPUs (NCCL) and between CPUs (gloo), while
accelerate's way to it silently becomes DDP on CPUs. This module imports torch at once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from luna.errors import LunaError
from luna.lm.load import LoadedModel
from luna.ranks import world_size
from luna.settings import Training


def shard(loaded: LoadedModel, training: Training, title: str) -> None:
    """Spread the weights over the ranks, where `training.shard` asks for it; adapters have to be on the model by now.

    Raises:
        LunaError: there is one rank, the weights are 4-bit, or unsloth's kernels hold them.
    """
    if not training.shard:
        return
    if world_size() == 1:
        raise LunaError(f"{title}: shard: there is one rank; start the stage with torchrun or set shard to false")
    if loaded.settings.load_in_4bit or loaded.settings.backend == "unsloth":
        raise LunaError(f"{title}: shard: 4-bit weights and unsloth's cannot be sharded; set shard to false")
    network: Any = loaded.model
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world_size(),))
    causal_lm = network.get_base_model() if hasattr(network, "get_base_model") else network
    for module in causal_lm.modules():
        if type(module).__name__ in (causal_lm._no_split_modules or ()):
            fully_shard(module, mesh=mesh)
    # The head stays whole between forward and backward: the loss is made from it, outside of the model.
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    network._is_accelerate_prepared = True  # or accelerate would wrap it for DDP


def whole_weights(loaded: LoadedModel, training: Training) -> dict[str, Tensor] | None:
    """The weights as one would save them, gathered from all ranks, which have to ask together; None: they are whole."""
    if not training.shard:
        return None
    # Tied weights stand there once under each name, and are saved under the first.
    names = list(loaded.model.state_dict(keep_vars=True).items())
    saved = {id(weight): name for name, weight in reversed(names)}.values()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(loaded.model, options=options)
    return {name: weight for name, weight in weights.items() if name in set(saved)}
