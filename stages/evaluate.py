"""Ask the child, its parent, the base and plain SFT the same frozen questions.

python stages/evaluate.py
"""

from pathlib import Path

import typer

from luna.stage import ROOT, running


def main(
    source: Path = Path("data/judged.jsonl"),
    replay: Path = Path("data/replay.jsonl"),
    metrics: Path = Path("metrics/eval.json"),
    speed: Path = Path("metrics/speed.json"),
    replies: Path = Path("data/replies.jsonl"),
    plot: Path = Path("plots/families.csv"),
) -> None:
    """Write metrics, speed and memory, every reply of the child, and accuracy by family."""
    with running("evaluate", torch=True) as settings:
        from luna.evaluate.run import evaluate
        from luna.outputs import write_csv, write_json
        from luna.records import read_records, write_lines

        learned = [*read_records(source), *read_records(replay, allow_empty=True)]
        evaluated = evaluate(settings, learned, ROOT)
        write_lines(replies, evaluated.replies)
        write_csv(plot, evaluated.families)
        write_json(speed, evaluated.speed)
        write_json(metrics, evaluated.metrics)


if __name__ == "__main__":
    typer.run(main)
