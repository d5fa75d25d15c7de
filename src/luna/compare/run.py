"""`luna compare-approaches`: samples in, one report out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luna.compare.prices import MILLION, Price, price_of
from luna.compare.report import as_line, write_report
from luna.compare.sample import APPROACHES, Sample, from_pilot, from_tree
from luna.compare.table import all_mixes, mix_costs, proposed_mix, rows_of, weak_spots
from luna.compare.trained import Trained, trained_models
from luna.enhance.judges import make_judge
from luna.errors import BadSettings
from luna.generate.command import eval_questions
from luna.generate.mix import MIXES, prompts_of, shares_of
from luna.generate.subject import load_subject, load_templates
from luna.generate.system_prompt import generate_enhanced_system_prompt
from luna.laws import load_laws
from luna.llm.client import Client
from luna.llm.journal import Journal, journal_file
from luna.progress import bar, say
from luna.settings import Approach, Endpoint, Settings

Json = dict[str, Any]
CHARACTERS = 4  # of a token, roughly, as long as nobody has counted


class Pilot(NamedTuple):
    """A pilot: `examples` of each approach, judged by `judge` (None: by rules alone), for at most `max_usd`."""

    examples: int
    approaches: Sequence[Approach]
    judge: Endpoint | str | None = None
    max_usd: float | None = None


def pilot_of(
    own: Settings,
    changed: Settings,
    examples: int,
    approaches: Sequence[str] | None,
    judge: str | None,
    max_usd: float | None,
) -> Pilot:
    """A pilot from the options of the command line.

    Args:
        own: the settings of the repo; its judge judges its own subject.
        changed: the settings with the options.
        approaches: None: those of the mixes, which all give single examples.

    Raises:
        BadSettings: there is no such approach.
    """
    unknown = [name for name in approaches or () if name not in APPROACHES]
    if unknown:
        raise BadSettings(f"--approach: there is no {unknown[0]!r}; choose of {', '.join(APPROACHES)}")
    chosen = [name for name in APPROACHES if name in (approaches or MIXES["balanced"])]
    if judge is not None:
        return Pilot(examples, chosen, Endpoint(model=judge, temperature=0.0), max_usd)
    same = changed.preset.subject == own.preset.subject
    return Pilot(examples, chosen, own.preset.judge if same else None, max_usd)


def compare_approaches(
    settings: Settings,
    root: Path,
    out: Path,
    price: tuple[float | None, float | None] = (None, None),
    pilot: Pilot | None = None,
    runs: Sequence[Path] = (),
) -> Json:
    """Compare the approaches of the data in a tree, or of a pilot, and write the report to `out`.

    Args:
        price: USD for a million tokens of prompt and completion; None: as `teacher.price` or LiteLLM says.
        runs: trees of other runs, whose models are listed beside those of the tags.

    Raises:
        BadSettings: the pilot may cost more than it is allowed to, or its price is not known.
        TeacherError, BadRecord: the samples cannot be had.
    """
    told = price_of(settings.preset.teacher, *price)
    samples = from_tree(root) if pilot is None else _ask(settings, root, pilot, told)
    report = _report(settings, samples, told, trained_models(root, runs))
    made = "the data of this tree" if pilot is None else f"a pilot of {pilot.examples} examples of each"
    report = {"source": f"From {made}.", "teacher": settings.preset.teacher.model, **report}
    write_report(out, report)
    return report


def _report(settings: Settings, samples: Sequence[Sample], price: Price | None, trained: Sequence[Trained]) -> Json:
    rows = rows_of(samples, price, trained, settings.params.seed)
    present = shares_of(settings.params.generate.mix)
    proposal = proposed_mix(rows, present)
    models = [{**one._asdict(), "mix": as_line(one.mix), "model": one.name} for one in trained]
    return {
        "approaches": rows,
        "mix_usd": mix_costs(rows, all_mixes(present, proposal)),
        "trained": models,
        "weak": weak_spots(samples),
        "proposal": proposal,
    }


def _ask(settings: Settings, root: Path, pilot: Pilot, price: Price | None) -> list[Sample]:
    journal = Journal(journal_file(root))
    client = Client(settings.preset.teacher, "teacher", journal, settings.params.generation)
    most = most_usd(settings, pilot, price)
    calls = pilot.examples * len(pilot.approaches)
    say(f"pilot  {calls} calls, {'price unknown' if most is None else f'at most about {most:.2f} USD'} before retries")
    if pilot.max_usd is not None and (most is None or most > pilot.max_usd):
        known = (
            "its price is not known; set teacher.price, or give --price-prompt and --price-completion"
            if most is None
            else "ask for fewer"
        )
        raise BadSettings(f"--max-usd: {pilot.max_usd:g} may not be enough for {calls} calls; {known}")
    judge = make_judge(pilot.judge, journal, settings.params.generation) if pilot.judge is not None else None
    laws = load_laws(root / settings.params.laws)
    with bar("pilot", calls) as advance:
        return from_pilot(
            settings, pilot.approaches, pilot.examples, client, judge, laws, eval_questions(root), advance
        )


def most_usd(settings: Settings, pilot: Pilot, price: Price | None) -> float | None:
    """What the first calls of a pilot may cost if every reply is as long as it may be; None: no price is known."""
    if price is None:
        return None
    asked, subject = settings.params.generate, load_subject(settings.preset.subject)
    templates = load_templates(Path(asked.templates), subject) if asked.templates else None
    rules = len(generate_enhanced_system_prompt(subject))
    prompts = [
        prompt
        for approach in pilot.approaches
        for prompt in prompts_of(approach, subject, pilot.examples, settings.params.seed, templates=templates)
    ]
    characters = sum(rules + len(prompt.text) for prompt in prompts)
    replies = len(prompts) * settings.preset.teacher.max_tokens
    return (price.prompt * characters / CHARACTERS + price.completion * replies) / MILLION
