"""Replayed records come from the data of their tags, each with its lineage, and nothing is asked twice."""

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from luna.answers import normalized
from luna.arithmetic.problems import SKILLS, sample
from luna.arithmetic.wording import ask
from luna.errors import BadRecord
from luna.generations.at_tag import GenerationMissing
from luna.laws import load_laws
from luna.records import Record, read_records, write_records
from luna.replay.run import JUDGED, Replayed, draw, replay
from luna.settings import Replay, Settings

Make = Callable[..., Settings]
LAWS = load_laws(Path(__file__).parents[2] / "laws.yaml")
TAGS = {"parent": "Luna-G002", "grandparent": "Luna-G001"}
NOTHING_LEFT_OUT = {"in_this_run": 0, "in_the_eval_set": 0, "repeated": 0, "against_a_law": 0}


def _record(question: str, answer: str = "5", **metadata: Any) -> Record:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Record.model_validate({"messages": messages, "metadata": metadata})


def _records(seed: int, count: int) -> list[Record]:
    rng = random.Random(seed)
    problems = [sample(rng, SKILLS["add3"]) for _ in range(count)]
    return [
        _record(ask(rng, problem), str(problem.answer), id=f"{seed}-{number}", attempts=[], approach="curriculum")
        for number, problem in enumerate(problems)
    ]


OLD, MIDDLE, NEW = _records(1, 30), _records(2, 40), _records(3, 10)


