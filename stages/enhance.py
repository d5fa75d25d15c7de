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
        from luna.enhance.files import enhance_file
        from luna.enhance.run import enhance
        from luna.outputs import write_json
        from luna.progress import say

        on_bad = settings.params.enhance.on_bad_record
        enhanced = enhance_file(source, output, failed, lambda records: enhance(settings, records, ROOT), on_bad=on_bad)
        write_dialogues(dialogues, enhanced.dialogues)
        write_json(metrics, enhanced.metrics)
        if enhanced.failed:
            say("enhance  `dvc repro -f -s enhance` asks again, and only for those that are not finished")


if __name__ == "__main__":
    typer.run(main)
