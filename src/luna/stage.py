"""What every stage script does around its one call: settings, seeds, and errors as one line."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from luna.alone import alone
from luna.errors import LunaError
from luna.ranks import check_started, is_first, joined, world_size

if TYPE_CHECKING:
    from luna.settings import Settings

ROOT = Path()
SCRATCH = Path(".luna")  # checkpoints and other things that no stage hands on


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """An error the user can mend ends the process with one line on stderr and exit code 1."""
    try:
        yield
    except LunaError as error:
        text = str(error)
        sys.stderr.write(f"{text if text.startswith(name) else f'{name}: {text}'}\n")
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"{name}: {error.filename or 'the disk'}: there is no room; make some and run it again\n")
        raise SystemExit(1) from None


def _say_waiting(name: str) -> None:
    sys.stderr.write(f"{name}: a stage of an earlier, interrupted run is still at work here; waiting for it\n")


@contextmanager
def _in_turn(name: str, ranks: bool) -> Iterator[None]:
    """One run of a stage at a time. The first rank takes the lock, and the others wait for it where they meet."""
    check_started()
    if world_size() > 1 and not ranks:
        raise LunaError(
            f"WORLD_SIZE is {world_size()} and this stage is one process; run it without torchrun or unset WORLD_SIZE"
        )
    lock = alone(SCRATCH / "stage.lock", lambda: _say_waiting(name)) if is_first() else nullcontext()
    with lock, joined():
        yield


@contextmanager
def running(name: str, *, torch: bool = False, ranks: bool = False) -> Iterator["Settings"]:
    """Settings for a stage, and its errors as one line.

    Args:
        torch: also fix seeds and threads and ask for deterministic kernels.
        ranks: the stage may be run by several processes under torchrun.
    """
    from luna.settings import load_settings

    with one_line_errors(name), _in_turn(name, ranks):
        settings = load_settings(ROOT)
        if torch:
            from luna.lm.load import prepare_backend
            from luna.lm.reproducible import set_reproducible

            prepare_backend(settings.preset.model)
            set_reproducible(settings.params.seed, settings.params.threads)
        yield settings
