"""Where a rung's curves go beside Luna's own log: to Weights & Biases or DVCLive, if the preset says so.

Neither is needed by Luna. What they write stays in `.luna/reports`, out of the tree that DVC tracks.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from luna.errors import LunaError
from luna.kept import kept_folder
from luna.ranks import is_first

if TYPE_CHECKING:
    from transformers import TrainerCallback

FOLDER = "reports"


def reporters(report_to: Literal["none", "wandb", "dvclive"], title: str) -> "list[TrainerCallback]":
    """The callback that reports; the first rank alone does, and none where none is asked for.

    Weights & Biases stays offline unless WANDB_MODE says otherwise; `wandb sync` sends what it wrote.

    Raises:
        LunaError: the package is not installed.
    """
    if report_to == "none":
        return []
    if find_spec(report_to) is None:
        raise LunaError(
            f"{title}: report_to: {report_to} is not installed; run `pip install {report_to}`, or set it to none in the"
            " preset"
        )
    if not is_first():
        return []
    folder = kept_folder(Path()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return [_wandb(folder) if report_to == "wandb" else _dvclive(folder / title)]


def _wandb(folder: Path) -> "TrainerCallback":
    from transformers.integrations.integration_utils import WandbCallback

    for name, value in (("WANDB_MODE", "offline"), ("WANDB_PROJECT", "luna"), ("WANDB_DIR", str(folder))):
        os.environ.setdefault(name, value)
    return WandbCallback()


def _dvclive(folder: Path) -> "TrainerCallback":
    from dvclive import Live
    from transformers.integrations.integration_utils import DVCLiveCallback

    # By itself it would write a dvc.yaml here and commit an experiment.
    return DVCLiveCallback(live=Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None))