def _git(root: Path, *command: str) -> None:
    who = ["-c", "user.name=Luna", "-c", "user.email=luna@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *who, *command], check=True, capture_output=True)


def _release(root: Path, dvc: Any, tag: str) -> None:
    """Commit and tag what data/judged.jsonl holds now."""
    dvc.add(str(root / JUDGED))
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", tag)
    _git(root, "tag", "-a", tag, "-m", tag)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generations with data of their own, one with broken data, one without any; the work tree has newer data."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("ladder") / "repo"
    root.mkdir()
    _git(root, "init", "-q", "-b", "main")
    _git(root, "commit", "-q", "--allow-empty", "-m", "start")
    _git(root, "tag", "-a", "Luna-G000", "-m", "Luna-G000")
    with Repo.init(str(root)) as dvc:
        for tag, records in (("Luna-G001", OLD), ("Luna-G002", MIDDLE)):
            write_records(root / JUDGED, records)
            _release(root, dvc, tag)
        (root / JUDGED).unlink()
        (root / JUDGED).write_text('{"messages": oops}\n')
        _release(root, dvc, "Luna-G003")
    (root / JUDGED).unlink()
    write_records(root / JUDGED, NEW)
    return root


@pytest.fixture
def repo(ladder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the ladder to work in, the working directory at once."""
    root = tmp_path / "repo"
    shutil.copytree(ladder, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    return root


def _replay(settings: Settings, records: Sequence[Record] = NEW, eval_questions: set[str] | None = None) -> Replayed:
    return replay(settings, Path(), records, LAWS, eval_questions or set())


def _draw(
    *generations: Sequence[Record], size: int = 100, this_run: set[str] | None = None, in_eval: set[str] | None = None
) -> Replayed:
    past = {f"Luna-G{9 - number:03d}": records for number, records in enumerate(generations)}
    return draw(past, {"in_this_run": this_run or set(), "in_the_eval_set": in_eval or set()}, LAWS, size, 0)


def _questions(records: Sequence[Record]) -> list[str]:
    return [normalized(record.question) for record in records]


# ---------------------------------------------------------------- from the tags


def test_both_generations_before_give_records_with_their_lineage(repo: Path, tiny_settings: Make) -> None:
    replayed = _replay(tiny_settings({**TAGS, "replay": Replay(size=20)}))
    assert replayed.metrics == {
        "total": 40,
        "by_generation": {"Luna-G002": 20, "Luna-G001": 20},
        "left_out": NOTHING_LEFT_OUT,
    }
    origin = {"Luna-G001": OLD, "Luna-G002": MIDDLE}
    for record in replayed.records:
        tag = record.metadata["replayed_from"]
        [before] = [one for one in origin[tag] if one.question == record.question]
        assert record.messages == before.messages
        assert record.metadata == {**before.metadata, "replayed_from": tag}


def test_a_generation_that_has_less_gives_all_it_has(repo: Path, tiny_settings: Make) -> None:
    replayed = _replay(tiny_settings(TAGS))
    assert replayed.metrics["by_generation"] == {"Luna-G002": 40, "Luna-G001": 30}
    assert _questions(replayed.records) == _questions([*MIDDLE, *OLD])


def test_the_first_child_of_a_tag_replays_its_parent_alone(repo: Path, tiny_settings: Make) -> None:
    replayed = _replay(tiny_settings({"parent": "Luna-G001"}))
    assert replayed.metrics["by_generation"] == {"Luna-G001": 30}


def test_the_seed_decides_what_is_drawn(repo: Path, tiny_settings: Make) -> None:
    first, same, other = (
        _replay(tiny_settings({**TAGS, "seed": seed, "replay": Replay(size=10)})).records for seed in (0, 0, 1)
    )
    assert first == same
    assert _questions(first) != _questions(other)


def test_what_is_written_can_be_read_again(repo: Path, tiny_settings: Make) -> None:
    replayed = _replay(tiny_settings(TAGS))
    write_records(Path("data/replay.jsonl"), replayed.records)
    assert read_records(Path("data/replay.jsonl")) == replayed.records


@pytest.mark.parametrize(
    "params",
    [
        {},
        {**TAGS, "replay": Replay(enabled=False)},
        {**TAGS, "replay": Replay(size=0)},
    ],
    ids=["the base has no data", "disabled", "size 0"],
)
def test_nothing_is_replayed_and_no_tag_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_settings: Make, params: dict[str, Any]
) -> None:
    """The folder is no repository: whoever looks for a tag here fails."""
    monkeypatch.chdir(tmp_path)
    replayed = _replay(tiny_settings(params))
    assert replayed == Replayed([], {"total": 0, "by_generation": {}, "left_out": NOTHING_LEFT_OUT})
    write_records(Path("replay.jsonl"), replayed.records)
    assert Path("replay.jsonl").read_bytes() == b""
    assert read_records(Path("replay.jsonl"), allow_empty=True) == []


def _refused(settings: Settings, error: type[Exception] = GenerationMissing) -> str:
    with pytest.raises(error) as refused:
        _replay(settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_tag_that_does_not_exist_is_named(repo: Path, tiny_settings: Make) -> None:
    said = _refused(tiny_settings({"parent": "Luna-G099"}))
    assert said == "params.yaml: there is no git tag Luna-G099; run `git fetch --tags`"


@pytest.mark.parametrize("tag", ["Luna-G000", "Luna-G001"])
def test_data_that_is_nowhere_says_how_to_go_on(repo: Path, tiny_settings: Make, tag: str) -> None:
    """One tag never had any, the cache of the other is gone."""
    shutil.rmtree(repo / ".dvc" / "cache")
    said = _refused(tiny_settings({"parent": tag}))
    assert said.startswith(f"params.yaml: {tag}: its data/judged.jsonl is in no cache and no remote (")
    assert said.endswith("; run `dvc fetch -T`, or set replay.enabled to false")


def test_a_broken_line_names_tag_file_and_line(repo: Path, tiny_settings: Make) -> None:
    said = _refused(tiny_settings({"parent": "Luna-G003"}), BadRecord)
    assert said.startswith("Luna-G003:data/judged.jsonl:1: broken JSON at column 14 (")


# ---------------------------------------------------------------- what is left out


def test_questions_of_this_run_and_of_the_eval_set_are_left_out() -> None:
    shouted = {normalized(f"  {OLD[0].question.upper()} ")}
    replayed = _draw(OLD, this_run=shouted, in_eval=set(_questions(OLD[1:4])))
    assert _questions(replayed.records) == _questions(OLD[4:])
    assert replayed.metrics["left_out"] == {**NOTHING_LEFT_OUT, "in_this_run": 1, "in_the_eval_set": 3}


def test_what_is_left_out_does_not_count_as_drawn() -> None:
    replayed = _draw(OLD, size=20, in_eval=set(_questions(OLD[:10])))
    assert _questions(replayed.records) == _questions(OLD[10:])


def test_no_question_is_drawn_twice() -> None:
    again = [_record(OLD[0].question.upper(), id="again"), *MIDDLE]
    replayed = _draw([*OLD, OLD[3]], again)
    assert _questions(replayed.records) == _questions([*OLD, *MIDDLE])
    assert replayed.metrics["left_out"]["repeated"] == 2
    assert replayed.metrics["total"] == 70


def test_what_the_parent_could_have_given_but_did_not_is_open_to_the_grandparent() -> None:
    replayed = _draw(OLD, OLD, size=15)
    assert sorted(_questions(replayed.records)) == sorted(_questions(OLD))
    assert replayed.metrics["by_generation"] == {"Luna-G009": 15, "Luna-G008": 15}


def test_a_record_that_breaks_a_law_of_today_is_left_out() -> None:
    open_thought = {"attempt": "<think>\n2+3=5", "correct": True, "reason": "", "first_wrong_line": None, "hint": None}
    guilty = _record("What is 2+3?", "<think>\n2+3=5", attempts=[open_thought])
    replayed = _draw([guilty, *OLD])
    assert _questions(replayed.records) == _questions(OLD)
    assert replayed.metrics["left_out"]["against_a_law"] == 1
