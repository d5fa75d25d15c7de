"""Settings: params.yaml (the dials one experiments with) and presets/NAME.yaml (the model and its helpers).

Both are read here and nowhere else. Unknown keys and wrong types are refused by name.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from luna.errors import BadSettings
from luna.llm.families import family_of

SectionT = TypeVar("SectionT", bound="_Section")
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
GenerationName = Annotated[str, Field(pattern=r"^[\w.-]+-G\d+$")]
Approach = Literal["self-instruct", "curriculum", "chain-of-thought", "template", "socratic"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------- params.yaml


class Wiring(_Section):
    """Who teaches in distillation: `sft` (this run's), `parent`, `grandparent`, or the git tag of a generation."""

    primary: str = "sft"
    critic: str = "parent"


class Taboo(_Section):
    """Words whose teacher signal is suppressed, to keep the voice."""

    enabled: bool = False
    words: list[str] = ["synergy", "leverage", "optimize", "strategize"]


class Distillation(_Section):
    """How two teachers are blended; see `luna.distill.loss` for the formulas."""

    gate_temperature: Positive = 1.0
    confidence: Literal["top1", "inverse_entropy"] = "top1"
    kl: Literal["forward", "reverse", "jsd"] = "forward"
    ce_on: Literal["all", "gold_fallback"] = "all"
    residual: Literal["skip", "agreement", "confidence_split"] = "skip"
    js_threshold: Share = 0.1
    confidence_threshold: Share = 0.8
    gold_weight: Annotated[float, Field(ge=0.0)] = 0.5
    ema: bool = True
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    max_steps: Count | None = None  # None: as the preset says
    learning_rate: Positive | None = None  # None: as the preset says
    teacher_cache_gb: Annotated[float, Field(ge=0.0)] = 10.0  # disk for what teachers said; 0: nothing is kept
    taboo: Taboo = Taboo()


class Generation(_Section):
    """What the teacher is asked to invent. `mix` is a named mix or weights by approach."""

    num_examples: Count
    mix: Literal["balanced", "self-instruct-first"] | dict[Approach, Share] = "balanced"
    templates: str | None = None  # a file of your own templates; None: those of the preset's subject
    focus: dict[str, Positive] = {}  # categories and areas asked for this many times as often as the others
    frontier: Share | None = None  # ask harder until only this share is right at first; None: all skills alike
    reach: Share | None = None  # ask one level beyond those the parent answers so much of; None: all
    near_duplicates: Annotated[float, Field(ge=0.5, le=1.0)] | None = 0.8  # questions this similar are one; None: off

    @model_validator(mode="after")
    def _mix_adds_up(self) -> "Generation":
        if isinstance(self.mix, dict) and abs(sum(self.mix.values()) - 1.0) > 1e-6:
            raise ValueError(f"the shares of mix add up to {sum(self.mix.values()):g}; make them add up to 1")
        return self


class Enhancement(_Section):
    """The loop of attempt, hint and new attempt."""

    max_iterations: Count = 3
    thinking_format: Literal["iterative"] = "iterative"
    blind_retries: Annotated[int, Field(ge=0)] = 600  # questions on which hints are held against blind retries; 0: none
    student: str | None = None  # override of the model in training (reported); None: the model in training itself
    on_bad_record: Literal["refuse", "skip"] = "refuse"  # skip: bad lines go to the failed file with their reasons


class Judging(_Section):
    """What is accepted. `unconverged` questions are learned from the teacher's own solution, or rejected."""

    unconverged: Literal["teacher", "reject"] = "teacher"


class Replay(_Section):
    """What is learned again: of the two generations before, and of the corpus of a base that Luna made."""

    enabled: bool = True
    share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1  # of the examples of both rungs
    size: Annotated[int, Field(ge=0)] = 100  # most records drawn from each of the two
    corpus: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1  # beside own examples, as a share of both


class Evaluation(_Section):
    """The frozen eval set (its own seed, so that it never changes with the run's) and how it is asked.

    `own_items` is a JSONL file of yours, {"id", "suite": "recall" or "generalize", "family", "question", "answer",
    "reply"} a line, `reply` being an answer in the voice to be kept. Subjects other than arithmetic need one.
    """

    seed: int = 0
    own_items: str | None = None
    recall_items: Count
    generalize_items: Count
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    bootstrap_samples: Count = 2000


class Gates(_Section):
    """All four must hold for a promotion, and by default the gain must be more than luck."""

    recall_drop: Annotated[float, Field(ge=0.0)] = 0.05
    generalize_gain: float = 0.02
    tone_drift: Share = 0.05
    law_violations: Annotated[int, Field(ge=0)] = 0
    require_evidence: bool = True  # the lower bound of the gain on generalize lies above 0


class Params(_Section):
    """params.yaml."""

    preset: str
    generation: GenerationName
    parent: GenerationName | None
    grandparent: GenerationName | None
    parent_sha256: str | None = None  # of the weights, so that a moved tag is noticed; None: take the tag's word
    grandparent_sha256: str | None = None
    attempt: Count = 1  # tries of this generation so far, this one included
    seed: int
    threads: Count
    student_init: str = "sft"
    teachers: Wiring = Wiring()
    alpha: Annotated[float, Field(ge=0.0)]
    beta: Annotated[float, Field(ge=0.0)]
    gamma: Annotated[float, Field(ge=0.0)]
    temperature: Positive
    distill: Distillation = Distillation()
    generate: Generation
    enhance: Enhancement = Enhancement()
    judge: Judging = Judging()
    replay: Replay = Replay()
    evaluate: Evaluation
    gates: Gates = Gates()
    laws: str = "laws.yaml"

    @model_validator(mode="after")
    def _wired_to_somebody(self) -> "Params":
        """A misspelt teacher must be found before an hour of training, not after it."""
        known = ["sft", "parent", "grandparent", *(tag for tag in (self.parent, self.grandparent) if tag)]
        wiring = {
            "student_init": self.student_init,
            "teachers.primary": self.teachers.primary,
            "teachers.critic": self.teachers.critic,
        }
        for key, name in wiring.items():
            if name not in known:
                raise ValueError(f"{key}: {name} is nobody; choose one of {', '.join(known)}")
        return self


# ---------------------------------------------------------------- presets


class Lora(_Section):
    """A LoRA adapter instead of full weights."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class Model(_Section):
    """The model to grow. `base` is `scratch` (trained by the pretrain stage), a hub name or a local folder."""

    base: str
    revision: str | None = None
    backend: Literal["transformers", "unsloth"] = "transformers"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    load_in_4bit: bool = False
    max_length: Count = 2048
    system_prompt: bool = True  # give every conversation the system prompt of its subject
    lora: Lora | None = None


class Scratch(_Section):
    """The from-scratch base: a small Llama and a BPE vocabulary."""

    vocab_size: Count = 400
    hidden_size: Count = 96
    layers: Count = 3
    heads: Count = 4
    intermediate_size: Count = 288


class Documents(_Section):
    """One kind of document: its share, and weights of the levels 1 to 6 of its problems."""

    share: Share
    levels: Annotated[list[float], Field(min_length=6, max_length=6)] = [1.0] * 6


class Rung(_Section):
    """One rung of continual pretraining: its age, its optimizer steps and what it reads."""

    age: str
    steps: Count
    documents: dict[Literal["repetition", "told", "table", "bare", "heading", "worked", "hinted"], Documents]


class Window(_Section):
    """The last rung stops once the averaged weights answer at least `lowest` of the probe questions right.

    A base outside the window at its end (too weak after all steps, or above `highest`) fails the stage.
    """

    lowest: Share
    highest: Share
    every: Count = 50  # steps between probes
    questions: Count = 16  # probe questions of each skill
    after: Annotated[int, Field(ge=0)] = 0  # no probe before this step of the rung


class Pretraining(_Section):
    """How the base is made: two rungs, a constant learning rate, averaged weights."""

    scratch: Scratch
    learning_rate: Positive
    warmup_ratio: Share = 0.1
    batch_size: Count = 24
    ema_decay: Share = 0.98
    rungs: Annotated[list[Rung], Field(min_length=1)]
    window: Window | None = None


class Stopping(_Section):
    """A run ends when the loss on held-out lessons has not fallen for `patience` looks; the best weights are kept."""

    every: Count = 50  # optimizer steps between looks
    patience: Count = 3
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1  # of the records; give both rungs the same share


class Training(_Section):
    """One training run: `epochs` over the data, or exactly `max_steps` optimizer steps."""

    learning_rate: Positive
    epochs: Positive | None = None
    max_steps: Count | None = None
    batch_size: Count = 2
    gradient_accumulation: Count = 8
    packing: Count | None = None  # tokens of a row that examples share; None: each has a row of its own
    warmup_ratio: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    final_rate: Share = 0.0  # of learning_rate, where a cosine ends: a rung that another one follows need not settle
    gradient_checkpointing: bool = False
    shard: bool = False  # several ranks: each holds a part of every weight (FSDP2); False: all of them (DDP)
    save_steps: Count | None = None
    early_stopping: Stopping | None = None  # None: the run goes to its end, and on all lessons
    report_to: Literal["none", "wandb", "dvclive"] = "none"  # the curves; Luna needs neither package

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give either epochs or max_steps")
        return self

    @model_validator(mode="after")
    def _only_a_cosine_ends_early(self) -> "Training":
        if self.final_rate and self.scheduler != "cosine":
            raise ValueError("final_rate is the end of a cosine; set scheduler to cosine or final_rate to 0")
        return self

    @model_validator(mode="after")
    def _shards_are_not_saved(self) -> "Training":
        for key in ("save_steps", "early_stopping"):
            if self.shard and getattr(self, key) is not None:
                raise ValueError(f"{key} does not go with shard; set {key} to null or shard to false")
        return self


class Student(_Section):
    """How the model in training attempts a question.

    `retry_view` is what it sees after a hint: `transcript` (its attempt and the hint as turns) or `right_lines` (its
    own lines before the mistake, then the hint, from where it goes on; a wrong attempt in view makes small models
    repeat it).
    """

    temperature: Annotated[float, Field(ge=0.0)] = 0.7
    retry_temperature: Annotated[float, Field(ge=0.0)] | None = None  # after a hint; None: as at first
    max_new_tokens: Count = 1024
    batch_size: Count = 8
    retry_view: Literal["transcript", "right_lines"] = "transcript"


class Price(_Section):
    """What a model costs, in USD per million tokens."""

    prompt: Annotated[float, Field(ge=0.0)]
    completion: Annotated[float, Field(ge=0.0)]


class Endpoint(_Section):
    """A model reached through LiteLLM. Keys come from the environment alone.

    The caps count what a role (teacher, judge) has used in one generation: all stages, restarts and experiments of it.
    """

    model: str
    api_base: str | None = None
    temperature: Annotated[float, Field(ge=0.0)] = 0.7
    max_tokens: Count = 2048
    concurrency: Count = 16  # calls at once at most; fewer while the server pushes back
    timeout: Positive = 120.0
    max_retries: Annotated[int, Field(ge=0)] = 6
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    price: Price | Literal["free"] | None = None  # None: as LiteLLM knows it
    max_usd: Positive | None = None
    max_tokens_total: Count | None = None
    max_failed: Share = 1.0  # a stage ends when more than this share of its calls, or every one, has failed for good


class JudgeEndpoint(Endpoint):
    """A model as the judge.

    `kind` is `rubric`, the model alone, or `both`: what can be computed is judged by the exact verifier, and the model
    is asked about the rest.
    """

    kind: Literal["rubric", "both"] = "rubric"
    same_family: bool = False  # True: it may be of the teacher's family


def refuse_same_family(teacher: Endpoint, judge: Endpoint) -> None:
    """A judge of the teacher's family takes its kin's words too kindly, so that has to be asked for.

    The embedded tutor may be both: it computes, and has no taste that could favour anybody.

    Raises:
        ValueError: they are of one family and nobody said that they may be.
    """
    family = family_of(judge.model)
    said = isinstance(judge, JudgeEndpoint) and judge.same_family
    if said or judge.model.startswith("luna-tutor/") or family != family_of(teacher.model):
        return
    raise ValueError(
        f"judge.model: {judge.model} is of the teacher's family ({family}) and would judge its own; choose another "
        "judge, or say judge.same_family: true"
    )


class Lessons(_Section):
    """What the model is trained on: its `final` reasoning and answers after a hint, or the whole `iterative` story."""

    thinking: Literal["final", "iterative"] = "iterative"
    after_hint: Share = 1.0  # share of hints that also become an example: question and hint -> corrected answer


class Preset(_Section):
    """presets/NAME.yaml."""

    subject: str  # a name in luna/generate/subjects, or the path of your own subject file
    model: Model
    pretrain: Pretraining | None = None
    student: Student = Student()
    teacher: Endpoint
    judge: JudgeEndpoint | Literal["exact"]
    lessons: Lessons = Lessons()
    sft: Training
    distill: Training

    @model_validator(mode="after")
    def _scratch_needs_recipe(self) -> "Preset":
        if (self.model.base == "scratch") != (self.pretrain is not None):
            raise ValueError("model.base: scratch and a pretrain section belong together")
        return self

    @model_validator(mode="after")
    def _judge_is_no_kin(self) -> "Preset":
        if isinstance(self.judge, Endpoint):
            refuse_same_family(self.teacher, self.judge)
        return self


class Settings(_Section):
    """Everything a stage needs to know."""

    params: Params
    preset: Preset


def load_settings(root: Path = Path()) -> Settings:
    """Read params.yaml and the preset it names below `root`.

    Raises:
        BadSettings: a file is missing, is no YAML, or holds an unknown key or a wrong value.
    """
    params_file = root / "params.yaml"
    params = _read(params_file, Params)
    preset_file = root / "presets" / f"{params.preset}.yaml"
    if not preset_file.is_file():
        known = sorted(path.stem for path in (root / "presets").glob("*.yaml"))
        raise BadSettings(f"{params_file}: preset: there is no {preset_file}; choose one of {', '.join(known)}")
    return Settings(params=params, preset=_read(preset_file, Preset))


def load_preset(path: Path) -> Preset:
    """Read one preset file."""
    return _read(path, Preset)


def _read(path: Path, section: type[SectionT]) -> SectionT:
    if not path.is_file():
        raise BadSettings(f"{path}: no such file; run from the root of the repo")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BadSettings(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        problem = str(error).replace("\n", " ")
        raise BadSettings(f"{path}: is no YAML: {problem}; mend that line") from error
    try:
        return section.model_validate(value)
    except ValidationError as error:
        raise BadSettings(f"{path}: {explain(error, section)}") from error


def explain(error: ValidationError, section: type[BaseModel]) -> str:
    """One line for the first complaint: key, what is wrong, what to write."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(section, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        mend = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {mend}"
    if first["type"] == "missing":
        return f"{key}: is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f", not {first['input']!r}"
    return f"{key + ': ' if key else ''}{message[0].lower()}{message[1:]}{given}; mend the value"


def _keys_at(section: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    current: type[BaseModel] | None = section
    for part in path:
        field = current.model_fields.get(str(part)) if current else None
        if field is None:
            continue
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        current = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), current)
    return list(current.model_fields) if current else []
