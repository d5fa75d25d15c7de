"""The enhance stage: the student attempts every question, is hinted at its own mistakes, and its thinking is kept."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luna.enhance.loop import ExactJudge, HintingTeacher, Judge, ModelJudge, converse
from luna.enhance.students import Dialogue, LocalStudent
from luna.enhance.thinking import iterative_thinking
from luna.llm.client import Client
from luna.lm.chat import Message
from luna.lm.load import load_model
from luna.outputs import read_json
from luna.progress import bar, say
from luna.records import Record
from luna.settings import Endpoint, Settings
from luna.stats import paired_bootstrap

Json = dict[str, Any]


@dataclass(frozen=True)
class Enhanced:
    """Records with their new thinking, the dialogues behind them (same order), and the metrics of the stage."""

    records: list[Record]
    dialogues: list[Dialogue]
    metrics: Json


def enhance(settings: Settings, records: Sequence[Record], root: Path) -> Enhanced:
    """Run the loop over all records with the model in training as the student."""
    params, preset = settings.params, settings.preset
    path, who = _student_path(settings, root)
    say(f"enhance  the student is {who}")
    judge = make_judge(preset.judge)
    teacher = HintingTeacher(Client(preset.teacher, "teacher"), [record.answer for record in records])
    dialogues = [Dialogue(_context(record)) for record in records]
    with bar("enhance", len(records) * params.enhance.max_iterations) as advance:
        student = LocalStudent(load_model(path, preset.model, trainable=False), preset.student, advance)
        converse(dialogues, student, judge, teacher, params.enhance.max_iterations, params.seed, _say_open)
    metrics = _metrics(dialogues) | {"hint_leaks": teacher.leaks.kept, "hint_leaks_caught": teacher.leaks.caught}
    metrics |= {"student": who, "student_override": params.enhance.student is not None}
    if params.enhance.blind_retries:
        metrics |= _compare_blind(settings, dialogues, student, judge)
    enhanced = [_with_thinking(record, dialogue) for record, dialogue in zip(records, dialogues, strict=True)]
    return Enhanced(enhanced, dialogues, metrics)


def make_judge(judge: Endpoint | str) -> Judge:
    """The judge a preset names: a model, or the exact verifier."""
    return ModelJudge(Client(judge, "judge")) if isinstance(judge, Endpoint) else ExactJudge()


def _student_path(settings: Settings, root: Path) -> tuple[str, str]:
    """Where the student's weights are, and who it is: the parent generation unless params override it."""
    override = settings.params.enhance.student
    if override is not None:
        return override, f"{override} (enhance.student)"
    teachers = read_json(root / "models" / "teachers" / "teachers.json")
    parent = teachers["parent"]
    return parent["path"], parent["gen"] or "the base"


def _context(record: Record) -> list[Message]:
    """The conversation up to and with the last question; later turns are what the student has to find."""
    last = max(i for i, turn in enumerate(record.messages) if turn.role == "user")
    return [{"role": turn.role, "content": turn.content} for turn in record.messages[: last + 1]]


def _say_open(iteration: int, still_open: int) -> None:
    say(f"enhance  iteration {iteration}: {still_open} questions still open")


def _with_thinking(record: Record, dialogue: Dialogue) -> Record:
    """The record with four fields of metadata set; nothing else of it changes."""
    metadata = dict(record.metadata) | {
        "original_thinking": record.metadata.get("thinking"),
        "thinking": iterative_thinking(dialogue),
        "thinking_iterations": len(dialogue.turns),
        "thinking_converged": dialogue.converged,
    }
    return record.model_copy(update={"metadata": metadata})


def _metrics(dialogues: Sequence[Dialogue]) -> Json:
    total = len(dialogues)
    return {
        "total_examples": total,
        "enhanced_examples": sum(1 for dialogue in dialogues if dialogue.turns),
        "average_iterations": sum(len(dialogue.turns) for dialogue in dialogues) / total,
        "convergence_rate": sum(dialogue.converged for dialogue in dialogues) / total,
        "right_at_once": sum(dialogue.turns[0].correct for dialogue in dialogues) / total,
        "hints_given": sum(len(dialogue.hints) for dialogue in dialogues),
    }


def _compare_blind(settings: Settings, dialogues: Sequence[Dialogue], student: LocalStudent, judge: Judge) -> Json:
    """Convergence with hints against as many blind retries from the same first attempts, on some of the questions."""
    params = settings.params
    asked = min(params.enhance.blind_retries, len(dialogues))
    hinted = random.Random(params.seed).sample(list(dialogues), asked)
    blind = [Dialogue(dialogue.context, [replace(dialogue.turns[0], hint=None)]) for dialogue in hinted]
    wrong = [dialogue for dialogue in blind if not dialogue.converged]
    converse(wrong, student, judge, None, params.enhance.max_iterations - 1, params.seed + 1)
    with_hints, without = ([dialogue.converged for dialogue in arm] for arm in (hinted, blind))
    paired = paired_bootstrap(with_hints, without, params.evaluate.bootstrap_samples, params.seed)
    return {
        "blind_questions": asked,
        "blind_convergence_rate": sum(without) / asked,
        "hint_gain": paired.delta,
        "hint_gain_low": paired.low,
        "hint_gain_high": paired.high,
    }
