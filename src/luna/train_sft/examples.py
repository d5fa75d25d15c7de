"""What both rungs are trained on: this run's lessons, some of earlier generations', some of the base's own corpus.

The corpus keeps what lessons alone let fade: they hold no drill of reading a question, and few short numbers.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from luna.lm.chat import Example
from luna.pretrain.documents import encode_corpus, write_corpus
from luna.records import Record
from luna.replay.mixing import count_beside, draw_replayed
from luna.settings import Settings
from luna.training.lessons import encode_lessons

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


class Examples(NamedTuple):
    """Training examples by where they come from."""

    own: list[Example]
    replayed: list[Example]
    corpus: list[Example]

    @property
    def all(self) -> list[Example]:
        return [*self.own, *self.replayed, *self.corpus]

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind, as the metrics of a rung name them."""
        return {
            "lessons": len(self.own),
            "replayed_examples": len(self.replayed),
            "corpus_examples": len(self.corpus),
        }


def gather_examples(
    settings: Settings, tokenizer: "PreTrainedTokenizerBase", records: Sequence[Record], replay: Sequence[Record]
) -> Examples:
    """The lessons of `records`, and beside them the shares that `replay.share` and `replay.corpus` ask for.

    A base that Luna did not make has no corpus here and none is mixed in.

    Raises:
        BadRecord: a lesson cannot be encoded; names its record.
    """
    preset, params = settings.preset, settings.params
    own = encode_lessons(tokenizer, records, preset, params.seed)
    pool = encode_lessons(tokenizer, replay, preset, params.seed, source="data/replay.jsonl")
    corpus: list[Example] = []
    if preset.pretrain is not None:
        rng = random.Random(f"corpus {params.generation} {params.seed}")
        documents = write_corpus(rng, preset.pretrain.rungs[-1], count_beside(len(own), params.replay.corpus))
        corpus = encode_corpus(cast("PreTrainedTokenizerFast", tokenizer), documents)  # Luna's own bases have one
    return Examples(own, draw_replayed(pool, len(own), params.replay.share, params.seed), corpus)
