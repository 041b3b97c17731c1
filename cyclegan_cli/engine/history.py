"""The history of generated images (Shrivastava et al., CVPR 2017; paper, section 4).

The discriminators learn from what the generators painted lately and some time ago, which keeps the
two from chasing each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cyclegan_cli.randomness import choices

__all__ = ["History"]


class History:
    """Up to ``capacity`` generated images of one generator; 0 turns the history off.

    ``seed`` and ``name`` name its random choices, one stream for each image that it is shown.
    """

    def __init__(self, capacity: int, seed: int, name: str) -> None:
        self.capacity = capacity
        self.seen = 0  # images shown so far
        self._seed = seed
        self._name = name
        self._held: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """What the discriminator is shown in place of ``images``.

        images: N×C×H×W, detached. Until ``capacity`` are held, each is stored and returned; then,
        with probability ½, a stored one chosen uniformly is returned and the new one takes its
        place, else the new one is returned and not stored. Returns the same shape.
        """
        if self.capacity == 0:
            return images
        return torch.stack([self._exchange_one(image) for image in images])

    def _exchange_one(self, image: Tensor) -> Tensor:
        choice = choices(self._seed, "history", self._name, self.seen)
        self.seen += 1
        if len(self._held) < self.capacity:
            self._held.append(image.clone())
            return image
        if choice.random() < 0.5:
            return image
        index = choice.randrange(self.capacity)
        old, self._held[index] = self._held[index], image.clone()
        return old

    def replay(self, images: Tensor, count: int) -> Tensor:
        """``count`` of the held images, the newest among them, once ``images`` have joined them.

        images: N×C×H×W, detached. Once ``capacity`` are held, each takes the place of one chosen
        uniformly. Returns count×C×H×W.
        """
        for image in images:
            choice = choices(self._seed, "replay-place", self._name, self.seen)
            self.seen += 1
            if len(self._held) < self.capacity:
                self._held.append(image.clone())
            else:
                self._held[choice.randrange(self.capacity)] = image.clone()
        choice = choices(self._seed, "replay", self._name, self.seen)
        shown = [choice.choice(self._held) for _ in range(count - 1)]
        return torch.stack([images[-1], *shown])

    def state(self) -> list[Tensor]:
        """The held images in order."""
        return list(self._held)

    def load_state(self, held: list[Tensor], seen: int) -> None:
        """Go on from ``held`` after ``seen`` images. At most ``capacity`` images are kept."""
        self._held = held[: self.capacity]
        self.seen = seen
