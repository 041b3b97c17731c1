"""The training loop, which yields events.

It prints nothing and writes only checkpoints. The caller renders the events, and stops it by
``stop``, with a checkpoint, or by closing it, without.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from cyclegan_cli.engine import checkpoint
from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.distributed import Group
from cyclegan_cli.engine.evaluation import Evaluation, Evaluator
from cyclegan_cli.engine.run import Place
from cyclegan_cli.engine.watchdogs import Finding, Watchdogs
from cyclegan_cli.errors import CycleganError, NonFiniteLossError
from cyclegan_cli.media.dataset import UnpairedPictures
from cyclegan_cli.settings import Interval


@dataclass(frozen=True)
class StepDone:
    """One more step is done."""

    place: Place


@dataclass(frozen=True)
class Measured:
    """Means since the last such event: every loss by name, pictures (of X and Y) a second."""

    place: Place
    losses: dict[str, float]
    learning_rate: float
    pictures_per_second: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over; ``place.epoch`` counts those done. ``losses``: their means over it.

    After a resume in the middle of an epoch they are those of the rest of it.
    """

    place: Place
    losses: dict[str, float]


@dataclass(frozen=True)
class Sampled:
    """The result of ``CycleGAN.sample`` for the held-out pictures."""

    place: Place
    pictures: dict[str, Tensor]


@dataclass(frozen=True)
class Evaluated:
    """Scores on held-out pictures; ``best``: better than all before."""

    place: Place
    scores: Evaluation
    best: bool


