"""One model, or generations brought from their tags that speak as one; the chat on the command line."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from luna.cli import app
from luna.errors import LunaError
from luna.lm.ensemble import Ensemble
from luna.lm.load import BadModel, save_model
from luna.lm.sample import Decoding, sample_replies
from luna.lm.scratch import random_llama, train_tokenizer
from luna.lm.weights import weights_sha256
from luna.serve.speaker import load_speaker

QUESTION = [{"role": "user", "content": "What is 12+13?"}]


def _git(root: Path, *command: str) -> None:
    who = ["-c", "user.name=Luna", "-c", "user.email=luna@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *who, *command], check=True, capture_output=True)


def _nudged(source: Path, target: Path, seed: int) -> Path:
    """Another model of the same shape and tokens."""
    model = AutoModelForCausalLM.from_pretrained(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    save_model(model, AutoTokenizer.from_pretrained(source), target, "# tiny\n")
    return target


def _tag(root: Path, dvc: Any, tag: str, source: Path) -> None:
    shutil.rmtree(root / "models" / "luna", ignore_errors=True)
    shutil.copytree(source, root / "models" / "luna")
    said = {"generation": tag, "weights_sha256": weights_sha256(source)}
    (root / "generation.json").write_text(json.dumps(said))
    dvc.add(str(root / "models" / "luna"))
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", tag)
    _git(root, "tag", "-f", tag)


@pytest.fixture(scope="module")
def sources(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    return [_nudged(tiny_model_folder, folder / str(seed), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def ladder(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo with two generations, whose work tree holds none of their weights."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("ladder") / "repo"
    root.mkdir()
    _git(root, "init", "-q", "-b", "main")
    with Repo.init(str(root)) as dvc:
        for number in range(2):
            _tag(root, dvc, f"Luna-G00{number + 1}", sources[number])
    shutil.rmtree(root / "models" / "luna")
    return root


def _reply(model: Any, tokenizer: Any) -> str:
    from luna.lm.chat import prompt_ids

    [text] = sample_replies(model, tokenizer, [prompt_ids(tokenizer, QUESTION)], Decoding(0.0, 20), 0)
    return text


def _alone(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_tags_speak_alone_and_as_one(ladder: Path, sources: list[Path]) -> None:
    (first, tokenizer), (second, _) = (_alone(source) for source in sources[:2])
    for names, weights, model, called in (
        (["Luna-G002"], None, second, "Luna-G002"),
        (["Luna-G001", "Luna-G002"], None, Ensemble([first, second]), "Luna-G001+Luna-G002"),
        (["Luna-G001", "Luna-G002"], [3, 1], Ensemble([first, second], [3, 1]), "3*Luna-G001+1*Luna-G002"),
    ):
        speaker = load_speaker(names, ladder, weights)
        assert (speaker.name, speaker.context) == (called, 512)
        assert speaker.say(QUESTION, max_tokens=20).text == _reply(model, tokenizer)
    assert _reply(first, tokenizer) != _reply(second, tokenizer)


def test_a_tag_that_was_moved_is_brought_again(ladder: Path, sources: list[Path]) -> None:
    from dvc.repo import Repo

    load_speaker(["Luna-G001"], ladder)
    with Repo(str(ladder)) as dvc:
        _tag(ladder, dvc, "Luna-G003", sources[0])
        load_speaker(["Luna-G003"], ladder)
        _tag(ladder, dvc, "Luna-G003", sources[2])
    model, tokenizer = _alone(sources[2])
    assert load_speaker(["Luna-G003"], ladder).say(QUESTION, max_tokens=20).text == _reply(model, tokenizer)


def test_a_folder_is_called_after_its_weights(sources: list[Path]) -> None:
    names = {load_speaker([str(source)]).name for source in sources}
    assert names == {f"{number}-{weights_sha256(source)[:8]}" for number, source in enumerate(sources)}


@pytest.mark.parametrize("name", ["Luna-G009", "nobody", "{root}/models/lunar"])
def test_a_name_of_nobody_is_one_line(ladder: Path, name: str) -> None:
    (ladder / "models").mkdir(exist_ok=True)
    with pytest.raises(BadModel, match=r"^luna serve: .* is no folder and no git tag; see `luna ladder`"):
        load_speaker([name.replace("{root}", str(ladder))], ladder, named_in="luna serve")


def test_models_that_do_not_fit_together_are_refused(sources: list[Path], tmp_path: Path) -> None:
    names = [str(source) for source in sources[:2]]
    with pytest.raises(LunaError, match="2 models and 1 weights"):
        load_speaker(names, weights=[1.0])
    tokenizer = train_tokenizer(["other words entirely, said often"] * 40, 320)
    shape = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_length": 512}
    save_model(random_llama(tokenizer, seed=0, **shape), tokenizer, tmp_path / "foreign", "# x\n")
    with pytest.raises(LunaError, match=r"^foreign-\w+: has other tokens than 0-\w+; an ensemble needs models of one"):
        load_speaker([names[0], str(tmp_path / "foreign")])


def test_a_chat_remembers_and_begins_anew(sources: list[Path]) -> None:
    speaker = load_speaker([str(sources[0]), str(sources[1])])
    first = speaker.say(QUESTION, max_tokens=8).text
    follow = {"role": "user", "content": "And 3 more?"}
    second = speaker.say([*QUESTION, {"role": "assistant", "content": first}, follow], max_tokens=8).text
    said = "What is 12+13?\nAnd 3 more?\n/new\nWhat is 12+13?\n\nnot heard\n"
    names = [str(sources[0]), str(sources[1])]
    done = CliRunner().invoke(app, ["chat", *names, "--max-tokens", "8"], input=said)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{speaker.name}; /new begins anew, an empty line ends\n{first}\n{second}\n{first}\n"


def test_a_tree_without_a_model_is_one_line(tmp_path: Path) -> None:
    for command in ("chat", "serve"):
        done = CliRunner().invoke(app, [command, "--root", str(tmp_path)])
        assert (done.exit_code, done.stderr) == (
            1,
            f"luna {command}: {tmp_path}/models/luna: no such folder; run `dvc repro`, or name a model\n",
        )
