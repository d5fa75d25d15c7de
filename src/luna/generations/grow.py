"""Growing: open, run, release, again and again, up to a number of promoted generations or the first rejection."""

from collections.abc import Iterator
from pathlib import Path

from luna.generations.dvc import repro
from luna.generations.git import commit_of
from luna.generations.guards import check_repository, one_at_a_time
from luna.generations.manifests import apply_manifest
from luna.generations.opening import failed_tries, following, next_failure, open_next
from luna.generations.release import Outcome, finish, mend_half_written, refuse_unsaved, release
from luna.outputs import replacing
from luna.progress import say
from luna.settings import load_settings

GOAL = Path(".luna") / "growing"  # of an interrupted call: the generation it was on its way to, and the try it was at


def grow(
    root: Path, count: int, *, manifest: Path | None = None, push: bool = False, retries: int = 0
) -> Iterator[Outcome]:
    """Grow `count` generations and yield what became of each.

    A call that was interrupted is taken up where it was: the next one goes on to the same goal, whatever its count.

    Args:
        manifest: an evolution manifest that says how the first of them is grown.
        push: push each release to `origin`.
        retries: after a rejection, try the same generation this often again, with another seed and a tighter bound.

    Raises:
        GitError, DvcError, NotReleasable: as `open_next`, `repro` and `release`.
        ManifestError: the manifest cannot be grown here.
    """
    with one_at_a_time(root) as held:
        check_repository(root)
        mend_half_written(root)
        if manifest is not None and not (root / GOAL).is_file():
            apply_manifest(root, manifest)
        goal, trying = _goal(root, count)
        outcome = finish(root, trying, push=push and trying is not None)
        if outcome is not None and not _goes_on(root, outcome, goal, retries):
            yield outcome
        while outcome is None or _goes_on(root, outcome, goal, retries):
            name = open_next(root, new_seed=outcome is not None and not outcome.promoted)
            _note(root, goal, next_failure(root, name))
            say(f"grow  {name}, on the way to {goal}")
            refuse_unsaved(root)
            repro(root, held=held)
            outcome = release(root, push=push)
            yield outcome
        (root / GOAL).unlink()


def _goes_on(root: Path, last: Outcome, goal: str, retries: int) -> bool:
    return last.name != goal if last.promoted else failed_tries(root, last.name) <= retries


def _goal(root: Path, count: int) -> tuple[str, str | None]:
    file = root / GOAL
    if file.is_file():
        goal, *trying = file.read_text(encoding="utf-8").split()
        say(f"grow  goes on to {goal}, where an interrupted call was heading (remove {file} to start anew)")
        return goal, trying[0] if trying else None
    goal = load_settings(root).params.generation
    for _ in range(count - (commit_of(root, goal) is None)):
        goal = following(goal)
    _note(root, goal)
    return goal, None


def _note(root: Path, *words: str) -> None:
    with replacing(root / GOAL) as aside:
        aside.write_text("\n".join(words) + "\n", encoding="utf-8")
