"""cyclegan pretrained: the styles that are here, and where they lie."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="List, show, move and check styles.")


@app.command("list")
def list_styles() -> None:
    """To come."""
