"""Several ranks under torchrun learn what one does, leave one result, and never pass for more than they are."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from luna.distill.run import Distilled, distill
from luna.errors import LunaError
from luna.lm.chat import Example
from luna.lm.load import LoadedModel
from luna.lm.reproducible import set_reproducible
from luna.records import Record, read_records, write_records
from luna.settings import Lora, Settings, Training
from luna.stage import running
from luna.train_sft.run import FineTuned, fine_tune
from luna.training.batches import LengthBuckets
from luna.training.sharding import shard
from luna.training.trainer import TokenTrainer, make_trainer

REPO = Path(__file__).parents[2]
Make = Callable[..., Settings]
# In folder after folder, as a stage does it: whole models distil, interrupted once after a checkpoint, then with other
# betas; sharded ones are fine-tuned and distilled. Each rank tells what it alone can know, its averaged weights or the
# size of its part among it.
CHILD = """
import hashlib, json, os, sys
from contextlib import suppress
from pathlib import Path
from luna.distill import run
from luna.lm.reproducible import set_reproducible
from luna.progress import say
from luna.records import read_records
from luna.settings import load_settings
from luna.stage import ROOT, running
from luna.train_sft.run import fine_tune

held, seen = {}, []
follow, make_trainer = run.AveragedWeights.on_step_end, run.make_trainer

def interrupted_once(self, args, state, control, **rest):
    seen.append(self)
    if len(seen) == 11:
        raise InterruptedError
    follow(self, args, state, control, **rest)

def weighed(kind, model, *args, **named):
    held["of"] = sum(p.numel() for p in model.parameters())
    held["here"] = sum(p.to_local().numel() for p in model.parameters() if hasattr(p, "to_local"))
    return make_trainer(kind, model, *args, **named)

def tell(name, told):
    Path(f"{name}-{os.environ['RANK']}.json").write_text(json.dumps(told))

def whole(settings, records):
    seen.clear()
    run.AveragedWeights.on_step_end = interrupted_once
    for name, beta in (("interrupted", 0.5), ("two", 0.5), ("whole", 0.9), ("again", 0.8)):
        asked = settings.model_copy(update={"params": settings.params.model_copy(update={"beta": beta})})
        with suppress(InterruptedError):
            done = run.distill(asked, records, ROOT, Path(f"models/{name}"), Path(f".luna/{beta}"))
            weights = b"".join(p.detach().numpy().tobytes() for p in seen[-1].live)
            tell(name, {"metrics": done.metrics, "log": done.log, "weights": hashlib.sha256(weights).hexdigest()})
    run.AveragedWeights.on_step_end = follow

def sharded(settings, records):
    run.make_trainer = weighed
    tuned = fine_tune(settings, records, ROOT, Path("models/sft"), Path(".luna/two"))
    done = run.distill(settings, records, ROOT, Path("models/two"), Path(".luna/two"))
    tell("two", {"logs": [tuned.log, done.log], **held})
    run.make_trainer = make_trainer

top = Path.cwd()
os.chdir(sys.argv[1])
with running("distill", torch=True, ranks=True):
    for folder in sys.argv[1:]:
        os.chdir(top / folder)
        say(f"== {folder}")
        settings = load_settings(ROOT)
        set_reproducible(settings.params.seed, settings.params.threads)
        (sharded if settings.preset.distill.shard else whole)(settings, read_records(Path("data/judged.jsonl")))
