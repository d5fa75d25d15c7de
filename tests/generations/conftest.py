"""A repository with a small pipeline of its own: real git, real DVC, generations that take a second each."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
LUNA = [sys.executable, "-m", "luna.cli"]

GROW = """
import json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))
folder = pathlib.Path("models/luna"); folder.mkdir(parents=True)
text = f"{params['generation']} of {params['parent']}, seed {params['seed']}, beta {params['beta']}"
(folder / "model.safetensors").write_text(text)
pathlib.Path("metrics").mkdir(exist_ok=True)
figures = {"recall": 0.5, "beta": params["beta"], "number": int(params["generation"][-3:])}
json.dump(figures, open("metrics/eval.json", "w"))
"""

PROMOTE = """
import hashlib, json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))
passed = params["beta"] <= 1
gate = {"value": params["beta"], "threshold": 1, "pass": passed, "rule": "beta <= 1"}
weights = pathlib.Path("models/luna/model.safetensors").read_bytes()
json.dump({
    "generation": params["generation"], "parent": params["parent"], "grandparent": params["grandparent"],
    "verdict": "PROMOTED" if passed else "REJECTED", "failed": [] if passed else ["recall"],
    "gates": {"recall": gate}, "weights_sha256": hashlib.sha256(weights).hexdigest(),
}, open("generation.json", "w"))
"""

KEYS = ["generation", "parent", "grandparent", "seed", "beta", "attempt"]
PIPELINE = {
    "stages": {
        "make": {
            "cmd": "python stages/make.py",
            "deps": ["stages/make.py"],
            "params": KEYS,
            "outs": ["models/luna"],
            "metrics": [{"metrics/eval.json": {"cache": False}}],
        },
        "promote": {
            "cmd": "python stages/promote.py",
            "deps": ["stages/promote.py", "models/luna", "metrics/eval.json"],
            "params": [*KEYS],
            "outs": [{"generation.json": {"cache": False}}],
        },
    }
}


@dataclass(frozen=True)
class Repository:
    """A folder to run commands in and to look at."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    @property
    def environment(self) -> dict[str, str]:
        """This tree's Luna, this interpreter's programs first, DVC's machine-wide folder apart."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        site = str(self.root.parent / "dvc")
        own = {"PYTHONPATH": str(REPO / "src"), "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        return {**kept, **own, "PATH": programs, "DVC_SITE_CACHE_DIR": site}

    def start(self, *command: str, **how: Any) -> subprocess.Popen[str]:
        """A command that runs on; `luna` is the one of this tree."""
        arguments = [*LUNA, *command[1:]] if command[0] == "luna" else list(command)
        env = {**self.environment, **how.pop("env", {})}
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.Popen(arguments, cwd=self.root, env=env, text=True, **how)

    def run(self, *command: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """A command, to its end."""
        process = self.start(*command, **how)
        said, complained = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, said, complained)

    def must(self, *command: str, **how: Any) -> str:
        """What a command prints, if it ends well."""
        done = self.run(*command, **how)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    def refused(self, *command: str, **how: Any) -> str:
        """The one line on stderr of a command that ends with exit code 1."""
        done = self.run(*command, **how)
        assert done.returncode == 1, (done.stdout + done.stderr)[-3000:]
        (line,) = done.stderr.splitlines()
        return line

    def change(self, name: str, old: str, new: str) -> None:
        """Replace what stands exactly once in a file."""
        text = (self / name).read_text()
        assert text.count(old) == 1
        (self / name).write_text(text.replace(old, new))

    def refs(self) -> str:
        """Every ref and what it points to, and HEAD."""
        return self.must("git", "for-each-ref") + self.must("git", "rev-parse", "HEAD")

    def tags(self) -> list[str]:
        """The names of all tags."""
        return self.must("git", "tag").split()

    def weights(self) -> bytes:
        """The bytes of the toy's model."""
        return (self / "models" / "luna" / "model.safetensors").read_bytes()

    def git_that_first(self, command: str, does: str) -> dict[str, str]:
        """Environment in which one of git's commands does something in the shell before it does its work."""
        script = self.root.parent / "programs" / "git"
        script.parent.mkdir()
        real = f'exec {shutil.which("git")} "$@"'
        script.write_text(f'#!/bin/sh\nif [ "$3" = {command} ]; then {does}; fi\n{real}\n')
        script.chmod(0o755)
        return {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}

    def copy(self, folder: Path) -> "Repository":
        """The same in another folder."""
        shutil.copytree(self.root, folder / "luna", symlinks=True)
        return Repository(folder / "luna")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A committed repository before its first run. For copying only."""
    repo = Repository(tmp_path_factory.mktemp("small") / "luna")
    (repo / "stages").mkdir(parents=True)
    (repo / "stages" / "make.py").write_text(GROW)
    (repo / "stages" / "promote.py").write_text(PROMOTE)
    (repo / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    shutil.copy(REPO / "params.yaml", repo.root)
    shutil.copytree(REPO / "presets", repo / "presets")
    (repo / ".gitignore").write_text("/.luna/\n")
    (repo / "models").mkdir()
    (repo / "models" / ".gitignore").write_text("/luna\n")
    repo.must("git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "Luna"), ("user.email", "luna@localhost")):
        repo.must("git", "config", key, value)
    repo.must("dvc", "init", "-q")
    repo.must("git", "add", ".")
    repo.must("git", "commit", "-q", "-m", "start")
    return repo


@pytest.fixture(scope="session")
def grown_once(fresh: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Luna-G001 released. For copying only."""
    repo = fresh.copy(tmp_path_factory.mktemp("grown"))
    repo.must("luna", "grow")
    return repo


@pytest.fixture(scope="session")
def ready_once(grown_once: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Luna-G002 opened and run, not released. For copying only."""
    repo = grown_once.copy(tmp_path_factory.mktemp("ready"))
    repo.must("luna", "next")
    repo.must("dvc", "repro", "-q")
    return repo


@pytest.fixture(scope="session")
def failing_once(grown_once: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Luna-G002 run with a beta that is rejected, not released. For copying only."""
    repo = grown_once.copy(tmp_path_factory.mktemp("failing"))
    repo.must("luna", "next")
    repo.change("params.yaml", "beta: 0.5", "beta: 2.5")
    repo.must("dvc", "repro", "-q")
    return repo


@pytest.fixture
def repo(fresh: Repository, tmp_path: Path) -> Repository:
    """A repository of one's own before its first run."""
    return fresh.copy(tmp_path)


@pytest.fixture
def grown(grown_once: Repository, tmp_path: Path) -> Repository:
    """A repository of one's own with Luna-G001 released."""
    return grown_once.copy(tmp_path)


@pytest.fixture
def ready(ready_once: Repository, tmp_path: Path) -> Repository:
    """A repository of one's own with Luna-G002 run and not released."""
    return ready_once.copy(tmp_path)


@pytest.fixture
def failing(failing_once: Repository, tmp_path: Path) -> Repository:
    """A repository of one's own with a Luna-G002 that is to be rejected."""
    return failing_once.copy(tmp_path)
