"""Lines that rich redraws, which survive a terminal that becomes narrower."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console, ConsoleRenderable
from rich.live import Live
from rich.text import Text

__all__ = ["LiveLines", "rows_of"]


def rows_of(lengths: list[int], width: int) -> int:
    """The rows that lines of so many cells take where a terminal wraps them at ``width``."""
    return sum(max(1, -(-length // max(width, 1))) for length in lengths)


class LiveLines(Live):
    """Shows ``draw(width)`` twice a second, and is gone at its end."""

    def __init__(self, console: Console, draw: Callable[[int], Text]) -> None:
        self._draw = draw
        self._lengths: list[int] = []  # of the lines on the screen, in cells
        self._next: list[int] = []  # of those that will be
        self._width = console.width
        super().__init__(
            console=console,
            get_renderable=self._lines,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a pipe gets its results, not the terminal
        )

    def _lines(self) -> Text:
        text = self._draw(self.console.width)
        self._next = [cell_len(line) for line in text.plain.split("\n")]
        return text

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """As ``Live`` does, but from the first row that the lines take now.

        A terminal that becomes narrower wraps what was drawn (tmux and most others do): the lines
        take more rows than they had, and without this their upper part would stay behind.
        """
        width, drawn = self.console.width, self._live_render.last_render_height
        if width < self._width and drawn:
            self._live_render._shape = (width, rows_of(self._lengths, width))
        self._width, self._lengths = width, self._next
        return super().process_renderables(renderables)
