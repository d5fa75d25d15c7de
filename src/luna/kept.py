"""Where a tree keeps what outlives a run and no stage hands on: paid replies, states of teachers."""

from pathlib import Path

FOLDER = ".luna"


def kept_folder(root: Path) -> Path:
    """The ignored folder of a tree; work trees that DVC or Luna make for a while share that of the repo around them."""
    here = root.resolve()
    for folder in reversed(here.parents):
        inside = here.relative_to(folder).parts[0] in (".dvc", FOLDER)
        if inside and (folder / "dvc.yaml").is_file():
            return folder / FOLDER
    return root / FOLDER
