"""cyclegan train: options -> settings -> call -> render."""

from __future__ import annotations


def train() -> None:
    """To come."""
