"""The evolution manifest: who taught a generation, how, and which ages it climbed."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from luna.errors import LunaError
from luna.settings import Settings, explain

BASE_AGE = 2  # the base model has climbed 0->1 and 1->2 in pretraining

_NAME = re.compile(r"^.*?-G(\d+)$")


class ManifestError(LunaError):
    """An evolution manifest does not hold together."""


def _refuse_averaging(method: Any) -> Any:
    if isinstance(method, str) and re.search(r"averag|soup|merge|slerp", method.lower()):
        raise ValueError(
            f"{method!r} is refused: neurons of two generations are permuted and their weights lie in different "
            "basins, so an average is neither; use logit_blending_kd"
        )
    return method


def _check_name(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} names no generation; write it like Luna-G001")
    return name


Method = Annotated[Literal["logit_blending_kd"], BeforeValidator(_refuse_averaging)]
GenerationName = Annotated[str, BeforeValidator(lambda name: _check_name(name) if isinstance(name, str) else name)]
Weight = Annotated[float, Field(ge=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EvolutionRequest(_Part):
    """Who descends from whom. A null parent or grandparent is the base model."""

    parent_gen: GenerationName | None
    grandparent_gen: GenerationName | None
    child_gen: GenerationName
    training_method: Method = "logit_blending_kd"

    @model_validator(mode="after")
    def _ancestors_come_first(self) -> "EvolutionRequest":
        if self.parent_gen is None and self.grandparent_gen is not None:
            raise ValueError(f"grandparent_gen {self.grandparent_gen} without a parent_gen; name the parent")
        line = [name for name in (self.child_gen, self.parent_gen, self.grandparent_gen) if name]
        for younger, older in pairwise(line):
            if number_of(older) >= number_of(younger):
                raise ValueError(f"ancestors have lower numbers: {older} is no ancestor of {younger}")
        return self


class Teacher(_Part):
    """A frozen teacher: a generation by its tag, or by `source` the SFT rung of the same run or the base model."""

    gen: GenerationName | None
    source: Literal["sft", "base"] | None = None
    role: Literal["primary", "stabilizing_critic"]
    path: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _one_origin(self) -> "Teacher":
        if (self.gen is None) == (self.source is None):
            raise ValueError("give either gen (a tag) or, with gen null, source (sft or base)")
        return self

    @model_serializer
    def _without_empty_source(self) -> dict[str, Any]:
        origin = {"gen": self.gen} if self.source is None else {"gen": None, "source": self.source}
        return {**origin, "role": self.role, "path": self.path}


class TrainingParams(_Part):
    """The loss alpha * CE + beta * KD + gamma * R, and how long it is followed."""

    method: Method = "logit_blending_kd"
    alpha: Weight = 0.1
    beta: Weight = 0.9
    gamma: Weight = 0.0
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    steps: Annotated[int, Field(ge=1)] = 1200
    lr: Annotated[float, Field(gt=0.0)] = 1.5e-5


class Stabilizers(_Part):
    """What keeps a generation from wandering off."""

    ema: bool = True
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    replay_buffer: bool = True
    replay_size: Annotated[int, Field(ge=0)] = 100
    token_masking: bool = False

    @model_validator(mode="after")
    def _replay_holds_something(self) -> "Stabilizers":
        if self.replay_buffer and self.replay_size == 0:
            raise ValueError("replay_buffer is true and replay_size 0; give it a size or switch it off")
        return self


class Ages(_Part):
    """The rungs of the intelligence ladder that a generation climbs, each `FROM->TO`."""

    sft: str
    distill: str


class Manifest(_Part):
    """How a generation was grown. A manifest that somebody hands in may leave `ages` out."""

    evolution_request: EvolutionRequest
    teachers: list[Teacher]
    training_params: TrainingParams = TrainingParams()
    stabilizers: Stabilizers = Stabilizers()
    ages: Ages | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> "Manifest":
        request = self.evolution_request
        if sorted(teacher.role for teacher in self.teachers) != ["primary", "stabilizing_critic"]:
            raise ValueError("teachers: needs one primary and one stabilizing_critic, no more")
        for teacher in self.teachers:
            if teacher.gen and number_of(teacher.gen) >= number_of(request.child_gen):
                raise ValueError(f"teachers: {teacher.gen} is not older than its student {request.child_gen}")
            if teacher.source == "base" and request.grandparent_gen is not None:
                raise ValueError("teachers: source base stands for a null ancestor and there is none; name a tag")
        if self.ages is not None and self.ages != ages_of(request.parent_gen):
            raise ValueError(
                f"ages: a child of {request.parent_gen or 'the base'} climbs {_spoken(request.parent_gen)}"
            )
        return self


def number_of(name: str) -> int:
    """3 for Luna-G003.

    Raises:
        ManifestError: the name has another form.
    """
    found = _NAME.match(name)
    if not found:
        raise ManifestError(f"{name!r} names no generation; write it like Luna-G001")
    return int(found[1])


def ages_of(parent: str | None) -> Ages:
    """The two rungs a child of `parent` climbs: SFT, then distillation from the two ages before.

    The base has age 2 and every generation adds two years, so the child of the base climbs 2->3 and 3->4 and
    generation k climbs 2k->2k+1 and 2k+1->2k+2.
    """
    age = BASE_AGE + 2 * (number_of(parent) if parent else 0)
    return Ages(sft=f"{age}->{age + 1}", distill=f"{age + 1}->{age + 2}")


def _spoken(parent: str | None) -> str:
    ages = ages_of(parent)
    return f"a child of {parent or 'the base'} climbs {ages.sft} in sft and {ages.distill} in distill"


def build_manifest(
    settings: Settings, teachers: list[dict[str, Any]], steps: int, lr: float, *, replay_size: int
) -> Manifest:
    """The manifest of the generation that `settings` grow.

    Args:
        teachers: those that really taught, as the distill stage wrote them: {gen, source, role, path}.
        steps: optimizer steps of distillation; `lr` is its peak learning rate.
        replay_size: records drawn from each earlier generation to be replayed; 0 where nothing was replayed.

    Raises:
        ManifestError: the parts contradict each other, such as a parent that is not older than its child.
    """
    params = settings.params
    value = {
        "evolution_request": {
            "parent_gen": params.parent,
            "grandparent_gen": params.grandparent,
            "child_gen": params.generation,
        },
        "teachers": teachers,
        "training_params": {
            **{name: getattr(params, name) for name in ("alpha", "beta", "gamma", "temperature")},
            "steps": steps,
            "lr": lr,
        },
        "stabilizers": {
            "ema": params.distill.ema,
            "ema_decay": params.distill.ema_decay,
            "replay_buffer": replay_size > 0,
            "replay_size": replay_size,
            "token_masking": params.distill.taboo.enabled,
        },
    }
    manifest = _validated(value, "evolution manifest")
    return manifest.model_copy(update={"ages": ages_of(params.parent)})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest that somebody hands in.

    Raises:
        ManifestError: the file is missing, no JSON, or does not hold together; one line naming file and key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file; give the path of an evolution manifest") from error
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}:{error.lineno}: broken JSON ({error.msg}); mend that line") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    return _validated(value, str(path))


def _validated(value: Any, where: str) -> Manifest:
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise ManifestError(f"{where}: {explain(error, Manifest)}") from error
