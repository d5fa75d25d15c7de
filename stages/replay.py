"""Draw some of what parent and grandparent learned, to be learned again.

python stages/replay.py
"""

from pathlib import Path

import typer

from luna.stage import ROOT, running


def main(
    source: Path = Path("data/judged.jsonl"),
    eval_set: Path = Path("data/eval"),
    output: Path = Path("data/replay.jsonl"),
    metrics: Path = Path("metrics/replay.json"),
) -> None:
    """Write the replayed records, each with the tag it comes from, and how many there are."""
    with running("replay") as settings:
        from luna.answers import normalized
        from luna.eval_set.items import read_items
        from luna.laws import load_laws
        from luna.outputs import write_json
        from luna.records import read_records, write_records
        from luna.replay.run import replay

        asked = {normalized(item.question) for item in read_items(eval_set)}
        laws = load_laws(ROOT / settings.params.laws)
        replayed = replay(settings, ROOT, read_records(source), laws, asked)
        write_records(output, replayed.records)
        write_json(metrics, replayed.metrics)


if __name__ == "__main__":
    typer.run(main)
