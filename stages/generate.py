"""Let the teacher invent problems with full solutions, by five approaches mixed in shares.

python stages/generate.py
"""

from pathlib import Path

import typer

from luna.stage import running


def main(
    frontier: Path = Path("metrics/frontier.json"),
    output: Path = Path("data/raw.jsonl"),
    metrics: Path = Path("metrics/generate.json"),
) -> None:
    """Write the invented records and what they cost."""
    with running("generate") as settings:
        from luna.generate.run import generate
        from luna.llm.client import Client
        from luna.outputs import read_json, write_json
        from luna.progress import bar
        from luna.records import write_records

        weights = read_json(frontier)["weights"]
        with bar("generate", settings.params.generate.num_examples) as advance:
            generated = generate(settings, weights, Client(settings.preset.teacher, "teacher"), advance)
        write_records(output, generated.records)
        write_json(metrics, generated.stats)


if __name__ == "__main__":
    typer.run(main)
