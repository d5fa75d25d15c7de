"""Fine-tune the parent on what the judge accepted.

python stages/train_sft.py
torchrun --nproc_per_node 2 stages/train_sft.py   # several ranks, see docs/distillation.md
"""

from pathlib import Path

import typer

from luna.ranks import is_first
from luna.stage import ROOT, SCRATCH, running


def main(
    source: Path = Path("data/judged.jsonl"),
    replay: Path = Path("data/replay.jsonl"),
    folder: Path = Path("models/sft"),
    metrics: Path = Path("metrics/train_sft.json"),
    plot: Path = Path("plots/train_sft.csv"),
) -> None:
    """Write the fine-tuned model, its metrics and the curve of its loss."""
    with running("train_sft", torch=True, ranks=True) as settings:
        from luna.outputs import write_csv, write_json
        from luna.records import read_records
        from luna.train_sft.run import fine_tune

        records, again = read_records(source), read_records(replay, allow_empty=True)
        tuned = fine_tune(settings, records, ROOT, folder, SCRATCH / "train_sft", replay=again)
        if is_first():
            write_json(metrics, tuned.metrics)
            write_csv(plot, tuned.log)


if __name__ == "__main__":
    typer.run(main)
