"""Student, teacher and judge on loopback: one server that tells them apart by what they are asked."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from fault_server import FaultServer

HINT = "Look at the second sentence again."


class Roles(FaultServer):
    """A student that is right as soon as it is hinted at its mistake.

    Questions with "easy" in them it answers at once, those with "never" not at all. The judge accepts what holds RIGHT.

    Attributes:
        hint: what the teacher says, by the seed it is asked with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hint = lambda seed: HINT
        self.say = self._say

    def _say(self, body: dict[str, Any]) -> str:
        role, asked = role_of(body), str(body["messages"][-1]["content"])
        if role == "judge":
            return json.dumps({"correct": "RIGHT" in asked.partition("<attempt>")[2], "reason": "so it is"})
        if role == "teacher":
            return json.dumps({"hint": self.hint(body.get("seed") or 0)})
        question = " ".join(turn["content"] for turn in body["messages"])
        hinted = body["messages"][-2]["content"].startswith("WRONG") if len(body["messages"]) > 1 else False
        return "RIGHT, I see." if "never" not in question and ("easy" in question or hinted) else "WRONG, perhaps."

    def asked(self, role: str) -> list[dict[str, Any]]:
        return [body for body in self.requests if role_of(body) == role]

    @property
    def roles(self) -> dict[str, Any]:
        """The three roles for a `StudentTeacherConfig`: an API student among them."""
        bases = {f"{role}_api_base": self.api_base for role in ("student", "teacher", "judge")}
        models = {f"{role}_model": f"hosted_vllm/{role}" for role in ("student", "teacher", "judge")}
        return {**models, **bases, "use_local_student": False}


def role_of(body: dict[str, Any]) -> str:
    rules = str(body["messages"][0]["content"])
    return "judge" if '{"correct"' in rules else "teacher" if '{"hint"' in rules else "student"


@pytest.fixture
def roles() -> Iterator[Roles]:
    server = Roles()
    server.start()
    yield server
    server.close()
