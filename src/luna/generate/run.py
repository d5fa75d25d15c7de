"""The generate stage: prompts to the teacher, inventions back, records out, exactly as many as asked for."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luna.errors import TeacherError
from luna.generate.draw import seed_of
from luna.generate.mix import mixed_prompts
from luna.generate.prompt import TeacherPrompt
from luna.generate.replies import parse_conversations, parse_invention
from luna.generate.socratic import SocraticGenerator
from luna.generate.subject import Subject, load_subject, load_templates
from luna.generate.system_prompt import generate_enhanced_system_prompt, generate_socratic_system_prompt
from luna.llm.client import Client, Failure, Reply, Request
from luna.llm.replies import UnusableReplyError
from luna.lm.chat import Message
from luna.records import Record, Turn
from luna.settings import Settings

ROUNDS = 8  # how often a prompt is asked, each time with a new seed, until it yields something new
REPAIRED_CONFIDENCE = 0.5  # of an example whose reply was no strict JSON; 1 otherwise


@dataclass(frozen=True)
class Generated:
    """The records of a run, in the order of their prompts, its counts, and the prompts that got no reply, with why."""

    records: list[Record]
    stats: dict[str, Any]
    failed: list[dict[str, Any]]


@dataclass
class _Run:
    """The state of a run: one place for each prompt, filled over the rounds or given up."""

    settings: Settings
    subject: Subject
    prompts: list[TeacherPrompt]
    places: list[Record | None]
    seen: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    by_approach: dict[str, Counter[str]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def open(self) -> list[int]:
        return [i for i, record in enumerate(self.places) if record is None and i not in self.failed]


def generate(
    settings: Settings,
    skill_weights: Mapping[str, float] | None,
    client: Client,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Generated:
    """Let the teacher invent `generate.num_examples` examples, no two with the same question.

    A reply that is unusable or repeats a question is dropped and its prompt asked again with a new seed. A prompt whose
    call fails for good is given up, and told among `failed`.

    Args:
        skill_weights: how much of each skill of the subject; None: all alike.
        on_progress: called with the number of prompts just answered for the first time.

    Raises:
        TeacherError: every call failed for good (or more than `teacher.max_failed`), a cap of the teacher is reached,
            or it gave too few usable replies.
        BadSettings: the subject or the templates file is not as it should be.
    """
    run = _start(settings, skill_weights)
    for round_ in range(ROUNDS):
        waiting = run.open
        run.counts["reasked"] += len(waiting) if round_ else 0
        replies = client.ask_all(
            [_request(run, index, round_) for index in waiting], on_progress if round_ == 0 else lambda count: None
        )
        for index, reply in zip(waiting, replies, strict=True):
            if isinstance(reply, Failure):
                run.failed[index] = reply.reason
            else:
                _take(run, index, reply)
                last = reply
        if not run.open:
            stats = _stats(run) | {"teacher": client.bill()}
            return Generated([record for record in run.places if record], stats, _failed_rows(run))
        if round_ and not any(run.places):
            break  # not one is usable: more of the same would only cost
    raise TeacherError(_shortfall(run, last))


def _start(settings: Settings, skill_weights: Mapping[str, float] | None) -> _Run:
    asked = settings.params.generate
    subject = load_subject(settings.preset.subject)
    templates = load_templates(Path(asked.templates), subject) if asked.templates else None
    seed = seed_of("prompts", settings.params.seed, settings.params.generation)
    prompts = mixed_prompts(asked.mix, subject, asked.num_examples, seed, skill_weights, templates)
    run = _Run(settings, subject, prompts, [None] * len(prompts))
    for prompt in prompts:
        run.by_approach.setdefault(prompt.approach, Counter())
    return run


def _request(run: _Run, index: int, round_: int) -> Request:
    """The request of a place; the generation is part of its seed, so that no generation repeats another's examples."""
    prompt, params = run.prompts[index], run.settings.params
    messages: list[Message] = [
        {"role": "system", "content": generate_enhanced_system_prompt(run.subject)},
        {"role": "user", "content": prompt.text},
    ]
    return Request(messages, seed_of("reply", params.seed, params.generation, index, round_))


