"""cyclegan resume: options -> settings -> call -> render."""

from __future__ import annotations


def resume() -> None:
    """To come."""
