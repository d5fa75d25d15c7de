"""Every stage as its user meets it: help at once, bad input in one line that costs nothing, a graph that holds true.

What a stage makes of good input is tested in test_pipeline.py.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from luna.settings import load_settings

REPO = Path(__file__).parents[1]
SRC = REPO / "src"
GRAPH: dict[str, dict[str, Any]] = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = list(GRAPH)
COMMANDS = {
    **{name: [f"stages/{name}.py"] for name in STAGES},
    "luna": ["-m", "luna.cli"],
    "luna card": ["-m", "luna.cli", "card"],
    "luna generate": ["-m", "luna.cli", "generate"],
    "luna compare-approaches": ["-m", "luna.cli", "compare-approaches"],
    "luna enhance-thinking": ["-m", "luna.cli", "enhance-thinking"],
    "luna check-judge": ["-m", "luna.cli", "check-judge"],
    "enhance-thinking": ["-m", "luna.enhance.command"],
}
HEAVY = {"torch", "transformers", "litellm", "dvc", "trl", "peft", "datasets", "unsloth", "bitsandbytes"}


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python as a stage of this tree gets it, without anybody's keys."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    env = {**kept, "PYTHONPATH": str(SRC), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_without_heavy_imports(name: str) -> None:
    done = _run("-X", "importtime", *COMMANDS[name], "--help", cwd=REPO)
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & HEAVY


# ---------------------------------------------------------------- bad input

GOOD = '{"messages": [{"role": "user", "content": "What is 12+13?"}, {"role": "assistant", "content": "25"}]}\n'
BASE = {"gen": None, "source": "base", "path": "models/base"}
Spoil = Callable[[Path], None]


def _write(files: dict[str, str]) -> Spoil:
    def spoil(root: Path) -> None:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")

    return spoil


def _set(file: str, key: str, value: Any) -> Spoil:
    """A spoiler that sets one key (`a.b`) of a YAML file."""

    def spoil(root: Path) -> None:
        whole = yaml.safe_load((root / file).read_text(encoding="utf-8"))
        *sections, last = key.split(".")
        section = whole
        for name in sections:
            section = section[name]
        section[last] = value
        (root / file).write_text(yaml.safe_dump(whole), encoding="utf-8")

    return spoil


def _append(file: str, more: bytes) -> Spoil:
    def spoil(root: Path) -> None:
        (root / file).write_bytes((root / file).read_bytes() + more)

    return spoil


def _remove(path: str) -> Spoil:
    return lambda root: (root / path).unlink()


def _all(*spoilers: Spoil) -> Spoil:
    def spoil(root: Path) -> None:
        for one in spoilers:
            one(root)

    return spoil


UNKNOWN_LAW = b"- {id: new, scope: [data], says: New., check: {predicate: nosuch}}\n"
FOR_JUDGE = {
    "data/enhanced.jsonl": GOOD,
    "data/dialogues.jsonl": '{"context": [], "turns": []}\n',
    "data/eval/items.jsonl": "",
}
ONLY_THE_BASE = json.dumps({"parent": BASE, "grandparent": BASE})

# What a user may do wrong: the stage, what is wrong, and the one line that says so after the stage's name.
BAD_INPUT: dict[str, tuple[str, Spoil, str]] = {
    "a malformed line for enhance": (
        "enhance",
        _write({"data/raw.jsonl": GOOD + '{"messages": oops}\n'}),
        r"data/raw\.jsonl:2: broken JSON at column 14 \(.+\); mend the line",
    ),
    "a malformed line for train_sft": (
        "train_sft",
        _write({"data/judged.jsonl": GOOD * 2 + '{"messages": oops}\n'}),
        r"data/judged\.jsonl:3: broken JSON at column 14 \(.+\); mend the line",
    ),
    "no record": (
        "judge",
        _write({**FOR_JUDGE, "data/enhanced.jsonl": "\n"}),
        r"data/enhanced\.jsonl: holds no record; give at least one line of JSON",
    ),
    "a line without a question": (
        "judge",
        _write({**FOR_JUDGE, "data/enhanced.jsonl": '{"messages": []}\n'}),
        r"data/enhanced\.jsonl:1: messages: needs a user turn .+",
    ),
    "no eval set": (
        "judge",
        _write({"data/enhanced.jsonl": GOOD}),
        r"data/eval/items\.jsonl: no such file; run `dvc repro.*`",
    ),
    "dialogues of another run": (
        "judge",
        _write({**FOR_JUDGE, "data/enhanced.jsonl": GOOD * 2}),
        r"data/dialogues\.jsonl: .+; run `dvc repro.*`",
    ),
    "broken JSON of another stage": (
        "generate",
        _write({"metrics/frontier.json": "{"}),
        r"metrics/frontier\.json: .*broken JSON.*; run `dvc repro.*`",
    ),
    "an unknown key": (
        "promote",
        _set("params.yaml", "betta", 1),
        r"params\.yaml: betta: unknown key; did you mean beta\?",
    ),
    "an unknown key of a section": (
        "eval_set",
        _set("params.yaml", "evaluate.recal_items", 1),
        r"params\.yaml: evaluate\.recal_items: unknown key; did you mean recall_items\?",
    ),
    "a wrong type": ("distill", _set("params.yaml", "beta", "much"), r"params\.yaml: beta: .+'much'; mend the value"),
    "no examples asked for": (
        "generate",
        _set("params.yaml", "generate.num_examples", 0),
        r"params\.yaml: generate\.num_examples: .+ not 0; mend the value",
    ),
    "an unknown preset": (
        "pretrain",
        _set("params.yaml", "preset", "nosuch"),
        r"params\.yaml: preset: there is no presets/nosuch\.yaml; choose one of .*embedded.*smoke.*",
    ),
    "a wrong key of a preset": (
        "frontier",
        _set("presets/smoke.yaml", "student.temprature", 1.0),
        r"presets/smoke\.yaml: student\.temprature: unknown key; did you mean temperature\?",
    ),
    "broken YAML in params": (
        "evaluate",
        _append("params.yaml", b"x: [1\ny: 2\n"),
        r"params\.yaml: is no YAML: .+; mend that line",
    ),
    "broken YAML in a preset": (
        "enhance",
        _append("presets/smoke.yaml", b"x: [1\ny: 2\n"),
        r"presets/smoke\.yaml: is no YAML: .+; mend that line",
    ),
    "params in another encoding": (
        "promote",
        _append("params.yaml", b"# \xfc\n"),
        r"params\.yaml: is not UTF-8.*; save it as UTF-8",
    ),
    "broken YAML in the laws": (
        "judge",
        _all(_write(FOR_JUDGE), _append("laws.yaml", b"- id: [\n")),
        r"laws\.yaml: is no YAML: .+; mend that line",
    ),
    "an unknown predicate": (
        "judge",
        _all(_write(FOR_JUDGE), _append("laws.yaml", UNKNOWN_LAW)),
        r"laws\.yaml: new: check\.predicate: unknown predicate 'nosuch'; choose one of .+",
    ),
    "no key for the teacher": (
        "generate",
        _all(
            _write({"metrics/frontier.json": '{"weights": null}'}),
            _set("presets/smoke.yaml", "teacher.model", "openai/gpt-4o-mini"),
        ),
        r"teacher\.model: openai/gpt-4o-mini needs OPENAI_API_KEY; export it or .+",
    ),
    "a missing metric": (
        "promote",
        _remove("metrics/eval.json"),
        r"metrics/eval\.json: no such file; run `dvc repro evaluate`",
    ),
    "no such teacher": (
        "distill",
        _all(
            _write({"data/judged.jsonl": GOOD, "models/teachers/teachers.json": ONLY_THE_BASE}),
            _set("params.yaml", "teachers.primary", "Luna-G009"),
        ),
        r"params\.yaml: teachers.*: Luna-G009 is nobody; choose one of .+",
    ),
    "no such tag": (
        "teachers",
        _set("params.yaml", "parent", "Luna-G009"),
        r"params\.yaml: there is no git tag Luna-G009; run .+",
    ),
    "no such tag to replay": (
        "replay",
        _all(
            _write({"data/judged.jsonl": GOOD, "data/eval/items.jsonl": ""}),
            _set("params.yaml", "parent", "Luna-G009"),
        ),
        r"params\.yaml: there is no git tag Luna-G009; run .+",
    ),
    "nothing but replayed data for train_sft": (
        "train_sft",
        _write({"data/judged.jsonl": "\n", "data/replay.jsonl": GOOD}),
        r"data/judged\.jsonl: holds no record; give at least one line of JSON",
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a stage needs of the repo, and an earlier result at each place where a stage writes."""
    for name in ("params.yaml", "laws.yaml"):
        shutil.copy(REPO / name, tmp_path)
    shutil.copytree(REPO / "presets", tmp_path / "presets")
    _set("params.yaml", "preset", "smoke")(tmp_path)
    for path in _outs():
        earlier = tmp_path / (path if Path(path).suffix else f"{path}/earlier.txt")
        earlier.parent.mkdir(parents=True, exist_ok=True)
        earlier.write_text("earlier\n")
    return tmp_path


