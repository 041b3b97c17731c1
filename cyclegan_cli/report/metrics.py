"""metrics.jsonl: one line per logging interval, each a JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclegan_cli.files import write_text

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends to ``path``. ``from_step``: lines of later steps, which will be run again, go.

    Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path, from_step: int) -> None:
        self._path = path
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= from_step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``path`` in order; one that a kill cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