@dataclass(frozen=True)
class Warned:
    """A ``Finding`` of the watchdogs."""

    place: Place
    kind: str
    message: str
    hint: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint is written."""

    place: Place
    path: Path


@dataclass(frozen=True)
class Ended:
    """The last event: ``finished``, or stopped by request."""

    place: Place
    finished: bool


Event = StepDone | Measured | EpochDone | Sampled | Evaluated | Warned | Saved | Ended


def train(
    model: CycleGAN,
    pictures: UnpairedPictures,
    samples: tuple[Tensor, Tensor] | None,
    folder: Path,
    place: Place,
    *,
    evaluator: Evaluator | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train ``model`` from ``place`` to the end of its settings.

    ``samples``: x and y, float32, N×3×H×W in [−1, 1], sampled at every interval. ``folder``: of
    checkpoints. ``evaluator`` measures at every interval and at the end; the best state is kept in
    ``folder`` as a separate checkpoint. ``stop`` is called after every step, and must return the
    same in all processes, of which only the first samples, measures and saves.

    Raises NonFiniteLossError if a loss is not finite (checkpoints are from before), StoreError if a
    checkpoint cannot be written, PictureError if a picture cannot be read (after a checkpoint), and
    what ``Group`` raises if another process has failed.
    """
    s, group = model.settings, model.group
    last_step = math.inf if s.max_steps is None else s.max_steps
    log, meter = _Timer(s.log_every), _Meter()
    watchdogs = Watchdogs(s, place.step, int(min(last_step, s.epochs * pictures.steps_per_epoch)))
    observer = _Observer(model, samples, folder, evaluator, meter, watchdogs)
    done = place.epoch >= s.epochs or place.step >= last_step
    stopped = False
    if place.step == 0 and model.begins_with:
        first = islice(pictures.batches(0), -(-model.begins_with // s.batch_size))
        model.begin((x.to(model.device), y.to(model.device)) for x, y in first)
    while not (done or stopped):
        learning_rate = s.learning_rate(place.epoch)
        for batch in _together(pictures.batches(place.epoch, place.batch), group):
            if isinstance(batch, CycleganError):
                if group.leads:
                    yield observer.saved(place)
                group.check_in()
                raise batch
            # From pinned memory, CUDA copies while it computes the step before.
            ahead = model.device.type == "cuda"
            x, y = (part.to(model.device, non_blocking=ahead) for part in batch)
            count = min(s.batch_size, pictures.pictures_per_epoch - place.batch * s.batch_size)
            losses = model.step(x, y, learning_rate)
            place = _next(place, pictures.steps_per_epoch)
            done = place.epoch >= s.epochs or place.step >= last_step
            stopped = stop()
            meter.add(losses, count, check=model.device.type == "cpu", place=place)
            yield StepDone(place)
            if log.due(place) or done:
                measured = meter.measured(place, learning_rate)
                yield measured
                yield from _warned(place, watchdogs.measured(place.step, measured.losses))
            if place.batch == 0:
                yield EpochDone(place, meter.epoch_means())
            yield from observer.after_step(place, done=done, stopped=stopped)
            if done or stopped:
                break
    group.check_in()  # no process ends before the last checkpoint is written
    yield Ended(place, finished=done)


@dataclass
class _Observer:
    """Samples, measures and saves a training when each is due, in the first process."""

    model: CycleGAN
    samples: tuple[Tensor, Tensor] | None
    folder: Path
    evaluator: Evaluator | None
    meter: _Meter
    watchdogs: Watchdogs

    def __post_init__(self) -> None:
        s = self.model.settings
        self._sample, self._keep = _Timer(s.sample_every), _Timer(s.checkpoint_every)
        self._evaluate = _Timer(s.evaluate_every)

    def after_step(self, place: Place, *, done: bool, stopped: bool) -> Iterator[Event]:
        model, leads = self.model, self.model.group.leads
        if leads and self.samples is not None and (self._sample.due(place) or done):
            views = model.sample(*(part.to(model.device) for part in self.samples))
            yield Sampled(place, views)
            yield from _warned(place, self.watchdogs.sampled(place.step, views))
        if leads and self.evaluator is not None and (self._evaluate.due(place) or done):
            self.meter.check(place)
            with self.meter.paused():
                yield self._evaluated(place, self.evaluator)
        if self._keep.due(place) or done or stopped:
            self.meter.check(place)
            if leads:
                yield self.saved(place)

    def saved(self, place: Place) -> Saved:
        """Write a checkpoint."""
        path = checkpoint.save(self.folder, self.model, place, self.meter.means())
        return Saved(place, path)

    def _evaluated(self, place: Place, evaluator: Evaluator) -> Evaluated:
        """Measure the generators, and save their state if it is the best so far."""
        model, losses = self.model, self.meter.means()
        scores = evaluator.evaluate(
            partial(model.paint, model.shown_G), partial(model.paint, model.shown_F)
        )
        before = checkpoint.best_distance(self.folder)
        best = before is None or scores.distance < before
        if best:
            checkpoint.save_best(self.folder, model, place, losses, scores.to_json())
        return Evaluated(place, scores, best)


def _warned(place: Place, findings: list[Finding]) -> Iterator[Warned]:
    for finding in findings:
        yield Warned(place, finding.kind, finding.message, finding.hint)


def _together(
    batches: Iterator[tuple[Tensor, Tensor]], group: Group
) -> Iterator[tuple[Tensor, Tensor] | CycleganError]:
    """The batches, each when every process has its own, or the error of one of them."""
    while True:
        batch = error = None
        try:
            batch = next(batches, None)
        except CycleganError as found:
            error = found
        try:
            group.check_in(error=error)
        except CycleganError as found:
            yield found
        if batch is None:
            return
        yield batch


def _next(place: Place, steps_per_epoch: int) -> Place:
    batch = place.batch + 1
    if batch == steps_per_epoch:
        return Place(place.step + 1, place.epoch + 1, 0)
    return Place(place.step + 1, place.epoch, batch)


class _Timer:
    """Tells whether something that happens at an interval is due."""

    def __init__(self, every: str) -> None:
        self._every = None if every == "never" else Interval.parse(every)
        self._since = time.monotonic()

    def due(self, place: Place) -> bool:
        """Whether it is due after this step; then the clock restarts."""
        if self._every is None:
            return False
        if self._every.unit == "step":
            return place.step % int(self._every.count) == 0
        if self._every.unit == "epoch":
            return place.batch == 0 and place.epoch % int(self._every.count) == 0
        if time.monotonic() - self._since < self._every.count:
            return False
        self._since = time.monotonic()
        return True


class _Meter:
    """Sums losses on the device, so that a step does not wait for their values."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        # Of this epoch: sums up to the last measure, less what the epoch before had of it.
        self._epoch: dict[str, float] = {}
        self._epoch_steps = 0
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._pictures = 0
        self._since = time.monotonic()

    def add(self, losses: dict[str, Tensor], pictures: int, *, check: bool, place: Place) -> None:
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss.clone()
        self._steps += 1
        self._pictures += pictures
        if check:
            self.check(place)

    def check(self, place: Place) -> None:
        """Raise NonFiniteLossError if a loss was not finite since the last measure."""
        for name, value in self._values().items():
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"At step {place.step} the loss {name} is {value}.",
                    hint="Usual causes: a learning rate that is too high (--lr), --precision fp16 "
                    "(try bf16 or fp32), or damaged pictures.",
                )

    def _values(self) -> dict[str, float]:
        if not self._sums:
            return {}
        values = torch.stack([total.double() for total in self._sums.values()]).tolist()
        return dict(zip(self._sums, values, strict=True))

    def means(self) -> dict[str, float]:
        """The mean of each loss since the last measure, or at the last measure."""
        if self._steps == 0:
            return self._last
        return {name: total / self._steps for name, total in self._values().items()}

    def epoch_means(self) -> dict[str, float]:
        """The mean of each loss since this was last asked for, whatever was measured meanwhile."""
        values = self._values()
        steps = self._epoch_steps + self._steps
        means = {
            name: (self._epoch.get(name, 0.0) + values.get(name, 0.0)) / steps
            for name in self._epoch | values
        }
        self._epoch = {name: -value for name, value in values.items()}
        self._epoch_steps = -self._steps
        return means

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside from the speed."""
        before = time.monotonic()
        yield
        self._since += time.monotonic() - before

    def measured(self, place: Place, learning_rate: float) -> Measured:
        self.check(place)
        values = self._values()
        self._last = {name: total / self._steps for name, total in values.items()} or self._last
        for name, total in values.items():
            self._epoch[name] = self._epoch.get(name, 0.0) + total
        self._epoch_steps += self._steps
        seconds = max(time.monotonic() - self._since, 1e-9)
        event = Measured(place, self._last, learning_rate, self._pictures / seconds)
        self._reset()
        return event
