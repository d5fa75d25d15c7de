"""The base corpus as training examples: shares, markers, and a loss that counts where a document says so."""

import random
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from luna.arithmetic.corpus import Kind, Segment, document, level_weights
from luna.lm.chat import IGNORE, encode
from luna.pretrain.documents import encode_corpus, text_of, write_corpus
from luna.settings import Rung

KINDS = get_args(Kind)
LEVELS = level_weights([1.0] * 6)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)


def _rung(**shares: float) -> Rung:
    documents = {kind: {"share": share} for kind, share in shares.items()}
    return Rung.model_validate({"age": "0->1", "steps": 1, "documents": documents})


def test_a_corpus_has_its_number_and_its_shares() -> None:
    corpus = write_corpus(random.Random(0), _rung(table=0.75, worked=0.25), 800)
    assert len(corpus) == 800
    conversations = sum(any(segment.role == "user" for segment in doc) for doc in corpus)
    assert conversations / 800 == pytest.approx(0.25, abs=0.05)


def test_a_corpus_repeats_with_its_seed() -> None:
    rung = _rung(**{kind: 1 / len(KINDS) for kind in KINDS})
    one, again, other = (write_corpus(random.Random(seed), rung, 60) for seed in (1, 1, 2))
    assert one == again != other


@given(st.sampled_from(KINDS), st.integers(0, 2**32))
def test_the_loss_counts_on_the_trained_segments_and_on_nothing_else(
    tokenizer: PreTrainedTokenizerFast, kind: str, seed: int
) -> None:
    doc = document(random.Random(seed), kind, LEVELS)
    [example] = encode_corpus(tokenizer, [doc])
    assert tokenizer.decode(example["input_ids"]) == "".join(text_of(segment) for segment in doc)
    taught = [label for label in example["labels"] if label != IGNORE]
    assert tokenizer.decode(taught) == "".join(text_of(segment) for segment in doc if segment.trained)
    pairs = zip(example["input_ids"], example["labels"], strict=True)
    assert all(label in (token, IGNORE) for token, label in pairs)
    assert taught


def test_documents_keep_their_own_tokens_in_a_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = [document(random.Random(seed), kind, LEVELS) for seed, kind in enumerate(KINDS * 3)]
    assert encode_corpus(tokenizer, corpus) == [encode_corpus(tokenizer, [doc])[0] for doc in corpus]


def test_a_worked_document_is_what_the_chat_template_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    """So that the base is asked, later on, in the form that it was taught."""
    doc = [Segment("What is 1+2?", False, "user"), Segment("<think>\n1+2\nso 3\n</think>\n3", True, "assistant")]
    [example] = encode_corpus(tokenizer, [doc])
    turns = [{"role": "user", "content": doc[0].text}, {"role": "assistant", "content": doc[1].text}]
    chat = encode(tokenizer, turns, 512)
    assert chat["input_ids"][: len(example["input_ids"])] == example["input_ids"]
    assert chat["labels"][: len(example["labels"])] == example["labels"]
