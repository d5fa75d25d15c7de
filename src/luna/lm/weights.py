"""The hashes by which weights are known, and a model with all that its numbers depend on."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from luna.errors import LunaError
from luna.outputs import read_json

if TYPE_CHECKING:
    from luna.settings import Model


def weights_sha256(folder: Path) -> str:
    """The sha256 over the weights in a model folder: model.safetensors, or all *.safetensors in the order of names.

    Raises:
        LunaError: the folder holds no safetensors.
    """
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise LunaError(f"{folder}: holds no *.safetensors; run `dvc repro distill`")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def model_key(path: str, model: "Model") -> str:
    """The hash of all that a model's outputs depend on beside its input: weights, how it is loaded, the arithmetic.

    Args:
        path: a folder with full weights or with an adapter (its base counts too), or a hub name.
    """
    import torch

    parts = [*_weights(path, model), model.dtype, str(model.load_in_4bit), model.backend, torch.__version__]
    parts += [str(torch.get_num_threads()), torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _weights(path: str, model: "Model") -> list[str]:
    folder = Path(path)
    if not folder.is_dir():
        return [path, model.revision or ""]
    adapter = folder / "adapter_config.json"
    base = [read_json(adapter)["base_model_name_or_path"]] if adapter.is_file() else []
    return [weights_sha256(folder), *(part for name in base for part in _weights(name, model))]
