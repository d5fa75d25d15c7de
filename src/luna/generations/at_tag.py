"""The files of an earlier generation as its git tag holds them: small ones from git, tracked ones through DVC."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luna.errors import LunaError
from luna.generations.git import commit_of

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem


class GenerationMissing(LunaError):
    """An earlier generation cannot be brought back."""


class AtTag(NamedTuple):
    """A generation's files, addressed by their paths in the repo, and the commit of its tag."""

    files: "DVCFileSystem"
    commit: str


@contextmanager
def at_tag(
    root: Path, tag: str, wanted: str, mend: str | None = None, named_in: str = "params.yaml"
) -> Iterator[AtTag]:
    """The files of a tag, to be read inside of the block; today's cache and remotes give what DVC tracks.

    Args:
        wanted: what is read, with its verb, for the error: `its weights are`.
        mend: how the error ends; None: with how lost bytes come back.
        named_in: the file or command that names the tag, for the error.

    Raises:
        GenerationMissing: the tag does not exist here, or the block fails to read what it wants.
    """
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    repo, commit = _find_tag(root.resolve(), tag, named_in)
    try:
        with Repo(str(repo)) as here:  # today's remotes and cache: the tag may be older than they are
            config = {key: here.config[key] for key in ("core", "remote", "cache")}
        yield AtTag(DVCFileSystem(str(repo), rev=commit, config=config), commit)
    except Exception as error:  # DVC and its remotes raise errors of many libraries
        reason = " ".join(str(error).split())
        mend = mend or f"run `dvc fetch -T`, or `luna rebuild {tag}` if they are lost"
        raise GenerationMissing(f"{named_in}: {tag}: {wanted} in no cache and no remote ({reason}); {mend}") from error


def _find_tag(start: Path, tag: str, named_in: str) -> tuple[Path, str]:
    """The repo that holds a tag, and its commit. The work trees of `dvc exp run --temp` have no tags: look above."""
    for folder in (start, *start.parents):
        commit = commit_of(folder, tag) if (folder / ".git").exists() else None
        if commit is not None:
            return folder, commit
    raise GenerationMissing(f"{named_in}: there is no git tag {tag}; run `git fetch --tags`")
