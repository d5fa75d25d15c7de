"""The base corpus as training examples."""

import random
from typing import TYPE_CHECKING

from luna.arithmetic.corpus import Document, Segment, document, level_weights
from luna.lm.chat import END, IGNORE, START, Example
from luna.settings import Rung

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def write_corpus(rng: random.Random, rung: Rung, count: int) -> list[Document]:
    """`count` documents in the shares of a rung."""
    kinds = list(rung.documents)
    shares = [rung.documents[kind].share for kind in kinds]
    skills = {kind: level_weights(rung.documents[kind].levels) for kind in kinds}
    drawn = rng.choices(kinds, shares, k=count)
    return [document(rng, kind, skills[kind]) for kind in drawn]


def text_of(segment: Segment) -> str:
    """A segment with the markers of its role, as the chat template would write them."""
    if segment.role == "user":
        return f"{START}user\n{segment.text}{END}\n{START}assistant\n"
    return segment.text + (END if segment.role == "assistant" else "")


def encode_corpus(tokenizer: "PreTrainedTokenizerFast", documents: list[Document]) -> list[Example]:
    """Documents as examples: segments are tokenized one by one, so a token never crosses a loss boundary."""
    texts = [text_of(segment) for doc in documents for segment in doc]
    # Straight from the backend, in half the time: transformers would also make masks and offsets of every segment.
    pieces = iter(tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    examples: list[Example] = []
    for doc in documents:
        input_ids: list[int] = []
        labels: list[int] = []
        for segment in doc:
            ids = next(pieces).ids
            input_ids += ids
            labels += ids if segment.trained else [IGNORE] * len(ids)
        examples.append({"input_ids": input_ids, "labels": labels})
    return examples
