"""Several examples in one row, each as if it were alone: positions start anew, attention ends where an example does.

Rows of like length waste nothing on padding, and a GPU is full with every batch. A row carries the lengths of its
examples; from their position ids transformers makes a block-diagonal mask.

This module imports torch and TRL at once.
"""

import inspect
from collections.abc import Sequence
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import pack_dataset

from luna.errors import LunaError
from luna.lm.chat import IGNORE, Example
from luna.training.final_states import StatesReader


def pack(examples: Sequence[Example], row: int, title: str) -> list[dict[str, list[int]]]:
    """Rows of at most `row` tokens (best fit, long examples first), each with the lengths of its examples.

    Raises:
        LunaError: an example is longer than a row.
    """
    longest = max(len(example["input_ids"]) for example in examples)
    if longest > row:
        raise LunaError(f"{title}: packing: rows of {row} tokens, and an example has {longest}; raise it in the preset")
    # Nothing of its row foretells the first token of an example.
    alone = [{**example, "labels": [IGNORE, *example["labels"][1:]]} for example in examples]
    rows: list[dict[str, list[int]]] = pack_dataset(Dataset.from_list(alone), row, "bfd").to_list()
    return rows


class Alone(NamedTuple):
    """Examples of a packed batch, each in a row of its own: ids and mask [S, T], and what is supervised [S, T - 1]."""

    input_ids: Tensor
    attention_mask: Tensor
    supervised: Tensor


def unpack(input_ids_BT: Tensor, mask_BT: Tensor, position_ids_BT: Tensor, supervised_BT: Tensor) -> Alone:
    """The examples in the order of the packed rows, so that supervised tokens keep theirs.

    Args:
        supervised_BT: which tokens are foretold and count, shifted: [B, T - 1].
    """
    ids: list[Tensor] = []
    chosen: list[Tensor] = []
    for ids_T, length, positions_T, chosen_T in zip(
        input_ids_BT, mask_BT.sum(1).tolist(), position_ids_BT, supervised_BT, strict=True
    ):
        starts = (positions_T[:length] == 0).nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            ids.append(ids_T[start:end])
            chosen.append(chosen_T[start : end - 1])
    masks = [torch.ones_like(one) for one in ids]
    return Alone(*(pad_sequence(rows, batch_first=True) for rows in (ids, masks, chosen)))


@torch.no_grad()
def check_packing(reader: StatesReader, title: str) -> None:
    """Refuse a model whose examples see each other in a row, by what it makes of two rows of two examples.

    Raises:
        LunaError: states in a row are not those of the example alone, or the model takes no positions.
    """
    name = type(reader.causal_lm).__name__
    mend = "set packing to null in the preset"
    if "position_ids" not in inspect.signature(reader.causal_lm.forward).parameters:
        raise LunaError(f"{title}: packing: {name} takes no position ids, so its examples cannot be told apart; {mend}")
    device = reader.model.get_input_embeddings().weight.device
    ids_BT = torch.arange(2, 34, device=device).reshape(2, 16)
    positions_BT = torch.arange(8, device=device).repeat(2, 2)
    mask_BT, every_BT = torch.ones_like(ids_BT), torch.ones_like(ids_BT, dtype=torch.bool)
    was_training = reader.model.training
    reader.model.eval()
    packed = reader.read(ids_BT, mask_BT, every_BT, position_ids=positions_BT).logits().float()
    alone = reader.read(*(part.reshape(4, 8) for part in (ids_BT, mask_BT, every_BT))).logits().float()
    reader.model.train(was_training)
    tolerance = 1e-3 if reader.model.dtype in (torch.float32, torch.float64) else 0.05
    if (packed - alone).norm() > tolerance * alone.norm():
        raise LunaError(f"{title}: packing: in {name} examples of one row see each other; {mend}")
