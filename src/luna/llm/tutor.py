"""The rule-based arithmetic tutor as a model of LiteLLM, `luna-tutor/arithmetic`.

It teaches integer arithmetic and nothing else: an exact solver, a finder of first mistakes and a writer of hints, no
language model. It reads the same prompts that any teacher or judge gets and answers in the same formats. Chance comes
from a hash of the messages and the seed, so the same request always has the same reply.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luna.arithmetic import tutor as knowledge
from luna.arithmetic.layouts import Method, choose_method, solve
from luna.arithmetic.problems import SKILLS, Problem, Skill, sample
from luna.arithmetic.wording import ask, read
from luna.llm.quoting import read_attempt_block, read_block
from luna.llm.tutor_dialogue import dialogue
from luna.lm.chat import Message

PROVIDER, MODEL = "luna-tutor", "arithmetic"
REFUSAL = (
    "I am a rule-based tutor and teach integer arithmetic only, so I cannot take this on. "
    "Please choose another teacher for it."
)
TRIES = 60  # draws before a wish that does not fit the skill (a story in two steps) is let go

_TITLES = {skill.title: skill for skill in SKILLS.values()}
_TITLE = re.compile("|".join(sorted(map(re.escape, _TITLES), key=len, reverse=True)))
_DIALOGUES = re.compile(r"exactly (\d+) conversations?\b.*?exactly (\d+) exchanges?\b", re.DOTALL)


@dataclass(frozen=True)
class _Draft:
    problem: Problem
    question: str
    method: Method
    lines: list[str]


def answer(messages: Sequence[Message], seed: int | None = None) -> str:
    """The tutor's reply to a conversation. What it cannot do it declines in plain words."""
    rules, request = messages[0]["content"], messages[-1]["content"]
    if '{"correct"' in rules:
        return _verdict(request)
    if '{"hint"' in rules:
        return _hint(request)
    skill = _skill_named(request, seed)
    if skill is None:
        return REFUSAL
    rng = random.Random(_digest(messages, seed))
    wanted = _DIALOGUES.search(request)
    if wanted:
        return _dialogues(rng, skill, int(wanted[1]), int(wanted[2]))
    return _invention(rng, skill, request)


def _digest(messages: Sequence[Message], seed: int | None) -> bytes:
    text = json.dumps([[[message["role"], message["content"]] for message in messages], seed])
    return hashlib.sha256(text.encode()).digest()


def _skill_named(request: str, seed: int | None) -> Skill | None:
    """The skill a request names; any, if it only says integer arithmetic; None if it is about something else."""
    named = _TITLE.search(request)
    if named:
        return _TITLES[named[0]]
    if "integer arithmetic" in request:
        return random.Random(f"{request} {seed}").choice(list(SKILLS.values()))
    return None


def _carries(draft: _Draft) -> bool:
    """True if some column carries or borrows."""
    columns = [line for line in solve(draft.problem, "bare") if "=" in line]
    return any("+10=" in line if "-" in line else not line.rpartition("=")[2].startswith("0") for line in columns)


# What a request may ask of a problem beside its skill, and how the tutor sees that a draft fulfils it.
_WISHES: dict[str, Callable[[_Draft], bool]] = {
    "short story": lambda draft: "How many" in draft.question,
    "bare expression": lambda draft: "How many" not in draft.question,
    "carry or a borrow": _carries,
    "column by column": lambda draft: draft.method != "parts",
    "taking a number apart": lambda draft: draft.method == "parts",
}


def _draft(rng: random.Random, skill: Skill, request: str = "") -> _Draft:
    wishes = [fulfils for words, fulfils in _WISHES.items() if words in request]
    for _ in range(TRIES):
        problem = sample(rng, skill)
        method = choose_method(rng, problem)
        draft = _Draft(problem, ask(rng, problem), method, solve(problem, method))
        if all(fulfils(draft) for fulfils in wishes):
            break
    return draft


def _invention(rng: random.Random, skill: Skill, request: str) -> str:
    draft = _draft(rng, skill, request)
    thinking = "\n".join(draft.lines)
    return json.dumps({"question": draft.question, "thinking": thinking, "answer": str(draft.problem.answer)})


def _dialogues(rng: random.Random, skill: Skill, conversations: int, exchanges: int) -> str:
    drafts = [_draft(rng, skill) for _ in range(conversations)]
    return json.dumps([{"conversations": dialogue(rng, d.question, d.lines, exchanges)} for d in drafts])


def _hint(request: str) -> str:
    problem, attempt = _read_case(request)
    if problem is None or attempt is None:
        return REFUSAL
    firm = read_block("hints", request) is not None
    return json.dumps({"hint": knowledge.hint(problem, attempt, firm=firm)})


def _verdict(request: str) -> str:
    problem, attempt = _read_case(request)
    if problem is None or attempt is None:
        return REFUSAL
    verdict = knowledge.judge(problem, attempt)
    line = None if verdict.first_wrong_line is None else verdict.first_wrong_line + 1
    return json.dumps({"correct": verdict.correct, "first_wrong_line": line, "reason": verdict.reason})


def _read_case(request: str) -> tuple[Problem | None, str | None]:
    return read(read_block("question", request) or ""), read_attempt_block(request)


def register() -> None:
    """Make LiteLLM know the provider `luna-tutor`. Further calls change nothing."""
    import litellm

    if any(entry["provider"] == PROVIDER for entry in litellm.custom_provider_map):
        return

    class Provider(litellm.CustomLLM):  # type: ignore[misc]  # litellm is not typed
        async def acompletion(self, model: str, messages: list[Message], **call: Any) -> Any:
            text = answer(messages, call["optional_params"].get("seed"))
            response = call["model_response"]
            response.choices[0].message.content = text
            asked, said = sum(len(message["content"].split()) for message in messages), len(text.split())
            # It has no tokens; words are the nearest thing to count.
            response.usage = litellm.Usage(prompt_tokens=asked, completion_tokens=said, total_tokens=asked + said)
            return response

    litellm.custom_provider_map.append({"provider": PROVIDER, "custom_handler": Provider()})
