"""Editing params.yaml changes the named values and not a byte more."""

import shutil
from pathlib import Path

import pytest

from luna.generations.params_file import edit_params

REPO = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path):
    return Path(shutil.copy(REPO / "params.yaml", tmp_path))


def test_only_the_named_lines_change(params):
    before = params.read_text().splitlines()
    edit_params(params, {"parent": "Luna-G001", "attempt": 2, "distill.ema_decay": 0.9, "distill.taboo.enabled": True})
    after = params.read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [
        ("parent: null", "parent: Luna-G001"),
        (
            "attempt: 1 # counts the tries of this generation; each one tightens the evidence bound",
            "attempt: 2 # counts the tries of this generation; each one tightens the evidence bound",
        ),
        ("  ema_decay: 0.999", "  ema_decay: 0.9"),
        ("    enabled: false", "    enabled: true"),
    ]


def test_null_is_written_as_null_and_nothing_to_change_changes_nothing(params):
    before = params.read_bytes()
    edit_params(params, {"parent": "Luna-G001"})
    edit_params(params, {"parent": None})
    edit_params(params, {})
    assert params.read_bytes() == before


@pytest.mark.parametrize("key", ["parents", "distill.emma", "distil.ema"])
def test_a_key_that_is_not_there_is_refused_and_nothing_is_written(params, key):
    before = params.read_bytes()
    with pytest.raises(KeyError):
        edit_params(params, {"seed": 7, key: 1})
    assert params.read_bytes() == before
