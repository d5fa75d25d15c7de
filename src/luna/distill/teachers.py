"""The two frozen teachers as the trainer asks them, each by the cheapest way to its final hidden states.

A teacher that is an adapter on the student's own base, or this base itself, shares the student's network: one set of
weights in memory instead of three. States that an earlier run kept are not computed again (`teacher_cache`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from luna.distill.teacher_cache import FOLDER, TeacherCache, make_room, sample_key
from luna.kept import kept_folder
from luna.lm.chat import IGNORE, Example
from luna.lm.load import LoadedModel, load_model
from luna.lm.weights import model_key
from luna.outputs import read_json
from luna.progress import say
from luna.ranks import is_first, summed, wait_for_all, world_size
from luna.settings import Settings
from luna.training.final_states import FinalStates, StatesReader

if TYPE_CHECKING:
    from peft import PeftModel


class Reader(Protocol):
    """What reads a model's final states; `head` is None where it can only give logits in full."""

    @property
    def head(self) -> nn.Linear | None: ...

    def read(self, input_ids: Tensor, attention_mask: Tensor, chosen_BT: Tensor) -> FinalStates: ...


class AdapterReader:
    """Reads another adapter on the network of the model in training, or with None its bare base."""

    def __init__(self, model: "PeftModel", adapter: str | None) -> None:
        self.model = model
        self.adapter = adapter
        self._reader = StatesReader(model)

    @property
    def head(self) -> nn.Linear | None:
        return self._reader.head

    def read(self, input_ids: Tensor, attention_mask: Tensor, chosen_BT: Tensor) -> FinalStates:
        with self._speaking():
            return self._reader.read(input_ids, attention_mask, chosen_BT)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """The student must be active again before the backward pass, or it would silently get no gradient."""
        training = self.model.training
        self.model.eval()
        try:
            if self.adapter is None:
                with self.model.disable_adapter():
                    yield
            else:
                self.model.set_adapter(self.adapter, inference_mode=True)
                yield
        finally:
            self.model.set_adapter("default")
            self.model.train(training)


class Counts(NamedTuple):
    """Samples that a teacher read, and samples whose states were kept already."""

    read: int
    kept: int


class Teacher:
    """Final states of a frozen model. `read` and `kept` count its samples on this rank.

    Args:
        cache: None: every batch is read as it comes, and nothing is kept.
    """

    def __init__(self, reader: Reader, cache: TeacherCache | None = None) -> None:
        self.reader = reader
        self.cache = cache
        self.read = 0
        self.kept = 0

    @torch.no_grad()
    def __call__(self, input_ids_BT: Tensor, mask_BT: Tensor, chosen_BT: Tensor) -> FinalStates:
        """The states at the chosen places of a batch padded on the right, in the order of `chosen_BT`."""
        if self.cache is not None and self.reader.head is not None:
            rows = zip(input_ids_BT, chosen_BT, mask_BT.sum(1).tolist(), strict=True)
            states = [self._sample(ids_T[:length], chosen_T[: length - 1]) for ids_T, chosen_T, length in rows]
            # The first sample may have shown that hidden states and head are not all there is to the logits.
            if self.reader.head is not None:
                return FinalStates(torch.cat(states), self.reader.head.weight, self.reader.head.bias)
        self.read += len(input_ids_BT)
        return self.reader.read(input_ids_BT, mask_BT, chosen_BT)

    def _sample(self, ids_T: Tensor, chosen_T: Tensor) -> Tensor:
        assert self.cache is not None
        key = sample_key(ids_T, chosen_T)
        states_ND = self.cache.get(key)
        if states_ND is not None:
            self.kept += 1
            return states_ND.to(ids_T.device)
        self.read += 1
        read = self.reader.read(ids_T[None], torch.ones_like(ids_T[None]), chosen_T[None])
        if read.weight_VD is not None:
            self.cache.put(key, read.hidden_ND)
        return read.hidden_ND

    def counts(self) -> Counts:
        """Samples of all ranks, which have to ask together."""
        return Counts(*summed(torch.tensor([self.read, self.kept])).tolist())

    def finish(self) -> None:
        """Keep what was read."""
        if self.cache is not None:
            self.cache.write()


def load_teachers(
    settings: Settings, student: LoadedModel, paths: Sequence[str], examples: Sequence[Example], root: Path
) -> tuple[Teacher, Teacher]:
    """T1 and T2, frozen; the same teacher where both paths are one.

    Args:
        student: its network is shared by teachers that are adapters on its base.
        examples: what the teachers will be asked, to tell what their kept states may take.

    Raises:
        LunaError: their states do not fit the budget or the disk.
    """
    caches = _caches(settings, student, paths, examples, root)
    places = [(1, paths[0]), *([(2, paths[1])] if paths[1] != paths[0] else [])]
    readers = {path: _reader(settings, student, path, f"t{place}") for place, path in places}
    # Ranks that share every weight have to read together, and what is kept on one may be missing on another.
    together = settings.preset.distill.shard
    teachers = {
        path: Teacher(reader, None if together and isinstance(reader, AdapterReader) else caches[path])
        for path, reader in readers.items()
    }
    primary, critic = (teachers[path] for path in paths)
    return primary, critic


def _reader(settings: Settings, student: LoadedModel, path: str, name: str) -> Reader:
    base = _base_of(path)
    if (
        not hasattr(student.model, "peft_config")
        or base != student.model.peft_config["default"].base_model_name_or_path
    ):
        return StatesReader(load_model(path, settings.preset.model, trainable=False).model)
    if base == path:
        return AdapterReader(student.model, None)
    student.model.load_adapter(path, adapter_name=name, is_trainable=False)
    return AdapterReader(student.model, name)


def _base_of(path: str) -> str:
    """The base of an adapter's folder; full weights are their own."""
    adapter = Path(path) / "adapter_config.json"
    return str(read_json(adapter)["base_model_name_or_path"]) if adapter.is_file() else path


def _caches(
    settings: Settings, student: LoadedModel, paths: Sequence[str], examples: Sequence[Example], root: Path
) -> dict[str, TeacherCache | None]:
    budget = settings.params.distill.teacher_cache_gb
    if not budget:
        return dict.fromkeys(paths)
    folder = kept_folder(root) / FOLDER
    keys = {path: model_key(path, settings.preset.model) for path in paths}
    tokens = sum(label != IGNORE for example in examples for label in example["labels"][1:])
    width = int(student.model.config.get_text_config().hidden_size)
    one = tokens * width * _item_size(settings.preset.model.dtype)
    # Epochs deal the samples to the ranks anew, and a rank knows what was kept when it started and its own.
    needed = one * len(set(paths)) * world_size()
    if is_first():
        make_room(folder, needed, int(budget * 1e9), set(keys.values()))
    wait_for_all()
    caches = {path: TeacherCache(folder / key) for path, key in keys.items()}
    say(
        f"distill  the teachers' states take up to {needed / 1e9:.3f} GB in {folder}; kept are"
        f" {sum(len(cache) for cache in caches.values())} samples"
    )
    return dict(caches)


def _item_size(dtype: str) -> int:
    size: int = getattr(torch, dtype).itemsize
    return size
