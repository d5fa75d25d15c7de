"""Documents of the base corpus: what the loss counts on can be known from what stands before it."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna.arithmetic.corpus import document
from luna.arithmetic.problems import SKILLS
from luna.arithmetic.wording import read

HEADING = re.compile(r"\d+[-+*]\d+")
chains = st.sampled_from([name for name, skill in SKILLS.items() if len(skill.ops) == 2])
seeds = st.integers(0, 2**32)


@given(seeds, chains)
def test_a_bare_calculation_never_makes_the_model_guess_what_comes_second(seed: int, chain: str) -> None:
    segments = document(random.Random(seed), "bare", {chain: 1.0})
    told = [segment.text for segment in segments if not segment.trained]
    assert len(told) == 2
    assert all(HEADING.fullmatch(text.strip()) for text in told)
    trained = "".join(segment.text for segment in segments if segment.trained)
    assert not any(HEADING.fullmatch(line) for line in trained.splitlines())
    assert trained.count("so ") == 2


@given(seeds, st.sampled_from(list(SKILLS)))
def test_headings_are_all_that_counts_in_a_heading_document(seed: int, name: str) -> None:
    segments = document(random.Random(seed), "heading", {name: 1.0})
    problem = read(segments[0].text)
    assert problem is not None
    assert [segment.text for segment in segments if segment.trained] == [f"{step}\n" for step in problem.steps]


@pytest.mark.parametrize("name", SKILLS)
def test_the_way_to_a_second_heading_is_a_right_one(name: str) -> None:
    segments = document(random.Random(1), "heading", {name: 1.0})
    problem = read(segments[0].text)
    assert problem is not None
    way = "".join(segment.text for segment in segments[1:])
    assert way.startswith("<think>\n")
    assert (f"so {problem.steps[0].value}\n" in way) == (len(problem.steps) == 2)
