"""Enhance: the student attempts, the judge decides, the teacher hints, the student tries again."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luna.enhance.enhancer import StudentTeacherConfig, ThinkingEnhancer
    from luna.enhanced_trainer import EnhancedUnslothTrainer

__all__ = ["EnhancedUnslothTrainer", "StudentTeacherConfig", "ThinkingEnhancer"]

# Loaded when first asked for: a stage that needs a small part of this package must not import all of it.
_HOMES = {
    "EnhancedUnslothTrainer": "luna.enhanced_trainer",
    "StudentTeacherConfig": "luna.enhance.enhancer",
    "ThinkingEnhancer": "luna.enhance.enhancer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
