"""The enhance stage: the student attempts every question, is hinted at its own mistakes, and its thinking is kept."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luna.enhance.api_student import ApiStudent
from luna.enhance.hints import HintingTeacher
from luna.enhance.judges import BothJudges, Judge, ModelJudge, make_judge
from luna.enhance.kept_attempts import KeptAttempts
from luna.enhance.loop import converse
from luna.enhance.students import Attempter, Dialogue, LocalStudent
from luna.enhance.thinking import iterative_thinking
from luna.errors import TeacherError
from luna.kept import kept_folder
from luna.llm.client import Client
from luna.llm.journal import Journal, journal_file
from luna.lm.chat import Message
from luna.lm.load import load_model
from luna.lm.weights import weights_sha256
from luna.outputs import read_json
from luna.progress import bar, say
from luna.records import Record
from luna.settings import Model, Settings, Student
from luna.stats import paired_bootstrap

Json = dict[str, Any]


@dataclass(frozen=True)
class Cast:
    """Who takes part in the loop."""

    student: Attempter
    judge: Judge
    teacher: HintingTeacher


@dataclass(frozen=True)
class Enhanced:
    """Records with their new thinking, the dialogues behind them (same order), and the metrics of the stage.

    `failed` are the records whose dialogue could not be finished, unchanged but for the reason in their metadata.
    `places` tells where each of `records` stood in the input.
    """

    records: list[Record]
    dialogues: list[Dialogue]
    metrics: Json
    failed: list[Record]
    places: list[int]


def enhance(settings: Settings, records: Sequence[Record], root: Path) -> Enhanced:
    """Run the loop over all records with the model in training as the student.

    Raises:
        TeacherError: a cap of teacher or judge is reached, or no dialogue could be finished.
    """
    params, preset = settings.params, settings.preset
    path, who = student_path(settings, root)
    journal = Journal(journal_file(root))
    judge = make_judge(preset.judge, journal, params.generation)
    teacher = HintingTeacher(Client(preset.teacher, "teacher", journal, params.generation), checkpoint(path))
    with bar("enhance", len(records) * params.enhance.max_iterations) as advance:
        student = local_student(path, preset.model, preset.student, root, advance)
        cast = Cast(student, judge, teacher)
        enhanced = work_through(records, cast, params.enhance.max_iterations, params.seed, who)
    metrics = enhanced.metrics | {"student": who, "student_override": params.enhance.student is not None}
    if params.enhance.blind_retries:
        metrics |= compare_blind(
            enhanced.dialogues,
            cast,
            params.enhance.blind_retries,
            params.enhance.max_iterations,
            params.seed,
            params.evaluate.bootstrap_samples,
        )
    student.forget()
    return replace(enhanced, metrics=metrics | bills(cast))


def local_student(
    path: str, model: Model, drawn: Student, root: Path, on_progress: Callable[[int], None] = lambda done: None
) -> KeptAttempts:
    """A model on this machine as the student; its attempts outlive a killed run."""
    student = LocalStudent(load_model(path, model, trainable=False), drawn, on_progress)
    identity = [checkpoint(path), model.model_dump(), drawn.model_dump()]
    return KeptAttempts(student, kept_folder(root) / "attempts", identity)


def work_through(records: Sequence[Record], cast: Cast, max_iterations: int, seed: int, who: str) -> Enhanced:
    """The loop over all records, whoever takes part.

    Args:
        who: the student, for the log.

    Raises:
        TeacherError: a cap is reached, or no dialogue could be finished.
    """
    say(f"enhance  the student is {who}")
    dialogues = [Dialogue(_context(record), answer=record.answer) for record in records]
    failed = converse(dialogues, cast.student, cast.judge, cast.teacher, max_iterations, seed, _say_open)
    if len(failed) == len(records):
        raise TeacherError(f"no question could be worked on ({failed[0]}); mend that, or choose other models")
    places = [i for i in range(len(records)) if i not in failed]
    finished = [dialogues[i] for i in places]
    leaks = {"hint_leaks": cast.teacher.leaks.kept, "hint_leaks_caught": cast.teacher.leaks.caught}
    return Enhanced(
        [_with_thinking(records[i], dialogues[i]) for i in places],
        finished,
        _metrics(finished, len(failed)) | leaks,
        [_with_reason(records[i], why) for i, why in sorted(failed.items())],
        places,
    )


def bills(cast: Cast) -> Json:
    """What was used, for the metrics; how the calls went is said in the log."""
    asked = {"teacher": cast.teacher, "judge": cast.judge, "student_usage": cast.student}
    clients = {role: client for role, one in asked.items() for client in clients_of(one)}
    for client in clients.values():
        say(f"enhance  {client.report()}")
    return {role: client.bill() for role, client in clients.items()}


def clients_of(role: object) -> list[Client]:
    """The client of a role that asks a model through LiteLLM; none of others."""
    return [role.client] if isinstance(role, HintingTeacher | ModelJudge | BothJudges | ApiStudent) else []


def checkpoint(path: str) -> str:
    """What tells this student from others: the hash of its weights, or its name where they are not in the folder."""
    return weights_sha256(Path(path)) if any(Path(path).glob("*.safetensors")) else path


def student_path(settings: Settings, root: Path) -> tuple[str, str]:
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
        # What was enhanced before still has the thinking that it came with.
        "original_thinking": record.metadata.get("original_thinking", record.metadata.get("thinking")),
        "thinking": iterative_thinking(dialogue),
        "thinking_iterations": len(dialogue.turns),
        "thinking_converged": dialogue.converged,
    }
    return record.model_copy(update={"metadata": metadata})


def _with_reason(record: Record, reason: str) -> Record:
    return record.model_copy(update={"metadata": dict(record.metadata) | {"failed_because": reason}})


def _metrics(dialogues: Sequence[Dialogue], failed: int) -> Json:
    total = len(dialogues)
    return {
        "total_examples": total + failed,
        "enhanced_examples": total,
        "failed_examples": failed,
        "average_iterations": sum(len(dialogue.turns) for dialogue in dialogues) / total,
        "convergence_rate": sum(dialogue.converged for dialogue in dialogues) / total,
        "right_at_once": sum(dialogue.turns[0].correct for dialogue in dialogues) / total,
        "hints_given": sum(len(dialogue.hints) for dialogue in dialogues),
    }


def compare_blind(
    dialogues: Sequence[Dialogue], cast: Cast, most: int, max_iterations: int, seed: int, samples: int
) -> Json:
    """Convergence with hints against as many blind retries from the same first attempts.

    Args:
        most: of the questions are compared at most.
        samples: of the bootstrap.
    """
    hinted = random.Random(seed).sample(list(dialogues), min(most, len(dialogues)))
    blind = [replace(one, turns=[replace(one.turns[0], hint=None)]) for one in hinted]
    wrong = [dialogue for dialogue in blind if not dialogue.converged]
    failed = converse(wrong, cast.student, cast.judge, None, max_iterations - 1, seed + 1)
    lost = {id(wrong[i]) for i in failed}
    pairs = [(one, other) for one, other in zip(hinted, blind, strict=True) if id(other) not in lost]
    if not pairs:
        return {"blind_questions": 0}
    with_hints, without = ([dialogue.converged for dialogue in arm] for arm in zip(*pairs, strict=True))
    paired = paired_bootstrap(with_hints, without, samples, seed)
    return {
        "blind_questions": len(pairs),
        "blind_convergence_rate": sum(without) / len(pairs),
        "hint_gain": paired.delta,
        "hint_gain_low": paired.low,
        "hint_gain_high": paired.high,
    }
