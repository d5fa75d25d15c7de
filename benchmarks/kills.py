"""Kill the stages of the data engine at seeded moments: what is paid twice, and do the files come out the same?

    python benchmarks/kills.py --moments 10

runs the real stages (generate, enhance, judge) in processes of their own, with a deterministic teacher and a judge that
are reached over HTTP on loopback (fault_server.py, which counts) and a tiny student with random weights. Each trial
begins with a fresh tree, sends SIGKILL or SIGTERM at its moment, runs the stage again and compares every file with that
of an undisturbed run. It prints a Markdown table:

* `calls` are those of an undisturbed run; the judge stage asks nobody, since verdicts are asked for by enhance;
* `in flight` is the largest number of calls that were out at a signal, `repeated` the largest number of calls that a
  trial sent beyond those of the undisturbed run;
* `same` is how many trials ended with the same bytes in every file.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
sys.path.insert(0, str(HERE))  # of the processes too
from fault_server import FaultServer  # noqa: E402

AT_ONCE = 6
LATENCY = 0.1  # seconds
OUTPUTS = {
    "generate": ("data/raw.jsonl", "data/raw.md", "data/raw_failed.jsonl", "metrics/generate.json"),
    "enhance": ("data/enhanced.jsonl", "data/dialogues.jsonl", "data/enhanced_failed.jsonl", "metrics/enhance.json"),
    "judge": ("data/judged.jsonl", "data/rejected.jsonl", "metrics/judge.json"),
}
# What a stage imports, so that a trial measures the stage and not its imports.
PRELOADED = ["litellm", "torch", "transformers.models.llama.modeling_llama", "luna.llm.client"]
PRELOADED += ["luna.enhance.run", "luna.generate.run", "luna.judge.run", "luna.lm.sample"]


@dataclass(frozen=True)
class Trial:
    """How a run that was disturbed ended: `calls` are those of both its processes."""

    calls: int
    in_flight: int
    same: bool


class Kills:
    """A tree in which the stages have run undisturbed, and trials that are held against it.

    Args:
        folder: for trees; it must be empty.
        model: a folder with the student.
        examples: to be generated.
    """

    def __init__(self, folder: Path, model: Path, server: FaultServer, examples: int) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # for those who import it before Luna does
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._folder, self._server = folder, server
        self.calm = folder / "calm"
        self.calls: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        _prepare(self.calm, model, server.api_base, examples)
        for stage in ("eval_set", *OUTPUTS):
            before, began = server.counts["all"], time.monotonic()
            assert self._run(self.calm, stage) == 0, (self.calm / f"{stage}.log").read_text()
            self.calls[stage], self.seconds[stage] = server.counts["all"] - before, time.monotonic() - began

    def trial(self, stage: str, number: signal.Signals, rng: random.Random) -> Trial:
        """Disturb a stage at a moment of `rng`'s choice and run it again."""
        tree = self._fresh(stage)
        before = self._server.counts["all"]
        process = self._start(tree, stage)
        self._wait_for_the_moment(process, stage, before, rng)
        in_flight = self._server.running
        if process.exitcode is None:
            os.kill(process.pid, number)
        process.join()
        while self._server.running:
            time.sleep(0.005)
        assert self._run(tree, stage) == 0, (tree / f"{stage}.log").read_text()
        same = all((tree / name).read_bytes() == (self.calm / name).read_bytes() for name in OUTPUTS[stage])
        shutil.rmtree(tree)
        return Trial(self._server.counts["all"] - before, in_flight, same)

    def _wait_for_the_moment(self, process: Any, stage: str, before: int, rng: random.Random) -> None:
        """Some call, and some share of its latency after it; without calls, some share of an undisturbed run."""
        if not self.calls[stage]:
            process.join(rng.random() * self.seconds[stage])
            return
        wanted = before + rng.randint(1, self.calls[stage])
        while self._server.counts["all"] < wanted and process.exitcode is None:
            time.sleep(0.001)
        time.sleep(rng.random() * LATENCY)

    def _fresh(self, stage: str) -> Path:
        """The tree as it was before a stage ran."""
        tree = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copytree(self.calm, tree, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".luna", "*.log"))
        for name in OUTPUTS[stage]:
            (tree / name).unlink()
        return tree

    def _run(self, tree: Path, stage: str) -> int:
        process = self._start(tree, stage)
        process.join()
        code: int = process.exitcode
        return code

    def _start(self, tree: Path, stage: str) -> Any:
        process = self._context.Process(target=_stage, args=(tree, stage))
        process.start()
        return process


