"""Reading against Python's own arithmetic, and statements against their truth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.arithmetic.reading import evaluate, false_statements, last_number, read_attempt

NUMBERS = st.integers(0, 99_999)
BLANKS = st.sampled_from(["", " "])
TIMES = st.sampled_from(["*", "x", "×", "·"])
MINUS = st.sampled_from(["-", "−"])


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, int, int]:
    """Text, value, and how tight it binds: 0 a sum, 1 a product, 2 a number or brackets."""
    kind = draw(st.sampled_from(["number", "grouped", "bracket", "minus", "+", "-", "*"])) if depth else "number"
    if kind in ("number", "grouped"):
        value = draw(NUMBERS)
        return (f"{value:,}" if kind == "grouped" else str(value)), value, 2
    if kind in ("bracket", "minus"):
        text, value, tight = draw(expressions(depth=depth - 1))
        if kind == "bracket":
            return f"({text})", value, 2
        return f"{draw(MINUS)}{text if tight == 2 else f'({text})'}", -value, 1
    (left, a, tight_left), (right, b, tight_right) = (draw(expressions(depth=depth - 1)) for _ in range(2))
    needed = 1 if kind == "*" else 0
    left = left if tight_left >= needed else f"({left})"
    right = right if tight_right > needed or (kind == "+" and tight_right == 1) else f"({right})"
    sign = draw(TIMES) if kind == "*" else draw(MINUS) if kind == "-" else "+"
    blank = draw(BLANKS)
    value = {"+": a + b, "-": a - b, "*": a * b}[kind]
    return f"{left}{blank}{sign}{blank}{right}", value, needed


@given(expressions())
def test_expressions_have_the_value_that_python_gives_them(expression: tuple[str, int, int]) -> None:
    text, value, _ = expression
    python = text.replace(",", "").replace("−", "-")
    for sign in "x×·":
        python = python.replace(sign, "*")
    assert eval(python) == value
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["", "+", "5+", "*5", "(1+2", "1+2)", "1 2", "two", "5/2", "2**3", "(1)(2)", "()"])
def test_what_is_no_expression_has_no_value(text: str) -> None:
    assert evaluate(text) is None


@given(expressions(), expressions(), st.booleans())
def test_a_statement_is_false_exactly_when_its_sides_differ(
    one: tuple[str, int, int], other: tuple[str, int, int], spaced: bool
) -> None:
    equals = " = " if spaced else "="
    statement = f"{one[0]}{equals}{other[0]}"
    assert bool(false_statements(statement)) == (one[1] != other[1])


@given(expressions(), st.integers(1, 99))
def test_a_true_value_is_never_called_false_and_a_wrong_one_always(expression: tuple[str, int, int], off: int) -> None:
    text, value, _ = expression
    assert false_statements(f"We see that {text} = {value}.") == []
    assert false_statements(f"{text}={value}={value}") == []
    assert false_statements(f"We see that {text} = {value + off}.") != []
    assert false_statements(f"{text}={value}={value + off}") != []
    assert false_statements(f"all is well\n{text} = {value}\n{text} = {value + off}\n") != []


def test_every_side_of_a_spaced_chain_counts() -> None:
    assert false_statements("15 x 13 = 15 x 10 + 15 x 3 = 150 + 45 = 195") == []
    assert false_statements("7 + 8 = 15 = 15") == []
    assert false_statements("7 + 8 = 15 = 16") != []
    assert false_statements("15 x 13 = 150 + 45 = 196") != []


def test_equations_in_one_line_do_not_run_into_each_other() -> None:
    assert false_statements("15*10=150, 15*3=45") == []
    assert false_statements("15 x 10 = 150, 15 x 3 = 45") == []
    assert false_statements("15*10=150 (15*3=45)") == []
    assert false_statements("15*10=150, 15*3=46") != []
    assert false_statements("15 x 10 = 150, 15 x 3 = 46") != []


@pytest.mark.parametrize("text", ["390 / 2 = 195", "390 ÷ 2 = 195", "10^2 = 100", "7.5 + 2.5 = 10"])
def test_what_cannot_be_read_is_not_called_false(text: str) -> None:
    assert false_statements(text) == []


def test_a_list_mark_is_no_minus() -> None:
    assert false_statements("- 15 x 10 = 150\n- 15 x 3 = 45") == []
    assert false_statements("- 15 x 10 = 151") != []


@given(
    st.integers(-999_999, 999_999), st.sampled_from(["The answer is {}.", "{}", "**{}**", "It is {} apples!", "= {}"])
)
def test_the_last_number_of_a_text_with_and_without_separators(number: int, frame: str) -> None:
    assert last_number(f"Out of 12 and 34: {frame.format(number)}") == number
    assert last_number(f"Out of 12 and 34: {frame.format(f'{number:,}')}") == number


def test_parts_of_words_and_decimals_are_no_whole_numbers() -> None:
    assert last_number("no digits") is None
    assert last_number("room B12") is None
    assert last_number("12 is right, not 3.5") == 12


def test_an_attempt_is_taken_apart() -> None:
    attempt = read_attempt("<think>\n 47+38 \n\nso 85\n</think>\n85")
    assert (attempt.lines, attempt.answer, attempt.closed) == (["47+38", "so 85"], 85, True)
    open_ = read_attempt("<think>\n47+38\nso 85")
    assert (open_.lines, open_.answer, open_.closed) == (["47+38", "so 85"], None, False)
    bare = read_attempt("It is 85.")
    assert (bare.lines, bare.answer, bare.closed) == (["It is 85."], 85, True)
    assert read_attempt("<think>\nso 85\n</think>\nI do not know.").answer is None
