"""What every stage script does around its one call: settings, seeds, and errors as one line."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from luna.alone import alone

if TYPE_CHECKING:
    from luna.settings import Settings

ROOT = Path()
SCRATCH = Path(".luna")  # checkpoints and other things that no stage hands on


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """An error the user can mend ends the process with one line on stderr and exit code 1."""
    from luna.errors import LunaError

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
def running(name: str, *, torch: bool = False) -> Iterator["Settings"]:
    """Settings for a stage, and its errors as one line.

    Args:
        torch: also fix seeds and threads and ask for deterministic kernels.
    """
    from luna.settings import load_settings

    with one_line_errors(name), alone(SCRATCH / "stage.lock", lambda: _say_waiting(name)):
        settings = load_settings(ROOT)
        if torch:
            from luna.lm.load import prepare_backend
            from luna.lm.reproducible import set_reproducible

            prepare_backend(settings.preset.model)
            set_reproducible(settings.params.seed, settings.params.threads)
        yield settings
