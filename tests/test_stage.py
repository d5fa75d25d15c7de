"""What every stage does around its one call."""

import errno
import os

import pytest

from luna.errors import LunaError
from luna.stage import one_line_errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("distill"):
        raise OSError(number, os.strerror(number), "models/luna")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "distill: models/luna: there is no room; make some and run it again\n"


def test_another_error_of_the_system_is_not_hidden() -> None:
    with pytest.raises(PermissionError), one_line_errors("distill"):
        raise PermissionError(errno.EACCES, "no", "models/luna")


def test_what_the_user_can_mend_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line_errors("distill"):
        raise LunaError("params.yaml: beta: mend it")
    assert capsys.readouterr().err == "distill: params.yaml: beta: mend it\n"
