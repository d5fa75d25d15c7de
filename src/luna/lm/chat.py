"""Conversations as tokens: prompts, and training examples whose loss counts on the assistant's words only."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, START, END, "<think>", "</think>")
IGNORE = -100  # the label that cross-entropy skips

# ChatML with the markers that let a tokenizer tell which tokens are the assistant's (its end-of-turn token included).
CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|im_start|>assistant\n{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MARKER = re.compile(r"{%-?\s*generation\b")


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], prefix: str = "") -> list[int]:
    """The token ids after which the assistant speaks; `prefix` is what it has already said."""
    out: Any = tokenizer(_render(tokenizer, messages, prompt=True) + prefix, add_special_tokens=False)
    ids: list[int] = out["input_ids"]
    return ids


class Example(TypedDict):
    """Token ids and labels of one training example; labels are IGNORE where the loss does not count."""

    input_ids: list[int]
    labels: list[int]


def encode(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], max_length: int) -> Example:
    """A conversation as a training example; the loss counts on every assistant turn and the token that ends it.

    Raises:
        ValueError: the assistant's tokens cannot be told from the others, or there are more than `max_length` tokens.
    """
    ids, mask = _tokens_and_mask(tokenizer, messages)
    if not any(mask):
        raise ValueError("no token is the assistant's: give an assistant turn, or mark it in the chat template")
    if len(ids) > max_length:
        raise ValueError(f"{len(ids)} tokens are more than max_length {max_length}")
    return {"input_ids": ids, "labels": [i if on else IGNORE for i, on in zip(ids, mask, strict=True)]}


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token by which the assistant ends a turn, as the chat template writes it.

    Raises:
        ValueError: the template marks the assistant's words but not the token that ends them.
    """
    example = encode(tokenizer, [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], 1_000_000)
    special = [label for label in example["labels"] if label in _special_ids(tokenizer)]
    if not special:
        raise ValueError("its chat template leaves the end of a turn outside {% generation %}; move it inside")
    return special[-1]


def _apply(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], **how: Any) -> Any:
    from jinja2 import TemplateError

    turns: Any = list(messages)
    try:
        return tokenizer.apply_chat_template(turns, **how)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the conversation ({error}); change the turns' roles") from error


def _render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, prompt: bool = False) -> str:
    return str(_apply(tokenizer, messages, add_generation_prompt=prompt, tokenize=False))


def _special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    return {tokenizer.eos_token_id, *tokenizer.added_tokens_decoder}


def _tokens_and_mask(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Token ids, and for each whether the assistant says it."""
    template = tokenizer.get_chat_template()
    if _MARKER.search(template):
        return _by_markers(tokenizer, messages, template)
    try:
        return _by_prompts(tokenizer, messages)
    except ValueError:
        # Some templates rewrite replies (they drop old thinking, say). TRL keeps variants of most that do not.
        variant = _training_variant(tokenizer)
        if variant is None:
            raise
        return _by_markers(tokenizer, messages, variant)


def _by_markers(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], template: str
) -> tuple[list[int], list[bool]]:
    """What the template puts between {% generation %} and {% endgeneration %} is the assistant's."""
    how = {"chat_template": template, "tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    out = _apply(tokenizer, messages, **how)
    return out["input_ids"], [bool(on) for on in out["assistant_masks"]]


def _training_variant(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    from trl.chat_template_utils import get_training_chat_template

    try:
        variant: str | None = get_training_chat_template(tokenizer)
    except ValueError:  # TRL does not know this template
        return None
    return variant


def _by_prompts(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """What follows the prompt that the model would be given is the assistant's, up to the token that ends its turn."""
    text = _render(tokenizer, messages)
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = out["input_ids"], out["offset_mapping"]
    mask, special = [False] * len(ids), _special_ids(tokenizer)
    for turn in (turn for turn, message in enumerate(messages) if message["role"] == "assistant"):
        start, end = _reply_span(tokenizer, text, messages, turn)
        if any(left < edge < right for left, right in offsets for edge in (start, end)):
            raise ValueError(f"turn {turn + 1}: the edge of the reply melts into its neighbour; strip its white space")
        for place, (left, right) in enumerate(offsets):
            ends_turn = left == end < right and ids[place] in special
            mask[place] |= ends_turn or (start <= left and right <= end)
        if end == len(text):  # GLM's template ends a turn by the next turn's mark, and the last turn by nothing
            return [*ids, tokenizer.eos_token_id], [*mask, True]
    return ids, mask


def _reply_span(
    tokenizer: "PreTrainedTokenizerBase", text: str, messages: Sequence[Message], turn: int
) -> tuple[int, int]:
    """Where in the rendered text the assistant speaks, in characters; white space around its words is its own."""
    prompt = _render(tokenizer, messages[:turn], prompt=True)
    words = messages[turn]["content"].strip()
    at = text.find(words, len(prompt))
    if not text.startswith(prompt) or at < 0 or text[len(prompt) : at].strip():
        raise ValueError(
            f"turn {turn + 1}: the chat template rewrites the conversation, so the reply does not follow its prompt; "
            "mark the assistant's words with {% generation %} in the template"
        )
    rest = text[at + len(words) :]
    return len(prompt), len(text) - len(rest.lstrip())
