"""What frozen teachers said, kept on disk: their final hidden states at supervised tokens, exact.

Teachers do not change while one turns alpha, beta, gamma, a temperature or a threshold, so no teacher has to read
anything twice. Hidden states are kept instead of logits: they are V / D times smaller, and the teacher's own head
makes the same logits of them. A sample is read alone, without padding, so what is kept depends on nothing but the
sample, the teacher and the machine's arithmetic, and a run gives the same bytes whether it reads or computes.

Layout: `.luna/teacher_states/TEACHER/SHARD.safetensors`, tensors [N, D] named by the hash of their sample. A shard is
written aside and renamed; a run that is killed loses the last, unwritten one.
"""

import hashlib
import os
import shutil
import uuid
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from luna.errors import LunaError

FOLDER = "teacher_states"
SHARD_BYTES = 64 * 2**20


def sample_key(input_ids_T: Tensor, chosen_T: Tensor) -> str:
    """The hash of a sample without its padding, and of the places at which it is read."""
    digest = hashlib.sha256(input_ids_T.to("cpu", torch.int64).numpy().tobytes())
    digest.update(chosen_T.to("cpu", torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class TeacherCache:
    """The kept states of one teacher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new: dict[str, Tensor] = {}
        self._new_bytes = 0
        self._shard_of: dict[str, Path] = {}
        if folder.is_dir():
            os.utime(folder)  # in use: others go first when room is made
        for shard in sorted(folder.glob("*.safetensors")):
            with safe_open(shard, framework="pt") as tensors:
                self._shard_of |= dict.fromkeys(tensors.keys(), shard)

    def __len__(self) -> int:
        return len(self._shard_of) + len(self._new)

    def get(self, key: str) -> Tensor | None:
        """The states [N, D] of a sample, on the CPU; None if they are not kept."""
        if key in self._new:
            return self._new[key]
        shard = self._shard_of.get(key)
        if shard is None:
            return None
        with safe_open(shard, framework="pt") as tensors:
            states_ND: Tensor = tensors.get_tensor(key)
        return states_ND

    def put(self, key: str, states_ND: Tensor) -> None:
        """Keep a sample's states."""
        self._new[key] = states_ND.detach().to("cpu").contiguous()
        self._new_bytes += states_ND.numel() * states_ND.element_size()
        if self._new_bytes >= SHARD_BYTES:
            self.write()

    def write(self) -> None:
        """Write what is new as one more shard."""
        if not self._new:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        aside = shard.with_suffix(".new")
        save_file(self._new, aside)
        os.replace(aside, shard)
        self._shard_of |= dict.fromkeys(self._new, shard)
        self._new, self._new_bytes = {}, 0


def make_room(folder: Path, needed: int, budget: int, in_use: set[str]) -> None:
    """Drop the states of teachers that are not in use, those unused for longest first, until `needed` fits `budget`.

    Args:
        folder: the folder of all teachers.
        needed: bytes that may be written, those that are kept already included.
        in_use: names of the teachers that stay.

    Raises:
        LunaError: they cannot fit, or the disk has no room for them.
    """
    if needed > budget:
        raise LunaError(
            f"params.yaml: distill.teacher_cache_gb: the teachers' states may take {_gb(needed)} and the budget is"
            f" {_gb(budget)}; raise it, or set it to 0 to have the teachers read in every run"
        )
    others = sorted((one for one in _folders(folder) if one.name not in in_use), key=lambda one: one.stat().st_mtime)
    kept = sum(size_of(one) for one in others)
    for one in others:
        if needed + kept <= budget:
            break
        kept -= size_of(one)
        shutil.rmtree(one)
    missing = needed - sum(size_of(one) for one in _folders(folder) if one.name in in_use)
    if missing > (free := shutil.disk_usage(folder if folder.is_dir() else Path()).free):
        raise LunaError(
            f"{folder}: the teachers' states may take {_gb(missing)} more and the disk has {_gb(free)};"
            " make room, or set distill.teacher_cache_gb to 0 in params.yaml"
        )


def _folders(folder: Path) -> list[Path]:
    return [one for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []


def size_of(folder: Path) -> int:
    """Bytes of the shards of a teacher."""
    return sum(shard.stat().st_size for shard in folder.glob("*.safetensors"))


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
