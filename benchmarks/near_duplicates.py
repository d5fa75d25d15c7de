"""How long the search for near-duplicates takes, and what it finds.

    python benchmarks/near_duplicates.py

10,000 texts of random words from a vocabulary of 3,000, a tenth of them copies of another with one word changed, in one
process. Prints a line for each length of text.
"""

import random
import time
from typing import Annotated

import typer

from luna.generate.near_duplicates import NearDuplicates

WORDS = [f"word{number}" for number in range(3000)]


def main(texts: Annotated[int, typer.Option(help="How many texts.")] = 10_000, threshold: float = 0.8) -> None:
    """Plant near-copies, find them, tell the time."""
    for length in (30, 100, 300):
        planted = make(random.Random(0), texts, length)
        started, cpu = time.perf_counter(), time.process_time()
        near = NearDuplicates(threshold)
        kept = sum(near.add(text) for text in planted)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        found = f"{texts - kept} of {texts // 10} near-copies found"
        print(f"{texts:,} texts of {length} words: {found}, {seconds:.1f} s, {cpu:.1f} s of CPU")


def make(rng: random.Random, count: int, length: int) -> list[str]:
    """Texts, and behind them near-copies of a ninth of them."""
    fresh = [rng.choices(WORDS, k=length) for _ in range(count - count // 10)]
    copies = [list(words) for words in rng.sample(fresh, count // 10)]
    for words in copies:
        words[rng.randrange(length)] = "changed"
    return [" ".join(words) for words in fresh + copies]


if __name__ == "__main__":
    typer.run(main)
