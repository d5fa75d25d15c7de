"""Attempts of a local student that outlive a killed run, as the replies of API models do in the journal.

The attempts of an iteration are drawn together, so they are kept together: a run that is taken up again repeats at most
the iteration that was under way, and ends in the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luna.enhance.students import Attempter, Dialogue
from luna.kept import code_sha256
from luna.outputs import read_json, write_json


class KeptAttempts:
    """A student whose attempts are looked up before they are made.

    Args:
        folder: where they are kept; `forget` removes it.
        identity: all that its attempts depend on beside dialogues, seed and Luna's code: weights and settings.
    """

    def __init__(self, student: Attempter, folder: Path, identity: Sequence[Any]) -> None:
        self._student = student
        self._folder = folder
        self._identity = [*identity, code_sha256()]

    def attempt(self, dialogues: Sequence[Dialogue], seed: int) -> Sequence[Any]:
        asked = [self._identity, seed, [asdict(dialogue) for dialogue in dialogues]]
        path = self._folder / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]}.json"
        if not path.is_file():
            write_json(path, {"attempts": list(self._student.attempt(dialogues, seed))})
        attempts: list[str] = read_json(path)["attempts"]
        return attempts

    def forget(self) -> None:
        """Remove what is kept, at the end of a run."""
        shutil.rmtree(self._folder, ignore_errors=True)
