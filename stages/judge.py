"""Sort the enhanced examples into accepted and rejected, each with its reason.

python stages/judge.py
"""

from pathlib import Path

import typer

from luna.stage import ROOT, running


def main(
    source: Path = Path("data/enhanced.jsonl"),
    dialogues: Path = Path("data/dialogues.jsonl"),
    eval_set: Path = Path("data/eval"),
    accepted: Path = Path("data/judged.jsonl"),
    rejected: Path = Path("data/rejected.jsonl"),
    metrics: Path = Path("metrics/judge.json"),
) -> None:
    """Write accepted and rejected records and how many there are."""
    with running("judge") as settings:
        from luna.answers import normalized
        from luna.enhance.dialogues import read_dialogues
        from luna.eval_set.items import read_items
        from luna.judge.run import judge
        from luna.laws import load_laws
        from luna.outputs import write_json
        from luna.records import read_records, write_records

        asked = {normalized(item.question) for item in read_items(eval_set)}
        laws = load_laws(ROOT / settings.params.laws)
        embedded = settings.preset.subject == "arithmetic"
        judged = judge(
            read_records(source),
            read_dialogues(dialogues),
            laws,
            asked,
            arithmetic=embedded,
            unconverged=settings.params.judge.unconverged,
        )
        write_records(accepted, judged.accepted)
        write_records(rejected, judged.rejected)
        write_json(metrics, judged.metrics)


if __name__ == "__main__":
    typer.run(main)
