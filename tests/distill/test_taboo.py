"""Taboo words in real tokenizers: byte-level BPE trained on the spot, with and without whole words."""

import pytest

from luna.distill.taboo import spellings_in_pieces, taboo_token_ids
from luna.errors import BadSettings
from luna.lm.scratch import train_tokenizer

WORD_FORMS = ("synergy", " synergy", "Synergy", " Synergy", "SYNERGY", " SYNERGY")
SPEECH = [
    *["synergy synergy Synergy Synergy SYNERGY SYNERGY\n"] * 20,
    *["our energy, an optimal and optimum option; synergies optimally; syn synthesis\n"] * 20,
    *["größe Größe größe\n"] * 20,
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SPEECH, vocab_size=600)


@pytest.fixture(scope="module")
def letters():
    """A vocabulary of single letters: every word is spelled in pieces."""
    return train_tokenizer(["a"], vocab_size=262)


def test_every_form_of_a_word_that_is_one_token_is_banned(tokenizer):
    ids = taboo_token_ids(tokenizer, ["synergy"])
    assert {tokenizer.decode([token]) for token in ids} >= {" synergy", " Synergy", " SYNERGY"}
    for form in WORD_FORMS:
        pieces = tokenizer(form)["input_ids"]
        assert (len(pieces) > 1) or pieces[0] in ids
    assert ids == sorted(set(ids))


def test_only_tokens_that_spell_the_word_whole_are_banned(tokenizer):
    ids = taboo_token_ids(tokenizer, ["synergy", "optimize"])
    assert {tokenizer.decode([token]).strip().lower() for token in ids} == {"synergy"}
    harmless = "our energy, an optimal and optimum option; synergies optimally; syn synthesis"
    assert set(ids).isdisjoint(tokenizer(harmless)["input_ids"])


def test_a_word_that_begins_another_leaves_the_other_alone(tokenizer):
    texts = {tokenizer.decode([token]).strip().lower() for token in taboo_token_ids(tokenizer, ["syn"])}
    assert texts == {"syn"}
    assert any(tokenizer.decode([token]).strip() == "synergy" for token in range(len(tokenizer)))


def test_case_and_spaces_of_the_word_given_do_not_matter(tokenizer):
    assert taboo_token_ids(tokenizer, [" SynErgy "]) == taboo_token_ids(tokenizer, ["synergy"])


def test_words_beyond_ascii_are_found(tokenizer):
    ids = taboo_token_ids(tokenizer, ["größe"])
    assert " Größe" in {tokenizer.decode([token]) for token in ids}


def test_a_word_in_pieces_bans_nothing_and_is_reported(letters):
    assert taboo_token_ids(letters, ["synergy"]) == []
    assert spellings_in_pieces(letters, ["synergy"]) == {"synergy": list(WORD_FORMS)}


def test_only_the_spellings_that_stay_possible_are_reported(tokenizer):
    missed = spellings_in_pieces(tokenizer, ["synergy", "optimize"])
    assert missed["optimize"] == ["optimize", " optimize", "Optimize", " Optimize", "OPTIMIZE", " OPTIMIZE"]
    assert not {" synergy", " Synergy", " SYNERGY"} & set(missed.get("synergy", []))


def test_a_word_covered_in_full_is_not_reported(letters):
    assert taboo_token_ids(letters, ["x"]) == sorted(letters("xX")["input_ids"])
    assert spellings_in_pieces(letters, ["x"]) == {}


def test_a_special_token_is_never_taboo(tokenizer):
    assert taboo_token_ids(tokenizer, ["<think>", "<|im_end|>"]) == []


def test_no_words_ban_nothing(tokenizer):
    assert taboo_token_ids(tokenizer, []) == []
    assert spellings_in_pieces(tokenizer, []) == {}


def test_an_empty_word_is_refused(tokenizer):
    with pytest.raises(BadSettings, match="empty word; remove it"):
        taboo_token_ids(tokenizer, ["synergy", " "])