"""


def _settings(make: Make, lora: Lora | None, batch_size: int) -> Settings:
    """Some epochs of accumulated batches, of which the last of an epoch is not whole, and a checkpoint on the way."""
    length = {"epochs": None, "max_steps": 12, "save_steps": 10, "learning_rate": 1e-3, "warmup_ratio": 0.0}
    update = {**length, "batch_size": batch_size, "gradient_accumulation": 2}
    rungs = {name: getattr(make().preset, name).model_copy(update=update) for name in ("sft", "distill")}
    model = make().preset.model.model_copy(update={"lora": lora})
    # About the median of the tiny model's confidence, so that branches matter.
    dials = make().params.distill.model_copy(update={"js_threshold": 0.0, "confidence_threshold": 0.005})
    wired = {"alpha": 0.5, "beta": 0.5, "gamma": 0.2, "residual": "agreement", "distill": dials}
    return make({"preset": "ranks", **wired}, {"model": model, **rungs})


def _write_settings(settings: Settings) -> None:
    Path("presets").mkdir(exist_ok=True)
    for path, section in (("params.yaml", settings.params), ("presets/ranks.yaml", settings.preset)):
        Path(path).write_text(yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _torchrun(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Two ranks of a Python script on this machine's processors."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    env = {**kept, "PYTHONPATH": str(REPO / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, *command], env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def _same_curve(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for row, twin in zip(one, other, strict=True):
        assert row == pytest.approx(twin, rel=1e-5, abs=1e-6)


def _same_weights(one: Path, other: Path) -> None:
    [file] = one.glob("*.safetensors")
    tensors, others = load_file(file), load_file(other / file.name)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stage_on_two_ranks_tunes_as_it_does_on_one(
    luna_root: Path, tiny_settings: Make, accepted_records: list[Record]
) -> None:
    records = _write_data(accepted_records)
    lora = Lora(rank=2, alpha=4)
    one = fine_tune(
        _settings(tiny_settings, lora, batch_size=4), records, luna_root, Path("models/one"), Path(".luna/one")
    )
    _write_settings(_settings(tiny_settings, lora, batch_size=2))
    said = _torchrun(REPO / "stages" / "train_sft.py")
    tuned = json.loads(Path("metrics/train_sft.json").read_text())
    assert said.stdout.count("the student starts from") == 1
    assert tuned["final_loss"] == pytest.approx(one.metrics["final_loss"], rel=1e-5)
    assert {**tuned, "final_loss": 0, "tokens_seen": 0} == {**one.metrics, "final_loss": 0, "tokens_seen": 0}
    _same_weights(Path("models/one"), Path("models/sft"))


def _write_data(accepted_records: list[Record]) -> list[Record]:
    """Data as a stage finds it, and the records read back from it."""
    set_reproducible(0, 1)
    Path("data").mkdir()
    write_records(Path("data/judged.jsonl"), accepted_records[:9])
    Path("data/replay.jsonl").touch()
    return read_records(Path("data/judged.jsonl"))


@dataclasses.dataclass(frozen=True)
class Both:
    """A folder in which one rank and two trained the same, the curves of the one, and what the two said."""

    folder: Path
    one: list[FineTuned | Distilled]
    said: str

    def told(self, name: str = "two") -> list[dict[str, Any]]:
        """What each of the two ranks told of a run."""
        return [json.loads((self.folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


KINDS = {
    "full weights": (None, False),
    "lora": (Lora(rank=2, alpha=4), False),
    "full weights, sharded": (None, True),
    "lora, sharded": (Lora(rank=2, alpha=4), True),
}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    make_root: Callable[[Path], None],
    tiny_settings: Make,
    accepted_records: list[Record],
) -> dict[str, Both]:
    """All kinds of training on one rank, here, and on two: one launch for all, since most of its time is imports."""
    top = tmp_path_factory.mktemp("ranks")
    one = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, (lora, sharded) in KINDS.items():
            make_root(top / name)
            patch.chdir(top / name)
            one[name] = _train_alone(tiny_settings, accepted_records, lora, sharded)
        patch.chdir(top)
        Path("child.py").write_text(CHILD)
        said = _torchrun("child.py", *KINDS).stdout.split("== ")[1:]
    return {name: Both(top / name, one[name], text) for name, text in zip(KINDS, said, strict=True)}


def _train_alone(
    make: Make, accepted_records: list[Record], lora: Lora | None, sharded: bool
) -> list[FineTuned | Distilled]:
    """Both rungs on one rank, and everything ready for two that take half of each batch."""
    records = _write_data(accepted_records)
    alone = _settings(make, lora, batch_size=4)
    together = _settings(make, lora, batch_size=2)
    if sharded:
        alone, together = _shorter(alone, shard=False), _shorter(together, shard=True)
    tuned = fine_tune(alone, records, Path(), Path("models/sft"), Path(".luna/one"))
    done = distill(alone, records, Path(), Path("models/one"), Path(".luna/one"))
    shutil.rmtree(".luna/teacher_states")
    if sharded:  # the two will tune one of their own
        Path("models/sft").rename("models/one-sft")
    _write_settings(together)
    return [tuned, done]


def _shorter(settings: Settings, *, shard: bool) -> Settings:
    change = {"save_steps": None, "shard": shard, "max_steps": 6}
    rungs = {name: getattr(settings.preset, name).model_copy(update=change) for name in ("sft", "distill")}
    return settings.model_copy(update={"preset": settings.preset.model_copy(update=rungs)})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["full weights", "lora"])
def test_two_ranks_learn_what_one_does(trained: dict[str, Both], kind: str) -> None:
    both = trained[kind]
    first, second = both.told()
    one = both.one[-1]
    assert first == second
    assert both.said.count("goes on from step 10 of an interrupted run") == 1
    assert "samples read by T1 0, by T2 0" in both.said.splitlines()[-1]  # what each rank kept is there for both
    _same_curve(one.log, first["log"])
    shares = ("blended", "t1_only", "gold_fallback", "skip")
    assert [first["metrics"][name] for name in shares] == pytest.approx(
        [one.metrics[name] for name in shares], abs=0.01
    )
    assert 0 < first["metrics"]["t1_only"] < 1
    _same_weights(both.folder / "models" / "one", both.folder / "models" / "two")
    left = {path.name for path in (both.folder / "models").iterdir()}
    assert left == {"again", "base", "one", "sft", "teachers", "two", "whole"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["full weights, sharded", "lora, sharded"])
def test_two_ranks_that_hold_half_of_every_weight_learn_what_one_does(trained: dict[str, Both], kind: str) -> None:
    both = trained[kind]
    first, second = both.told()
    assert first["logs"] == second["logs"]
    assert first["here"] + second["here"] == first["of"] == second["of"]
    assert second["here"] > 0.3 * first["of"]
    for one, shared in zip(both.one, first["logs"], strict=True):
        _same_curve(one.log, shared)
    _same_weights(both.folder / "models" / "one-sft", both.folder / "models" / "sft")
    _same_weights(both.folder / "models" / "one", both.folder / "models" / "two")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, r"there is one rank; start the stage with torchrun or set shard to false"),
        ({"load_in_4bit": True}, r"4-bit weights and unsloth's cannot be sharded; set shard to false"),
        ({"backend": "unsloth"}, r"4-bit weights and unsloth's cannot be sharded; .*"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    tiny: Callable[[], LoadedModel],
    training: Callable[..., Training],
    change: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = tiny()
    loaded = dataclasses.replace(loaded, settings=loaded.settings.model_copy(update=change))
    if change:
        monkeypatch.setattr("luna.training.sharding.world_size", lambda: 2)
    with pytest.raises(LunaError, match=rf"^sft: shard: {reason}$"):
        shard(loaded, training(shard=True), "sft")
    shard(loaded, training(), "sft")


@pytest.mark.parametrize("change", [{"save_steps": 10}, {"early_stopping": {}}])
def test_what_does_not_go_with_shards_is_told_when_settings_are_read(
    change: dict[str, Any], training: Callable[..., Training]
) -> None:
    with pytest.raises(ValidationError, match=rf"{next(iter(change))} does not go with shard; set "):
        training(shard=True, **change)


def test_a_last_batch_that_is_not_whole_gives_each_rank_its_slice() -> None:
    order = list(LengthBuckets([5] * 13, 8, seed=0, fill_to=8))
    assert sorted(order[:13]) == list(range(13))
    assert order[13:] == [13, 13, 13]
    assert list(LengthBuckets([5] * 13, 8, seed=0)) == order[:13]
    assert list(LengthBuckets([5] * 13, 8, seed=0, fill_to=2)) == [*order[:13], 13]


def test_a_run_that_would_be_one_rank_of_several_is_refused(
    tmp_path: Path,
    tiny: Callable[[], LoadedModel],
    examples: list[Example],
    training: Callable[..., Training],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = tiny()

    def make() -> None:
        named: dict[str, Any] = {"title": "sft", "output_dir": tmp_path, "seed": 0}
        make_trainer(TokenTrainer, loaded.model, loaded.tokenizer, examples, training(), **named)

    with monkeypatch.context() as patch:
        patch.setattr("luna.training.trainer.world_size", lambda: 2)
        with pytest.raises(LunaError, match=r"^sft: WORLD_SIZE is 2 and 1 would train; .* unset WORLD_SIZE$"):
            make()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LunaError, match=r"^WORLD_SIZE is 2 but RANK is not set, .* or unset WORLD_SIZE$"):
        make()


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("distill", "but RANK is not set, so nobody started that many ranks; start them with `torchrun"),
        ("judge", "but RANK is not set"),
    ],
)
def test_a_stage_that_nobody_started_as_several_ranks_ends_in_one_line(stage: str, says: str, luna_root: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPO / "src"), "WORLD_SIZE": "2"}
    command = [sys.executable, REPO / "stages" / f"{stage}.py"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{stage}: WORLD_SIZE is 2 {says}")


def test_a_stage_that_is_one_process_refuses_torchrun(monkeypatch: pytest.MonkeyPatch, luna_root: Path) -> None:
    started = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit), running("judge"):
        pytest.fail("it ran")
    assert not Path(".luna").exists()
