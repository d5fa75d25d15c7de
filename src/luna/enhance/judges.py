"""Who decides whether an attempt is right: the exact verifier, a model, or both of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from luna.answers import normalized
from luna.arithmetic.reading import false_statements
from luna.arithmetic.tutor import Verdict
from luna.arithmetic.tutor import judge as judge_exactly
from luna.arithmetic.wording import read as read_question
from luna.enhance.prompts import parse_verdict, verdict_messages
from luna.enhance.students import Dialogue
from luna.enhance.thinking import split_reply
from luna.llm.client import Client, Failure, Request
from luna.llm.journal import Journal
from luna.llm.replies import UnusableReplyError
from luna.lm.chat import Message
from luna.settings import Endpoint, JudgeEndpoint

T = TypeVar("T")


class Judge(Protocol):
    """Whoever decides whether attempts are right. A `Failure` stands where no verdict could be had."""

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> Sequence[Verdict | Failure]: ...


def make_judge(judge: Endpoint | str, journal: Journal | None = None, account: str = "") -> Judge:
    """The judge that settings name: a model, the exact verifier, or both."""
    if not isinstance(judge, Endpoint):
        return ExactJudge()
    model = ModelJudge(Client(judge, "judge", journal, account))
    return BothJudges(model) if isinstance(judge, JudgeEndpoint) and judge.kind == "both" else model


class ExactJudge:
    """The arithmetic verifier, in this process. Where it cannot compute, it accepts the expected answer itself."""

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> list[Verdict | Failure]:
        return [_exact(dialogue, attempt) for dialogue, attempt in zip(dialogues, attempts, strict=True)]


def _exact(dialogue: Dialogue, attempt: str) -> Verdict | Failure:
    problem = read_question(dialogue.question)
    if problem is not None:
        return judge_exactly(problem, attempt)
    thinking, answer = split_reply(attempt)
    expected = dialogue.answer is not None and normalized(answer) == normalized(dialogue.answer)
    if expected and not false_statements(thinking):
        return Verdict(True, None, "the answer is the expected one, word for word")
    return Failure(f"the exact judge cannot compute {dialogue.question[:80]!r}", "let a model judge such questions")


class ModelJudge:
    """A model behind LiteLLM as the judge. A verdict that cannot be read is asked for once more.

    Equal attempts at equal questions get one verdict, whoever made them and whenever. The embedded tutor computes by
    itself and is shown no expected answer.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> list[Verdict | Failure]:
        requests = [
            Request(self._messages(dialogue, attempt)) for dialogue, attempt in zip(dialogues, attempts, strict=True)
        ]
        return ask_and_read(self.client, requests, parse_verdict)

    def _messages(self, dialogue: Dialogue, attempt: str) -> list[Message]:
        if self.client.embedded:
            return verdict_messages(dialogue.question, attempt)
        return verdict_messages(dialogue.question, attempt, dialogue.answer, before=dialogue.context[:-1])


class BothJudges:
    """What can be computed is judged exactly, and the model is asked about the rest.

    So a model that errs about 15 x 13 is never asked about it.
    """

    def __init__(self, model: ModelJudge) -> None:
        self.client = model.client
        self._model = model

    def verdicts(self, dialogues: Sequence[Dialogue], attempts: Sequence[str]) -> list[Verdict | Failure]:
        out = ExactJudge().verdicts(dialogues, attempts)
        rest = [i for i, verdict in enumerate(out) if isinstance(verdict, Failure)]
        asked = self._model.verdicts([dialogues[i] for i in rest], [attempts[i] for i in rest]) if rest else []
        for i, verdict in zip(rest, asked, strict=True):
            out[i] = verdict
        return out


def ask_and_read(client: Client, requests: Sequence[Request], read: Callable[[str], T]) -> list[T | Failure]:
    """Ask, read each reply, and ask once more where it cannot be read; a `Failure` where there is nothing to read."""
    out: dict[int, T | Failure] = {}
    again = list(range(len(requests)))
    for round_ in range(2):
        asked = [replace(requests[i], seed=(requests[i].seed or 0) + round_) for i in again]
        for i, reply in zip(again, client.ask_all(asked), strict=True):
            try:
                out[i] = reply if isinstance(reply, Failure) else read(reply.text)
            except UnusableReplyError as error:
                if round_:
                    out[i] = Failure(f"no reply that can be read, twice ({error})", "choose another model")
        again = [i for i in again if i not in out]
        if not again:
            break
    return [out[i] for i in range(len(requests))]
