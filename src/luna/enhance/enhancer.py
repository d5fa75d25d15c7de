"""Enhancing a file of one's own: whoever is student, teacher and judge, from Python and from the command line.

What the settings leave open comes from the repo at `root`: the model in training, its teacher and its judge.
"""

import asyncio
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from luna.enhance.api_student import ApiStudent
from luna.enhance.files import enhance_file
from luna.enhance.hints import HintingTeacher
from luna.enhance.judges import make_judge
from luna.enhance.kept_attempts import KeptAttempts
from luna.enhance.run import (
    Cast,
    Enhanced,
    bills,
    checkpoint,
    clients_of,
    compare_blind,
    local_student,
    student_path,
    work_through,
)
from luna.enhance.students import Attempter
from luna.errors import BadSettings
from luna.llm.calls import Stop
from luna.llm.client import Client
from luna.llm.journal import Journal, journal_file
from luna.settings import (
    Count,
    Endpoint,
    JudgeEndpoint,
    Model,
    Positive,
    Preset,
    Student,
    load_settings,
    refuse_same_family,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luna.records import Record

ACCOUNT = "enhance-thinking"  # what the caps of the roles count for
SMALL_STUDENT = "gpt-3.5-turbo"  # where no model runs on this machine and none is named
BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class StudentTeacherConfig:
    """Who takes part in the loop, and how long it goes on.

    A role is a model's name, or an `Endpoint` with limits of its own; None: as the repo at `root` has it.

    Attributes:
        student_model: the model in training where it is None; else that is an override, and reported as one. A local
            one is a folder or a hub name.
        judge_model: or `exact`.
        use_local_student: False: the student is reached through LiteLLM too, and this machine needs no memory for it.
        batch_size: questions that a local student attempts at once.
        load_in_4bit: a local student that is named here; None: where a GPU is.
        decoding: how attempts are drawn; None: as the repo has it for the model in training, else its defaults.
        judge_kind: `rubric`: the model alone; `both`: what can be computed is judged exactly.
        same_family: the judge may be of the teacher's family.
        on_bad_record: `refuse` a file with bad lines, or `skip` them into the failed file.
        blind_retries: on so many questions hints are also held against blind retries.
        student_api_base, teacher_api_base, judge_api_base: servers of one's own.
        concurrency, requests_per_minute, max_usd: limits of each role that is given by its name.
    """

    student_model: str | Endpoint | None = None
    teacher_model: str | Endpoint | None = None
    judge_model: str | Endpoint | None = None
    max_iterations: Count = 3
    thinking_format: Literal["iterative"] = "iterative"
    use_local_student: bool = True
    batch_size: Count = 10
    load_in_4bit: bool | None = None
    decoding: Student | None = None
    judge_kind: Literal["rubric", "both"] = "rubric"
    same_family: bool = False
    on_bad_record: Literal["refuse", "skip"] = "refuse"
    blind_retries: int = 0
    student_api_base: str | None = None
    teacher_api_base: str | None = None
    judge_api_base: str | None = None
    concurrency: Count = 16
    requests_per_minute: Count | None = None
    max_usd: Positive | None = None
    seed: int = 0
    root: Path = field(default_factory=Path)


class InTraining(NamedTuple):
    """The model in training: its weights, how they are loaded, how it attempts, and what it is called."""

    path: str
    model: Model
    decoding: Student
    who: str


class ThinkingEnhancer:
    """Enhances files of records.

    Args:
        in_training: the model in training; None: that of the repo at `config.root`.

    Raises:
        BadSettings: judge and teacher are of one family, or a role is left open and there is no repo at `root`.
        TeacherError: the model of a role needs a key that is not in the environment.
    """

    def __init__(self, config: StudentTeacherConfig, in_training: InTraining | None = None) -> None:
        self.config = config
        self._in_training = in_training
        self._journal = Journal(journal_file(config.root))
        teacher, judge = self._endpoints()
        self._teacher = Client(teacher, "teacher", self._journal, ACCOUNT)
        self._judge = make_judge(judge, self._journal, ACCOUNT)
        self._api_student = self._student_client()
        self._clients = [self._teacher, *clients_of(self._judge), *([self._api_student] if self._api_student else [])]

    async def enhance_dataset(
        self, *, input_path: str | Path, output_path: str | Path, max_samples: int | None = None
    ) -> dict[str, Any]:
        """`enhance_file` in a thread. If it is cancelled, nothing more is asked, and what is paid is kept."""
        try:
            return await asyncio.to_thread(self.enhance_file, input_path, output_path, max_samples=max_samples)
        except asyncio.CancelledError:
            for client in self._clients:
                client.stop_soon(Stop("interrupted", "run it again to go on"))
            raise

    def enhance_file(
        self,
        source: str | Path,
        output: str | Path,
        *,
        failed: str | Path | None = None,
        max_samples: int | None = None,
    ) -> dict[str, Any]:
        """Enhance a file of records and return what the enhance stage writes as its metrics.

        Args:
            failed: gets what could not be enhanced, with reasons; None: `output` with `.failed` before its suffix.

        Raises:
            BadRecord: the input cannot be used.
            TeacherError: a cap is reached, or no dialogue could be finished.
        """
        aside = Path(failed) if failed else failed_file(Path(output))
        on_bad = self.config.on_bad_record
        return enhance_file(Path(source), Path(output), aside, self.enhance, on_bad=on_bad, most=max_samples).metrics

    def enhance(self, records: "Sequence[Record]") -> Enhanced:
        """The loop over records that are in memory."""
        config = self.config
        student, who, weights = self._student()
        cast = Cast(student, self._judge, HintingTeacher(self._teacher, weights))
        enhanced = work_through(records, cast, config.max_iterations, config.seed, who)
        metrics = enhanced.metrics | {"student": who, "student_override": self.overridden}
        if config.blind_retries:
            most, limit = config.blind_retries, config.max_iterations
            metrics |= compare_blind(enhanced.dialogues, cast, most, limit, config.seed, BOOTSTRAP_SAMPLES)
        if isinstance(student, KeptAttempts):
            student.forget()
        return replace(enhanced, metrics=metrics | bills(cast))

    @property
    def overridden(self) -> bool:
        """Whether the student is another model than the one in training."""
        return self.config.student_model is not None or not self.config.use_local_student

    def _endpoints(self) -> tuple[Endpoint, Endpoint | str]:
        config = self.config
        teacher = self._endpoint(config.teacher_model, config.teacher_api_base) or self._preset("teacher_model").teacher
        if config.judge_model == "exact":
            return teacher, "exact"
        judge = self._judge_endpoint() or self._preset("judge_model").judge
        if not isinstance(judge, JudgeEndpoint):
            return teacher, judge
        kind = "both" if config.judge_kind == "both" else judge.kind
        judge = judge.model_copy(update={"kind": kind, "same_family": judge.same_family or config.same_family})
        try:
            refuse_same_family(teacher, judge)
        except ValueError as error:
            raise BadSettings(str(error)) from error
        return teacher, judge

    def _endpoint(self, model: str | Endpoint | None, api_base: str | None) -> Endpoint | None:
        return self._named(model, api_base) if isinstance(model, str) else model

    def _named(self, model: str, api_base: str | None) -> Endpoint:
        config = self.config
        limits = {"concurrency": config.concurrency, "requests_per_minute": config.requests_per_minute}
        return Endpoint.model_validate({"model": model, "api_base": api_base, "max_usd": config.max_usd, **limits})

    def _judge_endpoint(self) -> JudgeEndpoint | None:
        """Verdicts are not drawn by chance: a judge given by its name has temperature 0."""
        given = self._endpoint(self.config.judge_model, self.config.judge_api_base)
        if given is None or isinstance(given, JudgeEndpoint):
            return given
        cold = {"temperature": 0.0} if isinstance(self.config.judge_model, str) else {}
        return JudgeEndpoint.model_validate({**given.model_dump(), **cold})

    def _student_client(self) -> Client | None:
        """The client of an API student; None where the student is local."""
        model = self.config.student_model
        if isinstance(model, Endpoint):
            return Client(model, "student", self._journal, ACCOUNT)
        if self.config.use_local_student:
            return None
        endpoint = self._named(model or SMALL_STUDENT, self.config.student_api_base)
        return Client(endpoint, "student", self._journal, ACCOUNT)

    def _preset(self, left_open: str) -> Preset:
        root = self.config.root
        if not (root / "params.yaml").is_file():
            raise BadSettings(f"{left_open}: is not given, and {root.resolve()} is no repo of Luna's; name a model")
        return load_settings(root).preset

    def _student(self) -> tuple[Attempter, str, str]:
        """The student, who it is, and what tells its weights from others'."""
        config, model = self.config, self.config.student_model
        if self._api_student is not None:
            name = self._api_student.endpoint.model
            return ApiStudent(self._api_student), name, name
        if isinstance(model, str):
            drawn = config.decoding or Student()
            return self._local(model, local_model(model, config.load_in_4bit), drawn), model, checkpoint(model)
        trained = self._in_training or self._trained_here()
        drawn = config.decoding or trained.decoding
        return self._local(trained.path, trained.model, drawn), trained.who, checkpoint(trained.path)

    def _trained_here(self) -> InTraining:
        preset, root = self._preset("student_model"), self.config.root
        path, who = student_path(load_settings(root), root)
        return InTraining(path, preset.model, preset.student, who)

    def _local(self, path: str, model: Model, drawn: Student) -> KeptAttempts:
        batched = drawn.model_copy(update={"batch_size": self.config.batch_size})
        return local_student(path, model, batched, self.config.root)


def local_model(name: str, load_in_4bit: bool | None) -> Model:
    """How a student of this name is loaded: in 4 bits where a GPU is, unless it is said otherwise."""
    import torch

    gpu = torch.cuda.is_available()
    four_bit = gpu if load_in_4bit is None else load_in_4bit
    return Model(base=name, dtype="bfloat16" if gpu else "float32", load_in_4bit=four_bit)


def failed_file(output: Path) -> Path:
    """Where what failed goes: `out.failed.jsonl` beside `out.jsonl`."""
    return output.with_name(f"{output.stem}.failed{output.suffix}")
