"""Let the teacher invent problems with full solutions, by five approaches mixed in shares.

python stages/generate.py
"""

from pathlib import Path

import typer

from luna.stage import running


def main(
    frontier: Path = Path("metrics/frontier.json"),
    eval_set: Path = Path("data/eval"),
    output: Path = Path("data/raw.jsonl"),
    card: Path = Path("data/raw.md"),
    metrics: Path = Path("metrics/generate.json"),
) -> None:
    """Write the invented records, a card that describes them, and what they cost."""
    with running("generate") as settings:
        from luna.answers import normalized
        from luna.eval_set.items import read_items
        from luna.generate.card import dataset_card
        from luna.generate.run import generate
        from luna.llm.client import Client
        from luna.outputs import read_json, write_json, write_text
        from luna.progress import bar
        from luna.records import write_records

        weights = read_json(frontier)["weights"]
        client = Client(settings.preset.teacher, "teacher")
        kept = {normalized(item.question) for item in read_items(eval_set)}
        with bar("generate", settings.params.generate.num_examples) as advance:
            generated = generate(settings, weights, client, advance, kept)
        write_records(output, generated.records)
        write_text(card, dataset_card(settings, generated.records, generated.stats))
        write_json(metrics, generated.stats)


if __name__ == "__main__":
    typer.run(main)
