"""Why Luna blends predictions and never averages weights: both, on real generations, asked the same frozen items.

    python benchmarks/averaging.py --work /tmp/averaging

Two ladders are grown from two seeds (two bases, made from nothing each), two generations high. Then pairs of
generations are joined in both ways, half and half:

* `weights`: one model whose weights are the mean of both;
* `logits`: both models, every token from the mean of their logits.

Pairs of one lineage (a child and its parent) and pairs of independent lineages (the same generation of both ladders)
are asked; the tokenizer is the same for all. Prints a Markdown table and writes it beside the runs.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

REPO = Path(__file__).resolve().parent.parent
SEEDS = (0, 1)
TAGS = ("Luna-G001", "Luna-G002")
SUITES = ("recall", "generalize")


def main(work: Annotated[Path, typer.Option(help="Where the ladders are grown.")]) -> None:
    """Grow, join, ask, compare."""
    ladders = [grow(work / f"seed-{seed}", seed) for seed in SEEDS]
    models = {(seed, tag): fetch(folder, tag) for seed, folder in zip(SEEDS, ladders, strict=True) for tag in TAGS}
    os.chdir(ladders[0])
    pairs = {f"one lineage: {TAGS[0]} and {TAGS[1]}, seed {seed}": [(seed, tag) for tag in TAGS] for seed in SEEDS}
    pairs |= {f"independent: {tag} of seeds 0 and 1": [(seed, tag) for seed in SEEDS] for tag in TAGS}
    table = render({name: compare([models[one] for one in pair]) for name, pair in pairs.items()})
    (work / "averaging.md").write_text(table, encoding="utf-8")
    print(table)


def grow(folder: Path, seed: int) -> Path:
    """A clone with two generations grown from a seed. Existing ones are taken as they are."""
    if not folder.is_dir():
        subprocess.run(["git", "clone", "-q", str(REPO), str(folder)], check=True)
    folder = folder.resolve()
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(re.sub(r"(?m)^seed: \d+$", f"seed: {seed}", text), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    for tag in TAGS:
        known = subprocess.run(["git", "rev-parse", "-q", "--verify", f"refs/tags/{tag}"], cwd=folder, check=False)
        if known.returncode:
            command = [sys.executable, "-m", "luna.cli", "grow"]
            subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder


def fetch(folder: Path, tag: str) -> Path:
    """The weights of a tag in a folder of their own."""
    from luna.generations.at_tag import at_tag

    target = folder / ".luna" / "averaging" / tag
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with at_tag(folder, tag, "its weights are") as there:
        there.files.get("models/luna", str(target), recursive=True)
    return target


def compare(folders: list[Path]) -> dict[str, dict[str, float]]:
    """Accuracies of both models, of their averaged weights and of their averaged logits."""
    import torch

    from luna.lm.ensemble import Ensemble
    from luna.lm.load import LoadedModel, load_model
    from luna.settings import load_settings

    settings = load_settings()

    def load(folder: Path) -> LoadedModel:
        return load_model(str(folder), settings.preset.model, trainable=False)

    first, second = (load(folder) for folder in folders)
    averaged = load(folders[0])
    with torch.no_grad():
        for mine, other in zip(averaged.model.parameters(), second.model.parameters(), strict=True):
            mine.lerp_(other, 0.5)
    together = LoadedModel(Ensemble([first.model, second.model]), first.tokenizer, first.settings)
    arms = {"first": load(folders[0]), "second": load(folders[1]), "weights": averaged, "logits": together}
    return {name: ask_all(settings, loaded, name) for name, loaded in arms.items()}


def ask_all(settings: Any, loaded: Any, name: str) -> dict[str, float]:
    """Accuracy on each suite of the first ladder's frozen items."""
    from luna.eval_set.items import read_items
    from luna.evaluate.asking import accuracy, ask

    items = read_items(Path("data/eval"))
    asked = ask(settings, loaded, items, name)
    return {suite: accuracy(items, asked, suite) for suite in SUITES}


def render(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """A Markdown table: recall / generalize of each arm."""
    arms = ["first", "second", "weights", "logits"]
    lines = [f"| pair | {' | '.join(arms)} |", "| --- " * (len(arms) + 1) + "|"]
    for pair, found in results.items():
        cells = [f"{found[arm]['recall']:.3f} / {found[arm]['generalize']:.3f}" for arm in arms]
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
