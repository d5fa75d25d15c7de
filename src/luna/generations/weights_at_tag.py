"""The weights of an earlier generation, copied from its git tag and verified."""

import json
from pathlib import Path
from typing import Any

from luna.generations.at_tag import GenerationMissing, at_tag
from luna.lm.weights import weights_sha256


def bring_weights(root: Path, tag: str, target: Path, named_in: str = "params.yaml") -> dict[str, Any]:
    """Copy the model of a tag into a new folder `target` and return the tag's generation.json.

    Args:
        named_in: the file or command that names the tag, for errors.

    Raises:
        GenerationMissing: the tag does not exist here, its weights are in no cache or remote, or they are others than
            its generation.json says.
    """
    with at_tag(root, tag, "its weights are", named_in=named_in) as generation:
        generation.files.get("models/luna", str(target), recursive=True)
        said: dict[str, Any] = json.loads(generation.files.read_text("generation.json"))
    if said.get("weights_sha256") != weights_sha256(target) or said.get("generation") != tag:
        raise GenerationMissing(f"{named_in}: {tag}: the weights do not match its generation.json; run `dvc fetch -T`")
    return said
