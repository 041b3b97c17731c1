"""Unpaired pictures of two domains, in an order that a resumed run finds again.

What is drawn, cropped and flipped follows from the seed, the epoch and the position alone, so any
place in any epoch can be started from, with any number of worker threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from cyclegan_cli.machine import shares
from cyclegan_cli.media.pictures import read_rgb
from cyclegan_cli.randomness import choices
from cyclegan_cli.settings import TrainSettings


def _read(file: Path, settings: TrainSettings) -> Tensor:
    """3×H×W uint8: the short side ``load_size`` (or both, with ``distort``), by ``_resize``.

    With ``reduce``, a smaller picture stays as it is, if the least crop fits: enlarged strokes are
    blurred ones.
    """
    image = Image.fromarray(read_rgb(file))
    load = settings.load_size
    size = [load, load]
    if settings.resize != "distort":
        if settings.resize == "reduce":
            load = min(load, max(min(image.size), settings.crop_sides[0]))
        scale = load / min(image.size)
        size = [max(load, round(side * scale)) for side in (image.height, image.width)]
    return _resize(image, size)


def _resize(image: Image.Image, size: list[int]) -> Tensor:
    """3×H×W uint8, bicubic and antialiased; as Pillow's image, since tensors get other levels."""
    resized = functional.resize(image, size, InterpolationMode.BICUBIC)
    pixels: Tensor = functional.pil_to_tensor(resized)
    return pixels.contiguous()


def _square(pixels: Tensor, top: int, left: int, side: int, settings: TrainSettings) -> Tensor:
    """A square cut out of 3×H×W uint8, at ``crop_size``."""
    view: Tensor = functional.crop(pixels, top, left, side, side)
    if side == settings.crop_size:
        return view
    return _resize(functional.to_pil_image(view), [settings.crop_size] * 2)


def to_float(pixels: Tensor) -> Tensor:
    """3×H×W uint8 -> float32 in [−1, 1]."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


class UnpairedPictures:
    """Batches of a picture x of X and a picture y of Y that have nothing to do with each other.

    An epoch shows max(|X|, |Y|) pictures of each domain (the last batch may be smaller): x goes
    through X in a new random order each epoch, again from its start where X is the smaller; y is
    drawn at random (as in the public implementation). ``workers``: threads that prepare batches
    ahead, 0 for none. ``memory``: bytes for decoded pictures. ``pinned``: batches lie in memory
    from which CUDA copies while it computes. ``part``: (rank, size): only this process's share of
    each batch is read.
    """

    def __init__(
        self,
        x: Sequence[Path],
        y: Sequence[Path],
        settings: TrainSettings,
        *,
        workers: int = 0,
        memory: int = 2 * 2**30,
        pinned: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.part, self.settings = part, settings
        self.pinned, self.workers = pinned, workers
        self.files = {"x": x, "y": y}
        self._left = {"x": memory // 2, "y": memory // 2}  # bytes that may still be kept
        self._kept: dict[tuple[str, int], Tensor] = {}
        self.pictures_per_epoch = max(len(x), len(y))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.pictures_per_epoch // self.settings.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of ``epoch`` from number ``first`` on.

        Yields x, y: float32, N×3×crop×crop in [−1, 1]; N may be 0 in an epoch's last batch, if
        processes share it. Raises PictureError where a picture can no longer be read.
        """
        order = self._order(epoch)
        numbers = range(first, self.steps_per_epoch)
        if self.workers == 0:
            yield from (self._batch(epoch, order, number) for number in numbers)
            return
        pool = ThreadPoolExecutor(self.workers, "pictures")
        try:
            ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
            for number in numbers:
                ahead.append(pool.submit(self._batch, epoch, order, number))
                if len(ahead) > 2 * self.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.files["x"])))
        choices(self.settings.seed, "order", epoch).shuffle(order)
        return order

    def _batch(self, epoch: int, order: list[int], number: int) -> tuple[Tensor, Tensor]:
        size = self.settings.batch_size
        xs, ys = [], []
        positions = range(number * size, min((number + 1) * size, self.pictures_per_epoch))
        rank, processes = self.part
        mine = shares(len(positions), processes)[rank]
        for position in positions[mine.start : mine.stop]:
            draw = choices(self.settings.seed, "partner", epoch, position)
            xs.append(self._view("x", order[position % len(order)], epoch, position))
            ys.append(self._view("y", draw.randrange(len(self.files["y"])), epoch, position))
        if not xs:
            none = torch.empty(0, 3, self.settings.crop_size, self.settings.crop_size)
            return none, none
        batch = torch.stack(xs), torch.stack(ys)
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self.pinned else batch

    def _picture(self, domain: str, index: int) -> Tensor:
        """3×H×W uint8, kept once decoded and resized, as far as the memory reaches."""
        pixels = self._kept.get((domain, index))
        if pixels is None:
            pixels = _read(self.files[domain][index], self.settings)
            if pixels.nbytes <= self._left[domain]:
                self._left[domain] -= pixels.nbytes
                self._kept[domain, index] = pixels
        return pixels

    def _view(self, domain: str, index: int, epoch: int, position: int) -> Tensor:
        """A random crop, flipped half of the time."""
        pixels = self._picture(domain, index)
        choice = choices(self.settings.seed, "crop", domain, epoch, position)
        low, high = self.settings.crop_sides
        high = min(high, *pixels.shape[1:])
        crop = low if low == high else choice.randint(low, high)
        top = choice.randint(0, pixels.shape[1] - crop)
        left = choice.randint(0, pixels.shape[2] - crop)
        view = _square(pixels, top, left, crop, self.settings)
        if self.settings.flip and choice.random() < 0.5:
            view = functional.horizontal_flip(view)
        return to_float(view)


def whole_views(files: Sequence[Path], settings: TrainSettings) -> Tensor:
    """The middle of each of N ≥ 1 pictures: float32, N×3×crop×crop in [−1, 1]. For samples."""
    views = []
    for file in files:
        pixels = _read(file, settings)
        crop = min(settings.crop_sides[1], *pixels.shape[1:])
        top, left = (pixels.shape[1] - crop) // 2, (pixels.shape[2] - crop) // 2
        views.append(to_float(_square(pixels, top, left, crop, settings)))
    return torch.stack(views)
