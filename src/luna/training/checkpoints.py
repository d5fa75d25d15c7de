"""Where an interrupted run is taken up: sealed checkpoints, kept beside the graph and gone when the run has ended.

A checkpoint holds weights, optimizer, schedule, random states, averages, and what the run had counted and logged, so
that a run that was killed ends in the same bytes as one that was not. It is used only if every file still has the
hash noted when it was complete, and only by a run that is the same in data, models, settings and code.

This module imports torch and transformers at once.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from luna.kept import code_sha256
from luna.lm.chat import Example
from luna.outputs import read_json
from luna.progress import say
from luna.ranks import is_first, wait_for_all, world_size
from luna.settings import Settings
from luna.training.trainer import StepLog, TokenTrainer

SEAL = "sealed.json"
COUNTED = "counted.json"


def run_key(settings: Settings, examples: Sequence[Example], models: Sequence[str]) -> str:
    """The hash of all that a run depends on: settings, examples, models (their own hashes), ranks and Luna's code."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    digest.update(json.dumps([*models, torch.__version__, world_size()]).encode())
    for example in examples:
        digest.update(json.dumps([example["input_ids"], example["labels"]]).encode())
    digest.update(code_sha256().encode())
    return digest.hexdigest()[:32]


class Sealing(TrainerCallback):
    """Completes each checkpoint by what the trainer has counted and logged, and by the hashes of all its files.

    It has to be the last callback: what others put into a checkpoint is sealed too.
    """

    def __init__(self, trainer: TokenTrainer, log: StepLog) -> None:
        self.trainer = trainer
        self.log = log

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        counted = Path(args.output_dir) / f"checkpoint-{state.global_step}" / COUNTED
        if state.global_step and counted.is_file():
            found = read_json(counted)
            self.log.rows = found["rows"]
            self.trainer.recount(found["counts"])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        counted = {"rows": self.log.rows, "counts": self.trainer.counts()}
        wait_for_all()  # each rank has put its random state into the folder
        if not is_first():
            return
        (folder / COUNTED).write_text(json.dumps(counted), encoding="utf-8")
        (folder / SEAL).write_text(json.dumps(_hashes(folder)), encoding="utf-8")


@contextmanager
def trained(trainer: TokenTrainer, log: StepLog) -> Iterator[None]:
    """Train to the end, from the newest sealed checkpoint of the same run if it was interrupted.

    The checkpoints lie in the trainer's output folder, which is named after the run. Beside it, those of other runs
    are removed at once; its own once the block is left, that is when the model is saved.
    """
    folder = Path(trainer.args.output_dir)
    if is_first():
        _clear(folder)
    wait_for_all()
    trainer.add_callback(Sealing(trainer, log))
    point = newest_sealed(folder)
    if point is not None:
        say(f"{log.title}  goes on from step {point.name.rpartition('-')[2]} of an interrupted run")
    trainer.train(resume_from_checkpoint=None if point is None else str(point))
    yield
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what other runs left beside `folder`, and what is torn in it."""
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other.name != folder.name:
            shutil.rmtree(other)
    newest_sealed(folder)


def newest_sealed(folder: Path) -> Path | None:
    """The newest complete checkpoint; what is newer and torn is removed."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda one: -int(one.name.rpartition("-")[2])):
        if _is_sealed(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _is_sealed(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")) == _hashes(checkpoint))
    except (FileNotFoundError, json.JSONDecodeError):  # the run was killed before or while it sealed
        return False


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
