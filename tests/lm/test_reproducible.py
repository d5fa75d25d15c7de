"""One seed, one sequence, whatever generator is asked."""

import os
import random

import numpy as np
import pytest
import torch

from luna.lm.reproducible import set_reproducible


@pytest.fixture(autouse=True)
def _restore():
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def draw(seed):
    set_reproducible(seed, threads=1)
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_every_generator_follows_the_seed():
    assert draw(3) == draw(3)
    assert not set(draw(3)) & set(draw(4))


def test_threads_and_algorithms_are_fixed():
    set_reproducible(0, threads=2)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
