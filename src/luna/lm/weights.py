"""The hash by which a model folder's weights are known."""

import hashlib
from pathlib import Path

from luna.errors import LunaError


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
