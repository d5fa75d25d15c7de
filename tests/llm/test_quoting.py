from hypothesis import given
from hypothesis import strategies as st

from luna.llm.quoting import attempt_block, block, read_attempt_block, read_block

PIECES = [*"0123 |<>/\n\t=+", "<think>", "</think>", "</attempt>", "<attempt>", "\n</attempt>\n", "  1| ", "\r\n", "é"]
NASTY = st.lists(st.sampled_from(PIECES)).map("".join)


@given(st.one_of(NASTY, st.text()))
def test_any_attempt_comes_out_as_it_went_in(attempt):
    prompt = f"{block('question', 'What is 1+1?')}\n\n{attempt_block(attempt)}\n\n{block('hints', '- a')}"
    assert read_attempt_block(prompt) == attempt
    assert read_block("question", prompt) == "What is 1+1?"
    assert read_block("hints", prompt) == "- a"


def test_thinking_lines_are_numbered_and_nothing_else():
    text = attempt_block("<think>\n47+38\n\nones 7+8+0=15\n</think>\n85")
    assert text == "<attempt>\n   | <think>\n  1| 47+38\n   | \n  2| ones 7+8+0=15\n   | </think>\n   | 85\n</attempt>"


def test_without_a_thinking_block_every_line_is_numbered():
    assert attempt_block("195") == "<attempt>\n  1| 195\n</attempt>"


def test_a_block_that_is_not_there():
    assert read_block("hints", "nothing") is None
    assert read_attempt_block("nothing") is None