def _bytes(root: Path) -> dict[Path, bytes]:
    """Every file but those in .luna, which no stage hands on."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path: (root / path).read_bytes() for path in files if path.parts[0] != ".luna"}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_costs_nothing(root: Path, case: str) -> None:
    stage, spoil, says = BAD_INPUT[case]
    spoil(root)
    before = _bytes(root)
    done = _run(REPO / "stages" / f"{stage}.py", cwd=root)
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    assert len(lines) == 1, f"{len(lines)} lines that end with: {lines[-1]}"
    assert re.fullmatch(rf"{stage}: {says}", lines[0]), lines[0]
    assert _bytes(root) == before


def test_a_card_without_a_generation_is_one_line(tmp_path: Path) -> None:
    done = _run("-m", "luna.cli", "card", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr == "luna card: generation.json: no such file; run `dvc repro`\n"


# ---------------------------------------------------------------- the graph


def _paths(entries: list[Any]) -> list[str]:
    """The paths of a list in dvc.yaml, whose entries are strings or have options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _deps(stage: str) -> list[str]:
    laws = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))["laws"]
    return [path.replace("${laws}", laws) for path in _paths(GRAPH[stage]["deps"])]


def _outs(stage: str | None = None) -> list[str]:
    named = [GRAPH[stage]] if stage else list(GRAPH.values())
    return [path for one in named for kind in ("outs", "metrics", "plots") for path in _paths(one.get(kind, []))]


