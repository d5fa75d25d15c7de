"""Eval items and the reference voice.

`recall` asks held-out instances of every trained skill; `generalize` asks the sealed range and the sealed compositions.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from luna.arithmetic.corpus import thinking_reply
from luna.arithmetic.layouts import choose_method, solve
from luna.arithmetic.problems import SEALED_SKILLS, SKILLS, Problem, draw, item_key, sample, sample_sealed_range
from luna.arithmetic.wording import ask
from luna.errors import LunaError
from luna.outputs import replacing
from luna.records import read_lines, write_lines
from luna.settings import Evaluation

Suite = Literal["recall", "generalize"]
ITEMS, VOICE = "items.jsonl", "voice.jsonl"
_TRIES = 200  # draws without a new problem after which a skill's held-out pool counts as empty


class EvalItem(NamedTuple):
    """One question of the eval set. `family` is the skill, or `range` and `composition` for what is sealed."""

    id: str
    suite: Suite
    family: str
    question: str
    answer: str


def make_items(settings: Evaluation) -> list[EvalItem]:
    """The items of both suites. No problem stands in it twice."""
    rng = random.Random(settings.seed)
    recall = _recall(rng, settings.recall_items)
    half = settings.generalize_items // 2
    skills = list(SKILLS.values())
    sealed = list(SEALED_SKILLS.values())
    ranges = _distinct(half, lambda i: sample_sealed_range(rng, skills[i % len(skills)]))
    chains = _distinct(settings.generalize_items - half, lambda i: sample(rng, sealed[i % len(sealed)], "eval"))
    generalize = [("range", p) for p in ranges] + [("composition", p) for p in chains]
    return _as_items(rng, "recall", recall) + _as_items(rng, "generalize", generalize)


def _recall(rng: random.Random, count: int) -> list[tuple[str, Problem]]:
    """Held-out problems, skills in turn; a skill whose pool is empty leaves its turns to the others."""
    found: dict[str, tuple[str, Problem]] = {}
    names = list(SKILLS)
    while len(found) < count and names:
        for name in list(names):
            problem = _new(rng, name, found)
            if problem is None:
                names.remove(name)
            elif len(found) < count:
                found[item_key(problem)] = (name, problem)
    return list(found.values())


def _new(rng: random.Random, name: str, found: Mapping[str, object]) -> Problem | None:
    for _ in range(_TRIES):
        problem = sample(rng, SKILLS[name], "eval")
        if item_key(problem) not in found:
            return problem
    return None


def _distinct(count: int, make: Callable[[int], Problem]) -> list[Problem]:
    found: dict[str, Problem] = {}
    known_in_a_row = 0
    for turn in itertools.count():
        if len(found) == count:
            break
        problem = make(turn)
        known_in_a_row = known_in_a_row + 1 if item_key(problem) in found else 0
        if known_in_a_row == 10 * _TRIES:
            raise LunaError(f"params.yaml: evaluate.generalize_items: there are no {count} sealed problems; ask fewer")
        found.setdefault(item_key(problem), problem)
    return list(found.values())


def _as_items(rng: random.Random, suite: Suite, problems: Sequence[tuple[str, Problem]]) -> list[EvalItem]:
    return [
        EvalItem(f"{suite}-{number:04d}", suite, family, ask(rng, problem), str(problem.answer))
        for number, (family, problem) in enumerate(problems)
    ]


def make_voice(settings: Evaluation, count: int = 1500) -> list[str]:
    """Replies in the reference voice: the solver's, in the eval set's own proportions of skills and methods."""
    rng = random.Random(settings.seed + 1)
    skills = [*SKILLS.values(), *SEALED_SKILLS.values()]
    replies = []
    for turn in range(count):
        # Half of the items are recall, a quarter the sealed range of the same skills, a quarter the compositions.
        pool = skills[-len(SEALED_SKILLS) :] if turn % 4 == 3 else skills[: len(SKILLS)]
        problem = draw(rng, rng.choice(pool))
        replies.append(thinking_reply(solve(problem, choose_method(rng, problem)), problem.answer))
    return replies


def write_eval_set(folder: Path, settings: Evaluation, subject: str) -> None:
    """Write items and voice into a folder: the user's own, or those of the embedded domain.

    Raises:
        LunaError: the subject has no eval set of its own and none is given, a given line lacks a field, or there are
            fewer sealed problems than asked for.
    """
    if settings.own_items is None and subject != "arithmetic":
        raise LunaError(
            f"params.yaml: evaluate.own_items: there is no built-in eval set for {subject}; give a JSONL file"
        )
    items, voice = (
        _own(Path(settings.own_items)) if settings.own_items else (make_items(settings), make_voice(settings))
    )
    with replacing(folder) as aside:
        aside.mkdir()
        write_lines(aside / ITEMS, (item._asdict() for item in items))
        write_lines(aside / VOICE, ({"reply": reply} for reply in voice))


def _own(path: Path) -> tuple[list[EvalItem], list[str]]:
    if not path.is_file():
        raise LunaError(f"{path}: no such file; mend evaluate.own_items in params.yaml")
    items, voice = [], []
    for number, row in enumerate(read_lines(path), start=1):
        missing = [name for name in (*EvalItem._fields, "reply") if not isinstance(row.get(name), str)]
        if missing:
            raise LunaError(f"{path}:{number}: {missing[0]}: is missing or no text; add it")
        if row["suite"] not in get_args(Suite):
            raise LunaError(f"{path}:{number}: suite: {row['suite']!r} is none; write recall or generalize")
        items.append(EvalItem(**{name: row[name] for name in EvalItem._fields}))
        voice.append(row["reply"])
    return items, voice


def read_items(folder: Path) -> list[EvalItem]:
    """The items of an eval set."""
    return [EvalItem(**row) for row in read_lines(folder / ITEMS)]


def read_voice(folder: Path) -> list[str]:
    """The reference replies of an eval set."""
    return [row["reply"] for row in read_lines(folder / VOICE)]


def eval_set_sha256(folder: Path) -> str:
    """The hash by which generations know that they were asked the same."""
    digest = hashlib.sha256()
    for name in (ITEMS, VOICE):
        digest.update(json.dumps([name, (folder / name).stat().st_size]).encode())
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
