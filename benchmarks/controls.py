"""Is the loop better than more of the same, generation by generation? The child against arms with as many tokens.

    python benchmarks/controls.py --seeds 0 --seeds 1 --seeds 2 --generations 3 --armed 2 --work /tmp/controls

For each seed the repo is cloned and generations are grown there as users do (`luna next`, `dvc repro`, `luna release`).
Before each release the arms are trained from the same parent, the same lessons (replay included) or the same SFT rung,
for the same number of tokens (padding included), each with averaged weights:

* `plain SFT`: one longer run on the lessons;
* `SFT + CE`: the SFT rung trained on with cross-entropy instead of two teachers;
* `self-distillation`: both teachers are the SFT rung;
* `literal parent/grandparent`: student and T1 are the parent, T2 is its parent, for the steps of both rungs (from the
  second generation on; the first has only the base);
* `continued pretraining`: the base reads on in its own corpus, in documents drawn anew (first generation only).

All are asked the same frozen items. Generations after the first `--armed` ones are grown without arms. Prints a
Markdown table for each generation and writes it beside the runs.
"""

import json
import math
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Json = dict[str, Any]
REPO = Path(__file__).resolve().parent.parent
SUITES = ("recall", "generalize")
PARTS = ("range", "composition")  # of generalize
CHILD = "child (two teachers)"
FIRST = "Luna-G001"


def main(
    work: Annotated[Path, typer.Option(help="Where the clones are grown.")],
    seeds: Annotated[list[int], typer.Option(help="Seeds of the runs.")],
    generations: Annotated[int, typer.Option(help="How many generations of each.")] = 1,
    armed: Annotated[int | None, typer.Option(help="How many of them get arms; none given: all.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of a run; none given: as params.yaml says.")] = None,
    arms_only: Annotated[bool, typer.Option(help="Only train the arms of the generation in this folder.")] = False,
) -> None:
    """Grow, train the arms, compare."""
    if arms_only:
        found = json.dumps(train_arms(controls=armed != 0), indent=2) + "\n"
        arms_of(Path.cwd(), json.loads(Path("generation.json").read_text())["generation"]).write_text(found)
        return
    results: dict[str, dict[int, Json]] = {}
    for seed in seeds:
        for name, generation in climb(work / f"seed-{seed}", seed, generations, armed, threads).items():
            results.setdefault(name, {})[seed] = generation
    table = "\n".join(f"## {name}\n\n{render(of_seeds)}" for name, of_seeds in results.items())
    (work / f"controls-{'-'.join(map(str, seeds))}.md").write_text(table, encoding="utf-8")
    print(table)


