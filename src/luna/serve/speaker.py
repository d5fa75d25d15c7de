"""Who speaks: one model, or several generations as one by the mean of their logits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna.errors import LunaError
from luna.generations.git import commit_of, file_at
from luna.kept import kept_folder
from luna.lm.chat import Message
from luna.lm.load import BadModel, LoadedModel
from luna.lm.weights import weights_sha256
from luna.outputs import replacing
from luna.settings import Model

USUAL_CONTEXT = 2048  # tokens, where a model's configuration does not say


class ContextFull(LunaError):
    """A conversation leaves no room for a reply."""


@dataclass(frozen=True)
class Said:
    """A reply; `completion_tokens` are those drawn, and `cut` tells that it did not end by itself."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool


@dataclass(frozen=True)
class Speaker:
    """A model that answers conversations, or an ensemble of models.

    Attributes:
        name: what clients ask for. It changes with the weights of a folder, as whoever keeps replies knows a model by
            its name alone.
        context: tokens of a conversation and its reply together.
    """

    name: str
    model: Any
    tokenizer: Any
    context: int

    def say(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Said:
        """The reply to a conversation: the same for the same arguments, whatever else is asked.

        Args:
            max_tokens: of the reply; None: what the context leaves.
            stop: the reply ends before the first of these texts.

        Raises:
            ContextFull: the conversation fills the context.
            ValueError: the chat template refuses the conversation.
        """
        from luna.lm.chat import prompt_ids
        from luna.lm.sample import Decoding, sample_ids

        prompt = prompt_ids(self.tokenizer, messages)
        room = self.context - len(prompt)
        if room < 1:
            raise ContextFull(f"the conversation has {len(prompt)} of {self.context} tokens; make it shorter")
        decoding = Decoding(temperature, min(max_tokens or room, room), 1, tuple(stop))
        [reply] = sample_ids(self.model, self.tokenizer, [prompt], decoding, seed)
        text = self.tokenizer.decode(reply, skip_special_tokens=False)
        ends = [text.index(one) for one in stop if one in text]
        cut = not ends and len(reply) == decoding.max_new_tokens
        return Said(text[: min(ends, default=None)], len(prompt), len(reply), cut)


def load_speaker(
    names: Sequence[str], root: Path = Path(), weights: Sequence[float] | None = None, named_in: str = "models"
) -> Speaker:
    """Load one model, or several of one lineage that speak as one.

    Args:
        names: model folders, tags of generations, or names on a hub.
        weights: of the logits; equal if None.
        named_in: who names the models, for errors.

    Raises:
        BadModel, GenerationMissing: a model cannot be had.
        LunaError: several models that do not fit together, or weights that do not fit them.
    """
    if weights and len(weights) != len(names):
        raise LunaError(f"{named_in}: {len(names)} models and {len(weights)} weights; give as many, or no weights")
    found = [_find(root, name, named_in) for name in names]
    loaded = [_load(path) for _, path in found]
    called = [name for name, _ in found]
    first = loaded[0]
    if len(loaded) == 1:
        return Speaker(called[0], first.model, first.tokenizer, _context(first.model))
    from luna.lm.ensemble import Ensemble

    _refuse_other_tokens(loaded, called)
    together = Ensemble([one.model for one in loaded], weights)
    parts = called if not weights else [f"{share:g}*{name}" for share, name in zip(weights, called, strict=True)]
    return Speaker("+".join(parts), together, first.tokenizer, min(_context(one.model) for one in loaded))


def _find(root: Path, name: str, named_in: str) -> tuple[str, str | Path]:
    """What a model is called, and the folder or hub name to load it from."""
    folder = Path(name)
    if folder.is_dir():
        known = any(folder.glob("*.safetensors"))
        return f"{folder.resolve().name}-{weights_sha256(folder)[:8]}" if known else name, folder
    if commit_of(root, name) is not None:
        return name, _bring(root, name, named_in)
    if "/" not in name or folder.parent.is_dir():  # no name of a hub
        raise BadModel(f"{named_in}: {name} is no folder and no git tag; see `luna ladder`, or run `git fetch --tags`")
    return name, name


def _bring(root: Path, tag: str, named_in: str) -> Path:
    """The folder with a tag's weights; brought once, and again if the tag says others by now."""
    folder = kept_folder(root) / "generations" / tag
    text = file_at(root, f"refs/tags/{tag}", "generation.json")
    said = json.loads(text).get("weights_sha256") if text else None
    if not any(folder.glob("*.safetensors")) or weights_sha256(folder) != said:
        from luna.generations.weights_at_tag import bring_weights

        with replacing(folder) as aside:
            bring_weights(root, tag, aside, named_in)
    return folder


def _load(path: str | Path) -> LoadedModel:
    import torch

    from luna.lm.load import load_model

    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    return load_model(path, Model.model_validate({"base": str(path), "dtype": dtype}), trainable=False)


def _context(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or USUAL_CONTEXT)


def _refuse_other_tokens(loaded: Sequence[LoadedModel], called: Sequence[str]) -> None:
    """The mean of logits means something only where all models mean the same tokens by them."""
    vocabulary = loaded[0].tokenizer.get_vocab()
    for one, name in zip(loaded[1:], called[1:], strict=True):
        if one.tokenizer.get_vocab() != vocabulary:
            raise LunaError(f"{name}: has other tokens than {called[0]}; an ensemble needs models of one lineage")
