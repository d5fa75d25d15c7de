"""A repository with a small pipeline of its own: real git, real DVC, generations that take a second each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]

GROW = """
import json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))
folder = pathlib.Path("models/luna"); folder.mkdir(parents=True)
text = f"{params['generation']} of {params['parent']}, seed {params['seed']}, beta {params['beta']}"
(folder / "model.safetensors").write_text(text)
pathlib.Path("metrics").mkdir(exist_ok=True)
json.dump({"recall": 0.5, "beta": params["beta"]}, open("metrics/eval.json", "w"))
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
            "params": KEYS,
            "outs": [{"generation.json": {"cache": False}}],
        },
    }
}


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in a repository, with this interpreter's programs first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**kept, "PATH": programs, "DVC_SITE_CACHE_DIR": str(root.parent / "dvc")}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


def must(root: Path, *command: str) -> str:
    """What a command prints, if it ends well."""
    done = run(root, *command)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed repository before its first run. For copying only."""
    root = tmp_path_factory.mktemp("small") / "luna"
    (root / "stages").mkdir(parents=True)
    (root / "stages" / "make.py").write_text(GROW)
    (root / "stages" / "promote.py").write_text(PROMOTE)
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    shutil.copy(REPO / "params.yaml", root)
    shutil.copytree(REPO / "presets", root / "presets")
    (root / ".gitignore").write_text("/.luna/\n")
    (root / "models").mkdir()
    (root / "models" / ".gitignore").write_text("/luna\n")
    must(root, "git", "init", "-q", "-b", "main")
    for key, value in (("user.name", "Luna"), ("user.email", "luna@localhost")):
        must(root, "git", "config", key, value)
    must(root, "dvc", "init", "-q")
    must(root, "git", "add", ".")
    must(root, "git", "commit", "-q", "-m", "start")
    return root


@pytest.fixture
def repo(fresh: Path, tmp_path: Path) -> Path:
    """A repository of one's own before its first run."""
    root = tmp_path / "luna"
    shutil.copytree(fresh, root, symlinks=True)
    return root


@pytest.fixture(scope="session")
def grown_once(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with Luna-G001 released. For copying only."""
    root = tmp_path_factory.mktemp("grown") / "luna"
    shutil.copytree(fresh, root, symlinks=True)
    must(root, "luna", "grow")
    return root


@pytest.fixture
def grown(grown_once: Path, tmp_path: Path) -> Path:
    """A repository of one's own with Luna-G001 released."""
    root = tmp_path / "luna"
    shutil.copytree(grown_once, root, symlinks=True)
    return root