def _take(run: _Run, index: int, reply: Reply) -> None:
    """Fill a place from a reply, or count why not."""
    tally = run.by_approach[run.prompts[index].approach]
    tally["prompt_tokens"] += reply.prompt_tokens
    tally["completion_tokens"] += reply.completion_tokens
    try:
        record, repaired = _record(run, index, reply)
    except UnusableReplyError as reason:
        run.dropped["cut off by max_tokens" if reply.cut else str(reason)] += 1
        tally["unusable"] += 1
        return
    key = " ".join(" ".join(turn.content for turn in record.messages if turn.role == "user").casefold().split())
    if key in run.seen:
        run.counts["duplicates"] += 1
        tally["duplicates"] += 1
        return
    run.seen.add(key)
    run.counts["repaired"] += repaired
    tally["examples"] += 1
    run.places[index] = record


def _record(run: _Run, index: int, reply: Reply) -> tuple[Record, bool]:
    prompt = run.prompts[index]
    if prompt.approach == "socratic":
        dialogues = parse_conversations(reply.text, SocraticGenerator.exchanges)
        turns, thinking, repaired = dialogues.turns[0], "", dialogues.repaired
        system, question_type = generate_socratic_system_prompt(run.subject), "SOCRATIC"
    else:
        invention = parse_invention(reply.text)
        turns = [Turn(role="user", content=invention.question), Turn(role="assistant", content=invention.answer)]
        thinking, repaired = invention.thinking, invention.repaired
        system, question_type = generate_enhanced_system_prompt(run.subject), run.subject.question_type
    if run.settings.preset.model.system_prompt:
        turns = [Turn(role="system", content=system), *turns]
    metadata = {
        "id": _id(run, index),
        "approach": prompt.approach,
        **prompt.facets,
        "thinking": thinking,
        "question_type": question_type,
        "confidence": REPAIRED_CONFIDENCE if repaired else 1.0,
        "teacher": run.settings.preset.teacher.model,
    }
    return Record(messages=turns, metadata=metadata), repaired


def _failed_rows(run: _Run) -> list[dict[str, Any]]:
    """The prompts that were given up, in their order."""
    return [
        {
            "id": _id(run, index),
            "approach": run.prompts[index].approach,
            "prompt": run.prompts[index].text,
            "reason": why,
        }
        for index, why in sorted(run.failed.items())
    ]


def _id(run: _Run, index: int) -> str:
    return f"{run.settings.params.generation.rpartition('-')[2]}-{index:06d}"


def _stats(run: _Run) -> dict[str, Any]:
    names = ("examples", "duplicates", "unusable", "prompt_tokens", "completion_tokens")
    by_approach = {name: {key: tally[key] for key in names} for name, tally in sorted(run.by_approach.items())}
    return {
        "examples": len(run.prompts) - len(run.failed),
        "failed": len(run.failed),
        **{name: run.counts[name] for name in ("duplicates", "repaired", "reasked")},
        "dropped": dict(sorted(run.dropped.items())),
        **{name: sum(tally[name] for tally in by_approach.values()) for name in names[-2:]},
        "by_approach": by_approach,
    }


def _shortfall(run: _Run, last: Reply) -> str:
    reasons = Counter(run.dropped)
    if run.counts["duplicates"]:
        reasons["a question that was there before"] = run.counts["duplicates"]
    why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    model = f"teacher.model: {run.settings.preset.teacher.model}"
    if not any(run.places):
        said = " ".join(last.text.split())[:150]
        asked = len(run.prompts) - len(run.failed)
        return f"{model}: none of {asked} replies was usable ({why}); one says {said!r}; choose another teacher"
    return (
        f"{model}: {len(run.open)} of {len(run.prompts)} examples are still missing after {ROUNDS} rounds ({why}); "
        "lower generate.num_examples, widen the subject or choose another teacher"
    )
