"""States of a repository in which growing would lose or mistake something. Each is refused with the way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luna.alone import alone
from luna.generations.git import GitError, commit_of, git, git_or_none, is_ancestor
from luna.progress import say


@contextmanager
def one_at_a_time(root: Path) -> Iterator[int]:
    """Inside of the block nobody else opens, grows or releases here: waits for whoever does.

    Yields the descriptor of the lock, for a child that must keep it even if this process dies.
    """
    with alone(root / ".luna" / "grow.lock", lambda: say("luna  another luna is at work here; waiting")) as held:
        yield held


def check_repository(root: Path) -> None:
    """Refuse a repository that generations cannot be grown in.

    Raises:
        GitError: no repository or no commit, nobody to commit as, a shallow clone, a detached HEAD, or a branch
            behind its upstream.
    """
    if git_or_none(root, "rev-parse", "-q", "--verify", "HEAD") is None:
        raise GitError(f"{root.resolve()}: is no git repository with a commit; run from a clone of Luna")
    if any(git_or_none(root, "var", f"GIT_{who}_IDENT") is None for who in ("AUTHOR", "COMMITTER")):
        mend = "run `git config user.name NAME` and `git config user.email ADDRESS`"
        raise GitError(f"git does not know in whose name to commit; {mend}")
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise GitError("shallow clone: earlier generations are missing; run `git fetch --unshallow --tags`")
    if git_or_none(root, "symbolic-ref", "-q", "HEAD") is None:
        _refuse_detached(root)
    behind = git_or_none(root, "rev-list", "--count", "HEAD..@{upstream}")
    if behind and int(behind):
        raise GitError(f"the branch is {behind} commits behind its upstream; run `git pull --ff-only`")


def _refuse_detached(root: Path) -> None:
    here = git(root, "for-each-ref", "--points-at", "HEAD", "--format=%(refname:short)", "refs/heads").splitlines()
    branch = here[0] if len(here) == 1 else "BRANCH"
    raise GitError(f"HEAD is detached (an interrupted `dvc exp run` does that); run `git switch {branch}`")


def check_ancestor(root: Path, tag: str | None) -> None:
    """Refuse a parent or grandparent that has no tag here or that this branch does not descend from.

    Raises:
        GitError: as said.
    """
    if tag is None:
        return
    if commit_of(root, tag) is None:
        raise GitError(f"params.yaml: there is no git tag {tag}; run `git fetch --tags`")
    if not is_ancestor(root, f"refs/tags/{tag}"):
        raise GitError(f"params.yaml: {tag} is no ancestor of this branch; switch to a branch that descends from it")