def climb(folder: Path, seed: int, generations: int, armed: int | None, threads: int | None) -> dict[str, Json]:
    """The arms and metrics of each generation of one seed; what is there already is not grown again.

    A rejected generation is the last of its seed.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        subprocess.run(["git", "clone", "-q", str(REPO), str(folder)], check=True)
        subprocess.run(["git", "config", "user.name", "Luna"], cwd=folder, check=True)
        subprocess.run(["git", "config", "user.email", "luna@localhost"], cwd=folder, check=True)
        dial(folder, {"seed": seed} | ({} if threads is None else {"threads": threads}))
    out: dict[str, Json] = {}
    for number in range(1, generations + 1):
        name = f"Luna-G{number:03d}"
        metrics = folder / ".luna" / f"{name}.json"
        if not metrics.is_file():
            grow(folder, name, metrics, arms=armed is None or number <= armed)
        out[name] = json.loads(metrics.read_text())
        if out[name]["verdict"] != "PROMOTED":
            break
    return out


def dial(folder: Path, values: dict[str, int]) -> None:
    """Set whole numbers at the top of params.yaml and commit them."""
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8")
    for key, value in values.items():
        text, changed = re.subn(rf"(?m)^{key}: \d+", f"{key}: {value}", text)
        if changed != 1:
            raise SystemExit(f"{params}: has no single top-level {key}")
    params.write_text(text, encoding="utf-8")
    subprocess.run(["git", "commit", "-qam", "Set the dials of the run", "--allow-empty"], cwd=folder, check=True)


def grow(folder: Path, name: str, metrics: Path, *, arms: bool) -> None:
    """One generation, with its arms or without, released; metrics, arms and what it cost are kept in one file."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
    }
    train = [sys.executable, str(Path(__file__).resolve()), "--work", str(folder), "--seeds", "0", "--arms-only"]
    with (folder.parent / f"{folder.name}.log").open("a") as log:

        def run(command: list[str], expected: int = 0) -> None:
            done = subprocess.run(command, cwd=folder, env=environment, check=False, stdout=log, stderr=log)
            if done.returncode not in (0, expected):
                raise SystemExit(f"{' '.join(command)} failed; see {log.name}")

        start = time.perf_counter(), cpu_seconds()
        if name != FIRST:
            run(["luna", "next"])
        run(["dvc", "repro"])
        cost = {"seconds": time.perf_counter() - start[0], "cpu_seconds": cpu_seconds() - start[1]}
        run([*train, "--armed", str(int(arms))])
        read = {key: json.loads((folder / f"metrics/{key}.json").read_text()) for key in ("enhance", "eval", "distill")}
        verdict = json.loads((folder / "generation.json").read_text())["verdict"]
        run(["luna", "release"], expected=2)  # its status where a generation was rejected
    trained = json.loads(arms_of(folder, name).read_text())
    found = {"arms": trained, "verdict": verdict, "cost": cost, **read}
    metrics.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def cpu_seconds() -> float:
    """What the commands run so far have computed, on all processors together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def arms_of(folder: Path, name: str) -> Path:
    """Where the results of a generation's arms are kept: in the ignored folder, so that no release meets them."""
    return folder / ".luna" / f"{name}-arms.json"


def train_arms(*, controls: bool) -> Json:
    """Train every arm of the generation in the current folder and ask all of them; without controls only its own."""
    from luna.eval_set.items import read_items
    from luna.evaluate.asking import SUITES, accuracy, ask
    from luna.lm.load import LoadedModel, load_model
    from luna.lm.reproducible import set_reproducible
    from luna.outputs import read_json
    from luna.settings import load_settings

    settings = load_settings()
    set_reproducible(settings.params.seed, settings.params.threads)
    items = read_items(Path("data/eval"))
    tokens = [read_json(Path(f"metrics/{stage}.json"))["tokens_seen"] for stage in ("train_sft", "distill")]
    known = read_json(Path("models/teachers/teachers.json"))
    parent, grandparent = known["parent"]["path"], known["grandparent"]["path"]

    def frozen(path: str, seen: int) -> tuple[LoadedModel, int]:
        return load_model(path, settings.preset.model, trainable=False), seen

    arms: dict[str, Callable[[], tuple[LoadedModel, int]]] = {CHILD: lambda: frozen("models/luna", sum(tokens))}
    trained: dict[str, Callable[[], tuple[LoadedModel, int]]] = {
        "plain SFT": lambda: plain_sft(settings, parent),
        "SFT + CE": lambda: second_rung(settings, tokens[0], critic=parent, alpha=1.0, beta=0.0),
        "self-distillation": lambda: second_rung(settings, tokens[0], critic="models/sft"),
    }
    if settings.params.parent is None:
        trained["continued pretraining"] = lambda: continued_pretraining(settings, sum(tokens))
    else:
        trained["literal parent/grandparent"] = lambda: literal(settings, parent, grandparent)
    arms |= trained if controls else {}
    arms |= {"SFT rung (fewer tokens)": lambda: frozen("models/sft", tokens[0]), "parent": lambda: frozen(parent, 0)}
    out: Json = {}
    for name, train in arms.items():
        loaded, seen = train()
        asked = ask(settings, loaded, items, name)
        parts = {part: statistics.mean(right_of(items, asked.right, part)) for part in PARTS}
        out[name] = {suite: accuracy(items, asked, suite) for suite in SUITES} | parts | {"tokens": seen}
    return out


