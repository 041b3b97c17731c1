"""cyclegan translate: options -> settings -> call -> render."""

from __future__ import annotations


def translate() -> None:
    """To come."""
