"""From a run's generators to a style: at the end of a training, or from any checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.engine.run import Place, Run

if TYPE_CHECKING:
    from cyclegan_cli.engine.checkpoint import Checkpoint
    from cyclegan_cli.engine.networks import Generator
    from cyclegan_cli.styles.cards import Style, Way

__all__ = ["publish", "publish_checkpoint"]


def publish(
    run: Run,
    G: Generator,
    F: Generator,
    place: Place,
    *,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> Style:
    """Put both generators into the store under the run's name, or ``name``.

    ``facts``: plain JSON values that join the card. Raises StoreError, UsageError.
    """
    from cyclegan_cli.engine.weights import save_generator
    from cyclegan_cli.styles.store import add_style

    name = name or run.name
    card = {
        "run": run.name,
        "steps": place.step,
        "epochs": place.epoch,
        "pictures": {"x": len(run.x_files), "y": len(run.y_files)},
        **(facts or {}),
        "settings": run.settings.to_json(),
    }
    x, y = run.x_dir.name, run.y_dir.name
    with tempfile.TemporaryDirectory(dir=run.folder) as folder:
        files: dict[Way, Path] = {}
        networks: dict[Way, Generator] = {"xy": G, "yx": F}
        for way, network in networks.items():
            files[way] = Path(folder, f"{way}.safetensors")
            about = {"style": name, "x": x, "y": y, "direction": way, "steps": place.step}
            save_generator(files[way], network, about)
        return add_style(
            name, x=x, y=y, origin="trained", weights=files, card=card, replace=replace
        )


def publish_checkpoint(
    run: Run, start: Checkpoint, *, name: str, facts: Mapping[str, Any], replace: bool
) -> Style:
    """The style that ``run`` was at the checkpoint ``start``; its measures join the card."""
    from cyclegan_cli.engine.checkpoint import generators

    G, F = generators(start)
    if start.evaluation is not None:
        facts = {**facts, "evaluation": start.evaluation}
    return publish(run, G, F, start.place, name=name, facts=facts, replace=replace)
