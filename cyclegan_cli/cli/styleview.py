"""A style in words: the row of a list, all its facts, and the record of --json."""

from __future__ import annotations

import dataclasses
from typing import Any

from cyclegan_cli.errors import CycleganError
from cyclegan_cli.settings import TrainSettings
from cyclegan_cli.styles.catalogue import Style, plain

__all__ = ["domains", "facts", "options_text", "record_of", "row", "shown", "size_text"]


def row(style: Style) -> tuple[str, ...]:
    size = size_text(style.size) if style.directions else "-"
    licence = shown(style.card.get("licence")) or "-"
    return (style.name, domains(style), style.origin, size, licence)


def facts(style: Style) -> list[tuple[str, str]]:
    """All that is known of a style, as (what, value) rows."""
    rows = [("name", style.name), ("domains", domains(style)), ("origin", style.origin)]
    for way, direction in style.directions.items():
        spec = direction.generator
        arrow = f"{style.x} → {style.y}" if way == "xy" else f"{style.y} → {style.x}"
        what = f"{plain(spec.name)}, {spec.blocks} blocks, width {spec.width}"
        rows += [(arrow, f"{what}, {size_text(direction.size)}"), ("  sha256", direction.sha256)]
    for key, value in style.card.items():
        if key == "settings":
            rows.append(("options", options_text(value)))
        elif value not in (None, ""):
            rows.append((key, shown(value)))
    if style.folder is not None:
        rows.append(("folder", str(style.folder)))
    if style.hides:
        rows.append(("hides", ", ".join(style.hides)))
    return rows


def record_of(style: Style) -> dict[str, Any]:
    directions = {
        way: {
            "path": str(direction.file),
            "sha256": direction.sha256,
            "size": direction.size,
            "generator": direction.generator.to_json(),
        }
        for way, direction in style.directions.items()
    }
    return {
        **style.card,
        **{"name": style.name, "x": style.x, "y": style.y, "origin": style.origin},
        **{"path": str(style.folder) if style.folder else None, "size": style.size},
        **{"directions": directions, "hides": list(style.hides)},
    }


def domains(style: Style) -> str:
    arrow = "↔" if len(style.ways) == 2 else "→" if "xy" in style.ways else "←"
    return f"{style.x} {arrow} {style.y}"


def size_text(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def options_text(settings: object) -> str:
    """The options of a training that are not the defaults, as they would be typed."""
    try:
        chosen = TrainSettings.from_json(settings) if isinstance(settings, dict) else None
    except CycleganError:
        chosen = None
    if chosen is None:
        return shown(settings)
    usual, words = TrainSettings(), []
    if chosen.generator != usual.generator:
        words.append(f"--generator {shown(chosen.generator.name)}")
    for field in dataclasses.fields(chosen):
        value, flag = getattr(chosen, field.name), field.name.replace("_", "-")
        if field.name == "generator" or value == getattr(usual, field.name):
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {shown(value)}")
    return " ".join(words) or "all as the defaults"


def shown(value: object) -> str:
    """A card's value in one line; what a stranger wrote must not steer the terminal."""
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items())
    elif isinstance(value, list):
        value = ", ".join(shown(inner) for inner in value)
    elif value is None:
        value = ""
    return "".join(c for c in str(value) if c.isprintable())[:2000]
