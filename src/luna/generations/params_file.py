"""Changing keys of params.yaml while its comments, order and other values stay."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luna.outputs import replacing


def edit_params(path: Path, changes: Mapping[str, Any]) -> None:
    """Set keys, written with dots for nested ones (`distill.ema`), in a YAML file.

    Raises:
        KeyError: a key does not stand in the file.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL, "null"))
    document = yaml.load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = document
        for part in sections:
            section = section[part]
        if name not in section:
            raise KeyError(key)
        section[name] = value
    with replacing(path) as aside, aside.open("w", encoding="utf-8") as handle:
        yaml.dump(document, handle)


_NULL = "tag:yaml.org,2002:null"
