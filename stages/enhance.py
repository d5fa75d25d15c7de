"""The model in training attempts every question, is hinted at its own mistakes, and corrects itself.

python stages/enhance.py
"""

from pathlib import Path

import typer

from luna.stage import ROOT, running


def main(
    source: Path = Path("data/raw.jsonl"),
    output: Path = Path("data/enhanced.jsonl"),
    dialogues: Path = Path("data/dialogues.jsonl"),
    failed: Path = Path("data/enhanced_failed.jsonl"),
    metrics: Path = Path("metrics/enhance.json"),
) -> None:
    """Write the enhanced records, the dialogues behind them, the records that failed, and the metrics."""
    with running("enhance", torch=True) as settings:
        from luna.enhance.dialogues import write_dialogues
        from luna.enhance.run import enhance
        from luna.outputs import write_json
        from luna.progress import say
        from luna.records import read_records, write_records

        enhanced = enhance(settings, read_records(source), ROOT)
        write_records(output, enhanced.records)
        write_dialogues(dialogues, enhanced.dialogues)
        if write_records(failed, enhanced.failed):
            say(f"enhance  not finished: see {failed}; `dvc repro -f -s enhance` asks again, and only for those")
        write_json(metrics, enhanced.metrics)


if __name__ == "__main__":
    typer.run(main)
