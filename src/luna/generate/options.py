"""What the command line changes in the settings of the repo."""

from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from luna.errors import BadSettings
from luna.settings import Approach, Endpoint, Generation, Settings, explain

MIXED = "mixed"
MODES = (*get_args(Approach), MIXED)


def with_options(
    settings: Settings,
    *,
    mode: str = MIXED,
    num_examples: int | None = None,
    provider: str | None = None,
    model: str | None = None,
    api_base: str | None = None,
    subject: str | None = None,
    mix: str | None = None,
    templates: Path | None = None,
    seed: int | None = None,
) -> Settings:
    """The settings with what an option replaces; None leaves a setting as it stands.

    Args:
        mode: one approach alone, or `mixed` in the shares of `mix`.
        provider: with `model` the name of the teacher as LiteLLM knows it, PROVIDER/MODEL.

    Raises:
        BadSettings: an option holds what it must not.
    """
    if mode not in MODES:
        raise BadSettings(f"--mode: there is no {mode!r}; choose one of {', '.join(MODES)}")
    if mix is not None and mode != MIXED:
        raise BadSettings(f"--mix: --mode {mode} asks for one approach alone; leave one of the two out")
    asked: dict[str, Any] = {"num_examples": num_examples, "mix": mix if mode == MIXED else {mode: 1.0}}
    asked["templates"] = None if templates is None else str(templates)
    generation = _replaced(settings.params.generate, asked)
    params = settings.params.model_copy(update={"generate": generation, **({} if seed is None else {"seed": seed})})
    teacher = _teacher(settings.preset.teacher, provider, model, api_base)
    changed = {"teacher": teacher, **({} if subject is None else {"subject": subject})}
    return Settings(params=params, preset=settings.preset.model_copy(update=changed))


def _replaced(generation: Generation, asked: dict[str, Any]) -> Generation:
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        return Generation.model_validate(generation.model_dump() | given)
    except ValidationError as error:
        raise BadSettings(f"the options: {explain(error, Generation)}") from error


def _teacher(teacher: Endpoint, provider: str | None, model: str | None, api_base: str | None) -> Endpoint:
    """Another teacher is another endpoint: address and price of the preset's are not carried over."""
    if provider is None and model is None and api_base is None:
        return teacher
    if model is None:
        raise BadSettings("--model: is missing; name one, such as --provider openai --model gpt-4o-mini")
    name = model if provider is None or model.startswith(f"{provider}/") else f"{provider}/{model}"
    return teacher.model_copy(update={"model": name, "api_base": api_base, "price": None})
