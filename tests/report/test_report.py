"""Sample sheets and the log of losses."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cyclegan_cli.report.record import MetricsLog, read_metrics
from cyclegan_cli.report.samples import sample_sheet, to_image


def test_levels_are_rounded_not_truncated() -> None:
    levels = torch.tensor([-1.0, -1 + 0.6 / 127.5, -1 + 0.4 / 127.5, 1.0, 3.0])
    image = to_image(levels.reshape(1, 1, 5).expand(3, 1, 5))
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 1, 0, 255, 255]  # type: ignore[index]


def test_a_sheet_shows_every_picture_where_it_belongs() -> None:
    levels = torch.linspace(-1, 1, 6).reshape(3, 2, 1, 1, 1)
    pictures = {n: levels[i].expand(2, 3, 32, 40) for i, n in enumerate(("x", "G(x)", "y"))}
    sheet = sample_sheet(pictures)
    found = []
    for column in range(3):
        for row in range(2):
            pixel = (6 + column * 46 + 20, 18 + 6 + row * 38 + 16)
            found.append(sheet.getpixel(pixel)[0])  # type: ignore[index]
    assert found == [0, 51, 102, 153, 204, 255]


def test_lines_of_steps_that_run_again_are_dropped_and_torn_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in (10, 20, 30):
        log.append({"step": step, "G": 0.5})
    with path.open("a") as file:
        file.write('{"step": 40, "G"')
    assert [line["step"] for line in read_metrics(path)] == [10, 20, 30]
    MetricsLog(path, 20).append({"step": 25, "G": 0.25})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 25]
