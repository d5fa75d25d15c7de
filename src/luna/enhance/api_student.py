"""A student that is reached through LiteLLM, for machines on which no model runs."""

from collections.abc import Callable, Sequence

from luna.enhance.students import Dialogue, retry_view
from luna.llm.client import Client, Failure, Request


class ApiStudent:
    """A model behind LiteLLM as the student. It sees its attempts and the hints as turns: few take a begun reply."""

    def __init__(self, client: Client, on_progress: Callable[[int], None] = lambda done: None) -> None:
        self.client = client
        self.on_progress = on_progress

    def attempt(self, dialogues: Sequence[Dialogue], seed: int) -> list[str | Failure]:
        views = [retry_view(dialogue, "transcript") for dialogue in dialogues]
        requests = [
            Request(view.messages, seed=seed, marks={"iteration": len(dialogue.turns) + 1})
            for view, dialogue in zip(views, dialogues, strict=True)
        ]
        replies = self.client.ask_all(requests, self.on_progress)
        return [reply if isinstance(reply, Failure) else reply.text for reply in replies]