def test_every_script_is_a_stage_bound_to_its_own_tree() -> None:
    assert {path.stem for path in (REPO / "stages").glob("*.py")} == set(STAGES)
    for name, stage in GRAPH.items():
        assert stage["cmd"] == f"PYTHONPATH=src python stages/{name}.py"
        assert f"stages/{name}.py" in _deps(name)


@pytest.mark.parametrize("stage", STAGES)
def test_every_dep_stands_in_the_repo_or_comes_from_another_stage(stage: str) -> None:
    others = {path for name in STAGES if name != stage for path in _outs(name)}
    assert [path for path in _deps(stage) if path not in others and not (REPO / path).exists()] == []


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_script_reads_and_writes_is_known_to_the_graph(stage: str) -> None:
    """A path that no stage declares must at least be out of git's sight."""
    known = [*_deps(stage), *_outs(stage)]
    script = (REPO / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    unknown = [path for path in re.findall(r'= Path\("([^"]+)"\)', script) if path not in known]
    ignored = subprocess.run(["git", "check-ignore", *unknown], cwd=REPO, capture_output=True, text=True, check=False)
    assert [path for path in unknown if path not in ignored.stdout.split()] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "presets").glob("*.yaml")))
def test_every_preset_holds_the_sections_that_the_graph_tracks(name: str) -> None:
    """DVC refuses to run a stage whose params are missing, even where the settings have defaults."""
    preset = yaml.safe_load((REPO / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    tracked = {
        key
        for stage in GRAPH.values()
        for entry in stage["params"]
        if isinstance(entry, dict)
        for key in entry["presets/${preset}.yaml"]
    }
    missing = sorted(key for key in tracked if not _holds(preset, key))
    assert not missing, f"presets/{name}.yaml lacks {missing}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_of_a_stage_exist(stage: str) -> None:
    params = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    tracked = [entry for entry in GRAPH[stage]["params"] if isinstance(entry, str)]
    assert [key for key in tracked if not _holds(params, key)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tracks_the_settings_that_its_package_reads(stage: str) -> None:
    tracked = [entry for entry in GRAPH[stage]["params"] if isinstance(entry, str)]
    tracked += [
        key for entry in GRAPH[stage]["params"] if isinstance(entry, dict) for key in next(iter(entry.values()))
    ]
    settings = load_settings(REPO)
    known = (settings.params.model_dump(), settings.preset.model_dump())
    files = [REPO / "stages" / f"{stage}.py", *(SRC / "luna" / stage).glob("*.py")]
    named = {key for path in files for key in _settings_read(path.read_text(encoding="utf-8"))}
    read = {key for key in named if any(_holds(section, key) for section in known)}
    missing = sorted(key for key in read if not any(_overlap(key, other) for other in tracked))
    assert not missing, f"params of {stage} lack {missing}"


def _settings_read(text: str) -> list[str]:
    """Keys that a module names as `settings.params.a.b`, or as `params.a.b` where that is not the name of a section."""
    names_a_section = re.search(r"\bparams = settings\.params\.", text)
    start = r"settings\." if names_a_section else r"\b"
    return re.findall(rf"{start}(?:params|preset)\.([a-z_]+(?:\.[a-z_]+)?)", text)


def _overlap(one: str, other: str) -> bool:
    """Equal keys, or a section and a key of it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _holds(section: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(section, dict) or name not in section:
            return False
        section = section[name]
    return True


# What every stage stands on. It carries results and decides none: settings count by the values in the params of a
# stage, and a new key there must not train the base again.
FRAME = {SRC / "luna" / f"{name}.py" for name in ("errors", "outputs", "progress", "records", "settings", "stage")}


@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_reruns_every_stage_that_imports_it(stage: str) -> None:
    imported = _imported_by(REPO / "stages" / f"{stage}.py")
    missing = [_named(path) for path in sorted(imported) if not any(_covers(dep, path) for dep in _deps(stage))]
    assert not missing, f"deps of {stage} lack {missing}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_reruns_for_code_that_it_never_imports(stage: str) -> None:
    imported = _imported_by(REPO / "stages" / f"{stage}.py")
    source = [dep for dep in _deps(stage) if dep.startswith("src/")]
    assert [dep for dep in source if not any(_covers(dep, path) for path in imported)] == []


def _covers(dep: str, path: Path) -> bool:
    return path == REPO / dep or REPO / dep in path.parents


def _named(path: Path) -> str:
    return str(path.relative_to(REPO))


def _imported_by(script: Path) -> set[Path]:
    """The files of the package that a script imports, by whatever way; none of the frame, and no empty __init__."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        new = {path for name in _imports(ast.parse(waiting.pop().read_text(encoding="utf-8"))) for path in _files(name)}
        waiting += new - found - FRAME
        found |= new
    return {path for path in found - FRAME if not _is_hollow(path)}


def _imports(node: ast.AST) -> Iterator[str]:
    """Names of modules that are imported anywhere below a node, except for type checkers."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def _files(name: str) -> Iterator[Path]:
    """The files that an import of `luna.a.b` or of a name in it runs."""
    parts = name.split(".")
    if parts[0] != "luna":
        return
    for length in range(1, len(parts) + 1):
        path = SRC.joinpath(*parts[:length])
        yield from (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file())


def _is_hollow(path: Path) -> bool:
    """Nothing but a docstring."""
    return all(isinstance(part, ast.Expr) for part in ast.parse(path.read_text(encoding="utf-8")).body)


def test_the_walk_of_imports_sees_what_it_should() -> None:
    imported = {_named(path) for path in _imported_by(REPO / "stages" / "evaluate.py")}
    assert {"src/luna/evaluate/run.py", "src/luna/evaluate/tone.py", "src/luna/lm/load.py"} <= imported
    assert not imported & {"src/luna/settings.py", "src/luna/pretrain/run.py", "src/luna/promote/gates.py"}
