"""Replies to the eval set, kept on disk: a base or a parent says once what it would only say again.

A child's replies are kept too: it is the parent of the next generation, whose tag brings back the same bytes. The child
itself is asked in every evaluation, so a generation is never judged by what was looked up, and one that is grown again
says its replies again. Sampling is seeded: the results are the same bytes whether a model was asked or not.

Layout: `.luna/eval_replies/KEY.txt`: a line with the hash of key and content, then replies and how they were asked.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from luna.eval_set.items import EvalItem
from luna.evaluate.asking import Asked, decoding_of, mark
from luna.kept import code_sha256, kept_folder
from luna.lm.weights import model_key
from luna.outputs import read_json, write_text
from luna.progress import say
from luna.settings import Model, Settings

FOLDER = "eval_replies"


def kept_file(settings: Settings, path: str, items: Sequence[EvalItem], root: Path) -> Path | None:
    """Where the replies of a model are kept, named by all that they depend on.

    Args:
        path: a folder with full weights or with an adapter, or a hub name.

    Returns:
        None for a model that is always asked: a name of the hub may mean other files tomorrow.
    """
    model = settings.preset.model
    beside = _beside_weights(path, model)
    if beside is None:
        return None
    asked = [items, vars(decoding_of(settings)), settings.params.evaluate.seed]
    by = [model_key(path, model), beside, model.model_dump(), version("transformers"), code_sha256()]
    key = hashlib.sha256(json.dumps([asked, by]).encode()).hexdigest()[:32]
    return kept_folder(root) / FOLDER / f"{key}.txt"


def recall(file: Path | None, items: Sequence[EvalItem], name: str) -> Asked | None:
    """The kept replies, marked anew; None if there are none, or if they are not as they were written."""
    if file is None or not file.is_file():
        return None
    seal, _, content = file.read_bytes().partition(b"\n")
    if seal != _seal(file, content).encode():
        say(f"evaluate  {file}: is damaged; {name} is asked again")
        return None
    found = json.loads(content)
    return mark(items, found["replies"], None, found["how"], name)


def keep(file: Path | None, asked: Asked) -> None:
    """Keep a model's replies, unless they were looked up or the model is one that is always asked."""
    if file is None or asked.seconds is None:
        return
    content = json.dumps({"replies": asked.replies, "how": asked.how})
    write_text(file, f"{_seal(file, content.encode())}\n{content}")


def _seal(file: Path, content: bytes) -> str:
    return hashlib.sha256(f"{file.stem}\n".encode() + content).hexdigest()


def _beside_weights(path: str, model: Model) -> list[str] | None:
    """What a model is beside its weights: config, tokenizer, template, and those of an adapter's base.

    A hub name stands for its files where the preset pins it to a commit.
    """
    folder = Path(path)
    if not folder.is_dir():
        pinned = path == model.base and re.fullmatch("[0-9a-f]{40}", model.revision or "")
        return [path, str(model.revision)] if pinned else None
    found = [
        f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix not in (".safetensors", ".md")
    ]
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return found
    base = _beside_weights(read_json(adapter)["base_model_name_or_path"], model)
    return None if base is None else found + base