def right_of(items: Any, right: list[bool], family: str) -> list[bool]:
    """Right or wrong for the items of one family."""
    return [one for item, one in zip(items, right, strict=True) if item.family == family]


def both_rungs(settings: Any) -> Any:
    """How SFT is trained, for the steps of both rungs and down to a rate of 0."""
    steps = settings.preset.sft.max_steps + settings.preset.distill.max_steps
    return settings.preset.sft.model_copy(update={"max_steps": steps, "final_rate": 0.0})


def plain_sft(settings: Any, parent: str) -> Any:
    """SFT for the steps of both rungs in one schedule."""
    from luna.train_sft.run import start_student

    loaded = start_student(settings, parent)
    return loaded, _train(settings, loaded, _examples(settings, loaded), both_rungs(settings), settings.params.seed)


def second_rung(
    settings: Any, tokens: int, *, critic: str, alpha: float | None = None, beta: float | None = None
) -> Any:
    """The distillation rung with another loss or another critic; the same steps, seed and examples as the child's."""
    training = settings.preset.distill
    loaded, seen = _distil(settings, "models/sft", "models/sft", critic, training, alpha=alpha, beta=beta)
    return loaded, tokens + seen


def literal(settings: Any, parent: str, grandparent: str) -> Any:
    """The parent learns from itself and from its own parent, for the steps of both rungs."""
    return _distil(settings, parent, parent, grandparent, both_rungs(settings))


def _distil(
    settings: Any,
    start: str,
    primary: str,
    critic: str,
    training: Any,
    *,
    alpha: float | None = None,
    beta: float | None = None,
) -> Any:
    from dataclasses import replace

    from luna.distill.loss import Blend
    from luna.distill.teachers import load_teachers
    from luna.distill.trainer import DistillTrainer
    from luna.train_sft.run import start_student

    loaded = start_student(settings, start)
    blend = Blend.from_params(settings.params)
    if alpha is not None and beta is not None:
        blend = replace(blend, alpha=alpha, beta=beta)
    examples = _examples(settings, loaded)
    teachers = load_teachers(settings, loaded, (primary, critic), examples, Path())
    seen = _train(
        settings,
        loaded,
        examples,
        training,
        settings.params.seed + 1,
        DistillTrainer,
        primary=teachers[0],
        critic=teachers[1],
        blend=blend,
        taboo_ids=None,
    )
    return loaded, seen


def continued_pretraining(settings: Any, tokens: int) -> Any:
    """The last rung of pretraining goes on, with the schedule of SFT and documents it has not read yet."""
    from luna.pretrain.documents import encode_corpus, write_corpus
    from luna.train_sft.run import start_student

    loaded = start_student(settings, "models/base")
    training = both_rungs(settings)
    rung = settings.preset.pretrain.rungs[-1]
    fresh = random.Random(900_000 + settings.params.seed)
    sample = encode_corpus(loaded.tokenizer, write_corpus(fresh, rung, 500))
    mean_length = statistics.mean(len(example["input_ids"]) for example in sample)
    steps = math.ceil(tokens / (mean_length * 1.02 * training.batch_size))  # 2 % of a batch is padding
    examples = encode_corpus(loaded.tokenizer, write_corpus(fresh, rung, steps * training.batch_size))
    seen = _train(settings, loaded, examples, training.model_copy(update={"max_steps": steps}), settings.params.seed)
    return loaded, seen


def _examples(settings: Any, loaded: Any) -> Any:
    from luna.records import read_records
    from luna.train_sft.examples import gather_examples

    records = read_records(Path("data/judged.jsonl"))
    replay = read_records(Path("data/replay.jsonl"), allow_empty=True)
    return gather_examples(settings, loaded.tokenizer, records, replay).all


def _train(
    settings: Any, loaded: Any, examples: Any, training: Any, seed: int, trainer_class: Any = None, **extra: Any
) -> int:
    from luna.training.ema import AveragedWeights
    from luna.training.trainer import TokenTrainer, make_trainer

    weights = AveragedWeights(loaded.model, settings.params.distill.ema_decay)
    trainer, _ = make_trainer(
        trainer_class or TokenTrainer,
        loaded.model,
        loaded.tokenizer,
        examples,
        training,
        title="control",
        output_dir=Path(".luna/control"),
        seed=seed,
        callbacks=[weights],
        **extra,
    )
    trainer.train()
    weights.keep()
    return trainer.tokens_seen


def render(results: dict[int, Json]) -> str:
    """The table: every arm's mean and its paired difference to the child over seeds, then every seed."""
    seeds = list(results)
    arms = list(next(iter(results.values()))["arms"])
    lines = [f"Seeds {', '.join(map(str, seeds))}. Child minus control: mean and 95 % t-interval over seeds.", ""]
    lines += [
        "| arm | tokens | recall | child - arm | generalize | child - arm |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        values = {suite: [results[seed]["arms"][arm][suite] for seed in seeds] for suite in SUITES}
        ours = {suite: [results[seed]["arms"][CHILD][suite] for seed in seeds] for suite in SUITES}
        tokens = statistics.mean(results[seed]["arms"][arm]["tokens"] for seed in seeds)
        cells = []
        for suite in SUITES:
            differences = [a - b for a, b in zip(ours[suite], values[suite], strict=True)]
            cells += [f"{statistics.mean(values[suite]):.3f}", "" if arm == CHILD else interval(differences)]
        lines.append(f"| {arm} | {tokens / 1000:.0f} k | " + " | ".join(cells) + " |")
    lines += ["", "Recall / generalize of every seed:", "", *by_seed(results, arms, SUITES)]
    lines += [
        "",
        "Generalize in its two halves, sealed range / sealed compositions:",
        "",
        *by_seed(results, arms, PARTS),
    ]
    lines += [
        "",
        "| seed | verdict | generalize, child - parent [95 %] | convergence | blind | gain | iterations | leaks"
        " | CPU s |",
    ]
    lines += ["| --- |" + " --- |" * 8]
    for seed in seeds:
        paired, enhance = results[seed]["eval"]["paired"]["parent"]["generalize"], results[seed]["enhance"]
        verdict = results[seed]["verdict"]
        lines.append(
            f"| {seed} | {verdict} | {paired['delta']:+.3f} [{paired['low']:+.3f}, {paired['high']:+.3f}]"
            f" | {enhance['convergence_rate']:.3f} | {enhance['blind_convergence_rate']:.3f}"
            f" | {enhance['hint_gain']:+.3f} [{enhance['hint_gain_low']:+.3f}, {enhance['hint_gain_high']:+.3f}]"
            f" | {enhance['average_iterations']:.2f} | {enhance['hint_leaks']}"
            f" | {results[seed]['cost']['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def by_seed(results: dict[int, Json], arms: list[str], keys: tuple[str, str]) -> list[str]:
    """A row for each seed: two figures of every arm."""
    lines = ["| seed | " + " | ".join(arms) + " |", "| --- |" + " --- |" * len(arms)]
    for seed, found in results.items():
        cells = [" / ".join(f"{found['arms'][arm][key]:.3f}" for key in keys) for arm in arms]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    return lines


def interval(differences: list[float]) -> str:
    """Mean and two-sided 95 % interval of Student's t."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.3f}"
    # Quantiles of t at 0.975 for 1 .. 9 degrees of freedom.
    quantile = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)[min(len(differences), 10) - 2]
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


if __name__ == "__main__":
    typer.run(main)
