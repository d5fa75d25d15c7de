"""The order of training examples: batches of like length, in random order, anew every epoch."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

NEIGHBOURS = 50  # batches whose examples are sorted by length together; more saves padding, fewer mixes better


class LengthBuckets(Sampler[int]):
    """Indices such that every `batch_size` of them are of like length, while batches come in random order.

    Transformers' own grouping by length leaves neighbouring batches sorted, long ones first; a small model then
    learns lengths in turns, and its loss shows it.

    Args:
        batch_size: examples of a batch; all that an optimizer step sees, where it is made of several.
        fill_to: make the number of indices a multiple of this by the index after the last example, so that no rank
            stays without one.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, fill_to: int = 1) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.missing = -len(lengths) % fill_to

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, and when it resumes in the middle of one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self.missing

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        # What does not fill a batch comes last, or every batch after it would be shifted.
        whole = len(order) - len(order) % self.batch_size
        batches: list[list[int]] = []
        for start in range(0, whole, self.batch_size * NEIGHBOURS):
            chunk = sorted(order[start : min(start + self.batch_size * NEIGHBOURS, whole)], key=self._length)
            batches += [chunk[i : i + self.batch_size] for i in range(0, len(chunk), self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]
        yield from order[whole:]
        yield from [len(self.lengths)] * self.missing

    def _length(self, index: int) -> int:
        return self.lengths[index]
