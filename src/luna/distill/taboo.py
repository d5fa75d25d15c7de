"""Taboo words as token ids: the words whose teacher signal the loss suppresses.

A token is taboo if it spells a taboo word whole: decoded, without the spaces around it and whatever its case, it equals
the word. That covers every way a vocabulary holds the word in one token (`synergy`, ` synergy`, `Synergy`, ...).

A spelling that the tokenizer writes in several pieces is not banned. Its pieces belong to other words too, and no
vocabulary can tell which: `optim` would take `optimal` along even where `optimal` is no token of its own. Such
spellings are reported by `spellings_in_pieces`, so that nobody trusts a ban that is none.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luna.errors import BadSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def taboo_token_ids(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> list[int]:
    """The ids of all tokens that spell one of the words whole, in rising order.

    Raises:
        BadSettings: a word is empty.
    """
    taboo = {_plain(word) for word in words}
    if "" in taboo:
        raise BadSettings("params.yaml: distill.taboo.words: holds an empty word; remove it")
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    return [token for token, text in zip(ids, texts, strict=True) if _plain(text) in taboo]


def spellings_in_pieces(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> dict[str, list[str]]:
    """By word, the spellings that no taboo token covers; words that are covered in full are left out.

    A word is tried as given, in small letters, capitalised and in capitals, each with and without a space before it.
    """
    taboo = set(taboo_token_ids(tokenizer, words))
    missed = {word: [text for text in _spellings(word) if taboo.isdisjoint(_ids(tokenizer, text))] for word in words}
    return {word: spellings for word, spellings in missed.items() if spellings}


def _plain(text: str) -> str:
    return text.strip().casefold()


def _spellings(word: str) -> list[str]:
    bare = word.strip()
    forms = dict.fromkeys([bare, bare.lower(), bare.capitalize(), bare.upper()])
    return [space + form for form in forms for space in ("", " ")]


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
