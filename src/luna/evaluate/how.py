"""How a model was asked: what must be the same for two models before their accuracies may be compared."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import luna
from luna.eval_set.items import EvalItem
from luna.lm.load import LoadedModel
from luna.lm.sample import Decoding

Json = dict[str, Any]

# Whatever decides what a model is asked, what it says and whether that is right.
_EVALUATOR = (
    "answers.py",
    "arithmetic/reading.py",
    "eval_set/*.py",
    "evaluate/*.py",
    "lm/chat.py",
    "lm/sample.py",
)


def how_asked(loaded: LoadedModel, items: Sequence[EvalItem], decoding: Decoding, seed: int) -> Json:
    """What the answers of a model depend on beside its weights and the questions."""
    template = loaded.tokenizer.get_chat_template()
    return {
        "evaluator_sha256": evaluator_sha256(),
        "engine": _engine(loaded),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "decoding": {
            "temperature": decoding.temperature,
            "max_new_tokens": decoding.max_new_tokens,
            "batch_size": decoding.batch_size,
            "seed": seed,
        },
        "items": dict(Counter(item.suite for item in items)),
    }


def evaluator_sha256(package: Path = Path(luna.__file__).parent) -> str:
    """The version of the evaluator: a hash over names and bytes of its sources."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _EVALUATOR for path in package.glob(pattern)):
        source = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(source)}\n".encode())
        digest.update(source)
    return digest.hexdigest()


def _engine(loaded: LoadedModel) -> Json:
    import torch
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "device": loaded.model.device.type,
    }
