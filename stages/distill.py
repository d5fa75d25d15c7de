"""Distil two frozen teachers into the student by blending their predictions.

python stages/distill.py
torchrun --nproc_per_node 2 stages/distill.py   # several ranks, see docs/distillation.md
"""

from pathlib import Path

import typer

from luna.ranks import is_first
from luna.stage import ROOT, SCRATCH, running


def main(
    source: Path = Path("data/judged.jsonl"),
    replay: Path = Path("data/replay.jsonl"),
    folder: Path = Path("models/luna"),
    metrics: Path = Path("metrics/distill.json"),
    plot: Path = Path("plots/distill.csv"),
) -> None:
    """Write the child, its metrics and the curves of loss and gate shares."""
    with running("distill", torch=True, ranks=True) as settings:
        from luna.distill.run import distill
        from luna.outputs import write_csv, write_json
        from luna.records import read_records

        records, again = read_records(source), read_records(replay, allow_empty=True)
        distilled = distill(settings, records, ROOT, folder, SCRATCH / "distill", replay=again)
        if is_first():
            write_json(metrics, distilled.metrics)
            write_csv(plot, distilled.log)


if __name__ == "__main__":
    typer.run(main)
