"""`luna generate`: the generate stage's work with other settings, for examples that no generation is grown from yet."""

from pathlib import Path

from luna.answers import normalized
from luna.errors import BadSettings
from luna.eval_set.items import ITEMS, read_items
from luna.generate.card import dataset_card
from luna.generate.run import generate
from luna.llm.client import Client
from luna.llm.journal import Journal, journal_file
from luna.outputs import write_text
from luna.progress import bar
from luna.records import write_records
from luna.settings import Settings


def generate_to(settings: Settings, root: Path, out: Path) -> str:
    """Generate, write the records to `out` and their card beside it, and say how it went.

    Skills are all alike here; the frontier is the pipeline's. Where `root` has an eval set, its questions are kept out.

    Raises:
        BadSettings: `out` belongs to a stage of the pipeline.
        TeacherError: the teacher cannot be reached or gave too few usable replies.
    """
    if out.resolve() == (root / "data" / "raw.jsonl").resolve():
        raise BadSettings(f"--out: {out} is the generate stage's own; run `dvc repro generate` or give another path")
    journal = Journal(journal_file(root))
    client = Client(settings.preset.teacher, "teacher", journal, settings.params.generation)
    with bar("generate", settings.params.generate.num_examples) as advance:
        generated = generate(settings, None, client, advance, eval_questions(root))
    write_records(out, generated.records)
    card = out.with_suffix(".md")
    write_text(card, dataset_card(settings, generated.records, generated.stats))
    stats = generated.stats
    lost = ", ".join(f"{stats[name]} {name.replace('_', ' ')}" for name in LOST if stats[name])
    return (
        f"{len(generated.records)} examples in {out}, described in {card}: {stats['calls']} calls"
        + (f" ({lost})" if lost else "")
        + f", {stats['prompt_tokens']} + {stats['completion_tokens']} tokens"
    )


LOST = ("failed", "unusable", "duplicates", "near_duplicates", "contaminated")


def eval_questions(root: Path) -> set[str]:
    """The questions of the eval set below `root`, normalized; none where there is no eval set yet."""
    folder = root / "data" / "eval"
    return {normalized(item.question) for item in read_items(folder)} if (folder / ITEMS).is_file() else set()
