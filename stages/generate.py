"""Let the teacher invent problems with full solutions, by five approaches mixed in shares.

python stages/generate.py
"""

from pathlib import Path

import typer

from luna.stage import ROOT, running


def main(
    frontier: Path = Path("metrics/frontier.json"),
    eval_set: Path = Path("data/eval"),
    output: Path = Path("data/raw.jsonl"),
    card: Path = Path("data/raw.md"),
    failed: Path = Path("data/raw_failed.jsonl"),
    metrics: Path = Path("metrics/generate.json"),
) -> None:
    """Write the invented records, a card that describes them, the prompts that got no reply, and what it cost."""
    with running("generate") as settings:
        from luna.answers import normalized
        from luna.eval_set.items import read_items
        from luna.generate.card import dataset_card
        from luna.generate.run import generate
        from luna.llm.client import Client
        from luna.llm.journal import Journal, journal_file
        from luna.outputs import read_json, write_json, write_text
        from luna.progress import bar, say
        from luna.records import write_lines, write_records

        weights = read_json(frontier)["weights"]
        journal = Journal(journal_file(ROOT))
        client = Client(settings.preset.teacher, "teacher", journal, settings.params.generation)
        kept = {normalized(item.question) for item in read_items(eval_set)}
        with bar("generate", settings.params.generate.num_examples) as advance:
            generated = generate(settings, weights, client, advance, kept)
        say(f"generate  {client.report()}")
        write_records(output, generated.records)
        write_text(card, dataset_card(settings, generated.records, generated.stats))
        if write_lines(failed, generated.failed):
            say(f"generate  without reply: see {failed}; `dvc repro -f -s generate` asks again, and only for those")
        write_json(metrics, generated.stats)


if __name__ == "__main__":
    typer.run(main)