def _stage(tree: Path, name: str) -> None:
    """What a process does: the script of a stage, in its tree."""
    import runpy

    os.chdir(tree)
    with Path(f"{name}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        runpy.run_path(str(REPO / "stages" / f"{name}.py"))["main"]()


def _prepare(tree: Path, model: Path, api_base: str, examples: int) -> None:
    """A tree before its stages: settings, a student, and what the frontier would have said."""
    import yaml

    from luna.outputs import write_json

    tree.mkdir()
    params = yaml.safe_load((REPO / "params.yaml").read_text())
    params["generate"] |= {"num_examples": examples, "frontier": None}
    params["enhance"] |= {"blind_retries": examples // 2}
    params["evaluate"] |= {"recall_items": 14, "generalize_items": 8}
    preset = yaml.safe_load((REPO / "presets" / "embedded.yaml").read_text())
    served = {"api_base": api_base, "concurrency": AT_ONCE, "price": "free"}
    preset["teacher"] = {"model": "hosted_vllm/teacher", **served}
    preset["judge"] = {"model": "hosted_vllm/judge", "temperature": 0.0, **served}
    preset["student"] |= {"max_new_tokens": 8, "batch_size": 16}
    for name, value in (("params.yaml", params), ("presets/embedded.yaml", preset)):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(yaml.safe_dump(value))
    shutil.copy(REPO / "laws.yaml", tree)
    shutil.copytree(model, tree / "models" / "base")
    base = {"gen": None, "source": "base", "path": "models/base"}
    write_json(tree / "models" / "teachers" / "teachers.json", {"parent": base, "grandparent": base})
    write_json(tree / "metrics" / "frontier.json", {"weights": None})


@contextmanager
def teaching() -> Iterator[FaultServer]:
    """A server that says what the rule-based tutor says, and counts how often it is asked."""
    from luna.llm import tutor

    server = FaultServer(LATENCY, remember=False)
    server.say = lambda body: tutor.answer(body["messages"], body.get("seed"))
    server.start()
    try:
        yield server
    finally:
        server.close()


def tiny_model(folder: Path) -> Path:
    """A student with random weights."""
    from luna.arithmetic.corpus import document, level_weights
    from luna.lm.load import save_model
    from luna.lm.scratch import random_llama, train_tokenizer

    rng, skills = random.Random(0), level_weights([1.0] * 6)
    documents = (document(rng, "worked", skills) for _ in range(300))
    tokenizer = train_tokenizer(("".join(segment.text for segment in one) for one in documents), 320)
    shape = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_length": 512}
    save_model(random_llama(tokenizer, seed=0, **shape), tokenizer, folder, "# tiny\n")
    return folder


def compare(moments: int = 10, examples: int = 40, seed: int = 0, only: str | None = None) -> None:
    """Run all trials, or those of one stage only, and print the table, row by row."""
    columns = ["stage", "signal", "moments", "calls", "in flight", "repeated", "same"]
    print("| " + " | ".join(columns) + " |\n| --- | --- |" + " ---: |" * (len(columns) - 2), flush=True)
    with tempfile.TemporaryDirectory() as folder, teaching() as server:
        kills = Kills(Path(folder), tiny_model(Path(folder) / "model"), server, examples)
        for stage in [only] if only else OUTPUTS:
            for number in (signal.SIGKILL, signal.SIGTERM):
                rng = random.Random(f"{seed} {stage} {number}")
                trials = [kills.trial(stage, number, rng) for _ in range(moments)]
                calls = kills.calls[stage]
                cells = [stage, number.name, moments, calls, max(trial.in_flight for trial in trials)]
                cells += [max(trial.calls for trial in trials) - calls, sum(trial.same for trial in trials)]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    import typer

    typer.run(compare)
