"""The stages of the data engine, killed at moments of chance: little is paid twice, and the files come out the same."""

import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # processes of the tests get this path too
from kills import AT_ONCE, Kills, teaching

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two processes a trial, on machines that may be busy


@pytest.fixture(scope="module")
def kills(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kills]:
    with teaching() as server:
        yield Kills(tmp_path_factory.mktemp("kills"), tiny_model_folder, server, examples=8)


@pytest.mark.parametrize("stage", ["generate", "enhance"])
def test_a_kill_repeats_at_most_the_calls_in_flight_and_changes_no_file(kills: Kills, stage: str) -> None:
    rng = random.Random(2)
    trials = [kills.trial(stage, signal.SIGKILL, rng) for _ in range(2)]
    assert all(trial.calls - kills.calls[stage] <= AT_ONCE for trial in trials)
    assert all(trial.same for trial in trials)
    assert any(trial.in_flight for trial in trials), "it was disturbed"


@pytest.mark.parametrize("stage", ["generate", "enhance"])
def test_an_interrupt_repeats_nothing_and_changes_no_file(kills: Kills, stage: str) -> None:
    rng = random.Random(3)
    trials = [kills.trial(stage, signal.SIGTERM, rng) for _ in range(2)]
    assert all(trial.calls == kills.calls[stage] for trial in trials)
    assert all(trial.same for trial in trials)
    assert any(trial.in_flight for trial in trials)


def test_the_judge_stage_asks_nobody_and_a_kill_changes_no_file(kills: Kills) -> None:
    assert kills.calls["judge"] == 0
    assert kills.trial("judge", signal.SIGKILL, random.Random(4)).same
