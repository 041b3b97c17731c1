"""translate in several processes: each its own pictures, or all together at each picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan_cli.cli.common import importing, one_device
from cyclegan_cli.cli.console import Console
from cyclegan_cli.cli.processes import member, team
from cyclegan_cli.errors import UsageError
from cyclegan_cli.media.formats import is_video
from cyclegan_cli.media.plan import Job, Plan
from cyclegan_cli.settings import TranslateSettings

if TYPE_CHECKING:
    from cyclegan_cli.painting.arrays import ArrayTranslator
    from cyclegan_cli.painting.moments import Settle
    from cyclegan_cli.painting.translator import Translator
    from cyclegan_cli.painting.video import PaintFrame

__all__ = ["check_shareable", "own_share", "paint_together", "painter"]


def own_share(jobs: list[Job]) -> list[Job]:
    """The jobs of this process; all where it is alone."""
    me = member()
    if me is None:
        return jobs
    from cyclegan_cli.media.sharding import share_of_jobs

    return share_of_jobs(jobs, me.rank, me.size)


def check_shareable(plan: Plan, from_file: str | None) -> None:
    """Raise UsageError where stdin or stdout would be wanted by several processes."""
    if from_file == "-" or any(job.source is None or job.target is None for job in plan.jobs):
        raise UsageError(
            "Several processes cannot share stdin or stdout.",
            hint="Name files, and -o FOLDER; a list goes into a file: --from-file LIST",
        )


def painter(
    console: Console, weights: Path, settings: TranslateSettings, gpu: str, plan: Plan
) -> PaintFrame:
    """How this process paints a frame by itself: without PyTorch where it is not needed."""
    if not any(is_video(job.source) for job in plan.jobs):
        from cyclegan_cli.cli.torchless import array_translator, device_label

        light = array_translator(weights, settings, gpu)
        if light is not None:
            console.note(f"Painting on {device_label()}.")
            return _frames(console, settings, light)
    with importing():
        from cyclegan_cli.painting.translator import Translator

    return _frames(console, settings, _load(console, weights, settings, gpu, Translator))


def paint_together(
    console: Console,
    weights: Path,
    settings: TranslateSettings,
    gpu: str,
    plan: Plan,
    run: Callable[[PaintFrame], None],
) -> None:
    """``run`` in the first process, with every picture painted by all. Alone: just ``run``."""
    from cyclegan_cli.painting.shared import SharedTranslator, help_paint
    from cyclegan_cli.painting.translator import Translator

    with team(gpu) as group:
        if not group.joined:
            run(painter(console, weights, settings, gpu, plan))
            return
        if not group.leads:
            help_paint(_load(console, weights, settings, gpu, Translator), group)
            return
        shared: list[SharedTranslator] = []

        def make(*network: Any, **how: Any) -> Translator:
            shared.append(SharedTranslator(*network, group=group, **how))
            return shared[0]

        paint = _frames(console, settings, _load(console, weights, settings, gpu, make))
        try:
            run(paint)
        finally:
            shared[0].finish()


def _load(
    console: Console,
    weights: Path,
    settings: TranslateSettings,
    gpu: str,
    make: Callable[..., Translator],
) -> Translator:
    with importing():
        from cyclegan_cli.engine.device import resolve_precision
        from cyclegan_cli.engine.weights import load_generator

    device = one_device(gpu)
    dtype = resolve_precision(settings.precision, device.torch)
    me = member()
    console.note(f"Painting on {device.label}{f', in {me.size} processes' if me else ''}.")
    network = load_generator(weights, "cpu")
    return make(
        network,
        device=device.torch,
        dtype=dtype,
        max_memory=settings.max_memory,
        exact_reference=settings.exact_reference,
    )


def _frames(
    console: Console, settings: TranslateSettings, translator: Translator | ArrayTranslator
) -> PaintFrame:
    with importing():
        from cyclegan_cli.painting.effects import paint_picture

    def paint(pixels: Any, settle: Settle | None = None, origin: tuple[int, int] = (0, 0)) -> Any:
        painted = paint_picture(translator, pixels, settings, settle=settle, origin=origin)
        for note in translator.notes:
            console.note(note)
        return painted

    return paint
