"""A tiny model of the embedded kind, made on the spot, and settings that fit it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported: no test asks a hub

import json
import random
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from luna.arithmetic.corpus import document, level_weights, thinking_reply
from luna.arithmetic.layouts import solve
from luna.arithmetic.problems import LEVELS, SKILLS, Problem, sample
from luna.arithmetic.tutor import hint, judge
from luna.arithmetic.wording import ask
from luna.records import Record
from luna.settings import Endpoint, Settings, load_settings

hypothesis.settings.register_profile("luna", derandomize=True, deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("luna")

REPO = Path(__file__).parents[1]
QUICK = {"epochs": None, "max_steps": 3, "batch_size": 4, "gradient_accumulation": 1, "save_steps": None}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first, by the time they are allowed, then those with many tests: xdist deals them in this order.

    A slow file that is handed out last would run alone, with the other processors idle.
    """
    tests = Counter(item.path for item in items)
    seconds: dict[Path, int] = dict.fromkeys(tests, 0)
    for item in items:
        for name in ("slow", "timeout"):
            for mark in item.iter_markers(name):
                seconds[item.path] = max(seconds[item.path], *mark.args, 1)
    items.sort(key=lambda item: (-seconds[item.path], -tests[item.path]))


@pytest.fixture(scope="session")
def copy_of_luna() -> Callable[[Path], None]:
    """Writes this tree as it stands, uncommitted changes included, into a folder that becomes a repository."""
    listed = ["git", "-C", str(REPO), "ls-files", "-z", "-co", "--exclude-standard"]

    def copy(root: Path) -> None:
        for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
            if (REPO / name).is_file():  # deleted files are still listed
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPO / name, root / name)

    return copy


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights, a tokenizer that knows arithmetic, and what `load_model` needs beside them."""
    from luna.lm.load import save_model
    from luna.lm.scratch import random_llama, train_tokenizer

    rng, skills = random.Random(0), level_weights([1.0] * LEVELS)
    documents = [document(rng, kind, skills) for kind in ("worked", "hinted") for _ in range(200)]
    tokenizer = train_tokenizer(("".join(segment.text for segment in doc) for doc in documents), 320)
    shape = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_length": 512}
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_model(random_llama(tokenizer, seed=0, **shape), tokenizer, folder, "# tiny\n")
    return folder


@pytest.fixture(scope="session")
def tiny_settings() -> Callable[..., Settings]:
    """Settings of the embedded default, cut down to the tiny model; `params` and `preset` replace what they name."""
    loaded = load_settings(REPO)
    preset = loaded.preset.model_copy(
        update={
            "model": loaded.preset.model.model_copy(update={"max_length": 512, "lora": None}),
            "student": loaded.preset.student.model_copy(update={"max_new_tokens": 8, "batch_size": 64}),
            "lessons": loaded.preset.lessons.model_copy(update={"after_hint": 1.0}),
            "sft": loaded.preset.sft.model_copy(update=QUICK),
            "distill": loaded.preset.distill.model_copy(update=QUICK),
        }
    )
    evaluation = loaded.params.evaluate.model_copy(update={"recall_items": 14, "generalize_items": 8})
    first = {"generation": "Luna-G001", "parent": None, "grandparent": None, "seed": 0, "threads": 1}
    wired = {"student_init": "sft", "teachers": loaded.params.teachers.model_copy(update={"critic": "parent"})}
    base = loaded.params.model_copy(update={**first, **wired, "evaluate": evaluation})

    def make(params: dict[str, Any] | None = None, preset_: dict[str, Any] | None = None) -> Settings:
        return Settings(params=base.model_copy(update=params or {}), preset=preset.model_copy(update=preset_ or {}))

    return make


@pytest.fixture(scope="session")
def make_root(tiny_model_folder: Path) -> Callable[[Path], None]:
    """Makes a folder a root as the stages see it: a base, and parents that are this base."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_model_folder, folder / "models" / "base")
        shutil.copy(REPO / "laws.yaml", folder / "laws.yaml")
        base = {"gen": None, "source": "base", "path": "models/base"}
        (folder / "models" / "teachers").mkdir()
        (folder / "models" / "teachers" / "teachers.json").write_text(json.dumps({"parent": base, "grandparent": base}))

    return make


@pytest.fixture
def luna_root(tmp_path: Path, make_root: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a root, the working directory at once."""
    make_root(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path()


def write_wrong(lines: list[str], index: int) -> list[str]:
    """The same lines with the last digit of one of them changed."""
    line = lines[index]
    return [*lines[:index], line[:-1] + str((int(line[-1]) + 1) % 10), *lines[index + 1 :]]


def _attempts(problem: Problem, wrong: int) -> list[dict[str, Any]]:
    """`wrong` attempts with a hint each, then the right one, as the judge stage leaves them in a record."""
    lines = solve(problem)
    turns = []
    for number in range(wrong):
        reply = thinking_reply(write_wrong(lines, len(lines) - 2), problem.answer + 1)
        verdict = judge(problem, reply)
        said = hint(problem, reply, firm=number > 0)
        turns.append((reply, False, verdict.reason, verdict.first_wrong_line, said))
    turns.append((thinking_reply(lines, problem.answer), True, "right", None, None))
    names = ("attempt", "correct", "reason", "first_wrong_line", "hint")
    return [dict(zip(names, turn, strict=True)) for turn in turns]


@pytest.fixture(scope="session")
def accepted_records() -> list[Record]:
    """Twelve records as the judge stage accepts them: right at once, after one hint and after two, in turn."""
    rng = random.Random(3)
    records = []
    for number in range(12):
        problem = sample(rng, list(SKILLS.values())[number % len(SKILLS)])
        messages = [
            {"role": "user", "content": ask(rng, problem)},
            {"role": "assistant", "content": str(problem.answer)},
        ]
        metadata = {"id": f"r{number}", "thinking": "thought", "attempts": _attempts(problem, number % 3)}
        records.append(Record.model_validate({"messages": messages, "metadata": metadata}))
    return records


Answer = Callable[[list[dict[str, str]]], str]


@pytest.fixture
def loopback_teacher() -> Iterator[Callable[[Answer], Endpoint]]:
    """Serves a function from messages to a reply in OpenAI's protocol, one call at a time; 100 + 50 tokens a call."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answer: Answer) -> Endpoint:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _chat_handler(answer))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        base = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return Endpoint(model="hosted_vllm/m", api_base=base, concurrency=1)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def _chat_handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            message = {"role": "assistant", "content": answer(request["messages"])}
            reply = {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
            }
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler
