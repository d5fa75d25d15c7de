"""Is the loop better than more of the same? The child against controls that saw as many tokens.

    python benchmarks/controls.py --seeds 0 --seeds 1 --seeds 2 --work /tmp/controls

For each seed the repo is copied, one generation is grown there with `dvc repro`, and four controls are trained from
the same base or the same SFT rung for the same number of tokens (padding included), each with averaged weights:

* `continued pretraining`: the base reads on in its own corpus, in documents drawn anew;
* `plain SFT`: one longer run on the judged lessons;
* `SFT + CE`: the SFT rung trained on with cross-entropy instead of two teachers;
* `self-distillation`: both teachers are the SFT rung.

All are asked the same frozen items. Prints a Markdown table over seeds and writes it beside the runs.
"""

import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Json = dict[str, Any]
REPO = Path(__file__).resolve().parent.parent
SUITES = ("recall", "generalize")
PARTS = ("range", "composition")  # of generalize
CHILD = "child (two teachers)"


def main(
    work: Annotated[Path, typer.Option(help="Where the copies are grown.")],
    seeds: Annotated[list[int], typer.Option(help="Seeds of the runs.")],
    arms_only: Annotated[Path | None, typer.Option(help="Only train the controls of this grown copy.")] = None,
) -> None:
    """Grow, train the controls, compare."""
    if arms_only is not None:
        os.chdir(arms_only)
        Path("controls.json").write_text(json.dumps(train_arms(), indent=2) + "\n", encoding="utf-8")
        return
    results = {seed: grow(work / f"seed-{seed}", seed) for seed in seeds}
    table = render(results)
    (work / "controls.md").write_text(table, encoding="utf-8")
    print(table)


def grow(folder: Path, seed: int) -> Json:
    """One seed: a copy of the repo, its pipeline and its controls. A finished copy is not grown again."""
    if not (folder / "controls.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(REPO), str(folder)], check=True)
        params = folder / "params.yaml"
        text, changed = re.subn(r"(?m)^seed: \d+$", f"seed: {seed}", params.read_text(encoding="utf-8"))
        if changed != 1:
            raise SystemExit(f"{params}: has no single top-level seed")
        params.write_text(text, encoding="utf-8")
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        with (folder / "run.log").open("w") as log:
            subprocess.run(["dvc", "repro"], cwd=folder, env=environment, check=True, stdout=log, stderr=log)
            command = [
                sys.executable,
                __file__,
                "--work",
                str(folder),
                "--seeds",
                str(seed),
                "--arms-only",
                str(folder),
            ]
            source = {"PYTHONPATH": str((folder / "src").resolve())}
            subprocess.run(command, env=environment | source, check=True, stdout=log, stderr=log)
    controls: Json = json.loads((folder / "controls.json").read_text(encoding="utf-8"))
    metrics = {
        name: json.loads((folder / f"metrics/{name}.json").read_text()) for name in ("enhance", "eval", "distill")
    }
    return {"arms": controls, **metrics}


def train_arms() -> Json:
    """Train every control of the grown copy in the current folder and ask all of them."""
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
    child = load_model("models/luna", settings.preset.model, trainable=False)
    arms: dict[str, Callable[[], tuple[LoadedModel, int]]] = {
        CHILD: lambda: (child, sum(tokens)),
        "plain SFT": lambda: plain_sft(settings),
        "SFT + CE": lambda: second_rung(settings, tokens[0], alpha=1.0, beta=0.0),
        "self-distillation": lambda: second_rung(settings, tokens[0], critic="models/sft"),
        "continued pretraining": lambda: continued_pretraining(settings, sum(tokens)),
        "SFT rung (fewer tokens)": lambda: (
            load_model("models/sft", settings.preset.model, trainable=False),
            tokens[0],
        ),
        "base (no tokens)": lambda: (load_model("models/base", settings.preset.model, trainable=False), 0),
    }
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


def plain_sft(settings: Any) -> Any:
    """SFT for the steps of both rungs in one schedule."""
    from luna.train_sft.run import start_student

    steps = settings.preset.sft.max_steps + settings.preset.distill.max_steps
    training = settings.preset.sft.model_copy(update={"max_steps": steps})
    loaded = start_student(settings, "models/base")
    return loaded, _train(settings, loaded, _lessons(settings, loaded), training, settings.params.seed)


def second_rung(
    settings: Any, tokens: int, *, alpha: float | None = None, beta: float | None = None, critic: str = "models/base"
) -> Any:
    """The distillation rung with another loss or another critic; the same steps, seed and examples as the child's."""
    from dataclasses import replace

    from luna.distill.loss import Blend
    from luna.distill.trainer import DistillTrainer
    from luna.lm.load import load_model
    from luna.train_sft.run import start_student

    model = settings.preset.model
    loaded = start_student(settings, "models/sft")
    blend = Blend.from_params(settings.params)
    if alpha is not None and beta is not None:
        blend = replace(blend, alpha=alpha, beta=beta)
    seen = _train(
        settings,
        loaded,
        _lessons(settings, loaded),
        settings.preset.distill,
        settings.params.seed + 1,
        DistillTrainer,
        primary=load_model("models/sft", model, trainable=False).model,
        critic=load_model(critic, model, trainable=False).model,
        blend=blend,
        taboo_ids=None,
    )
    return loaded, tokens + seen


def continued_pretraining(settings: Any, tokens: int) -> Any:
    """The last rung of pretraining goes on, with the schedule of SFT and documents it has not read yet."""
    from luna.pretrain.documents import encode_corpus, write_corpus
    from luna.train_sft.run import start_student

    loaded = start_student(settings, "models/base")
    training = settings.preset.sft
    rung = settings.preset.pretrain.rungs[-1]
    fresh = random.Random(900_000 + settings.params.seed)
    sample = encode_corpus(loaded.tokenizer, write_corpus(fresh, rung, 500))
    mean_length = statistics.mean(len(example["input_ids"]) for example in sample)
    steps = math.ceil(tokens / (mean_length * 1.02 * training.batch_size))  # 2 % of a batch is padding
    examples = encode_corpus(loaded.tokenizer, write_corpus(fresh, rung, steps * training.batch_size))
    seen = _train(settings, loaded, examples, training.model_copy(update={"max_steps": steps}), settings.params.seed)
    return loaded, seen


def _lessons(settings: Any, loaded: Any) -> Any:
    from luna.records import read_records
    from luna.training.lessons import encode_lessons

    return encode_lessons(
        loaded.tokenizer, read_records(Path("data/judged.jsonl")), settings.preset, settings.params.seed
    )


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
        "| seed | child - parent, generalize [95 % paired] | convergence | blind | gain | iterations | leaks |",
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for seed in seeds:
        paired, enhance = results[seed]["eval"]["paired"]["parent"]["generalize"], results[seed]["enhance"]
        lines.append(
            f"| {seed} | {paired['delta']:+.3f} [{paired['low']:+.3f}, {paired['high']:+.3f}]"
            f" | {enhance['convergence_rate']:.3f} | {enhance['blind_convergence_rate']:.3f}"
            f" | {enhance['hint_gain']:+.3f} [{enhance['hint_gain_low']:+.3f}, {enhance['hint_gain_high']:+.3f}]"
            f" | {enhance['average_iterations']:.2f} | {enhance['hint_leaks']} |"
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
