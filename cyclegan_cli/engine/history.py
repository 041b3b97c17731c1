"""The history of generated images (Shrivastava et al., CVPR 2017; paper, section 4).

The discriminators learn from recent and from earlier generated images, which keeps the two networks
from oscillating.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cyclegan_cli.randomness import choices


class History:
    """Up to ``capacity`` images of one generator; 0: no history. ``seed``, ``name``: label its
    random streams, one for each image.
    """

    def __init__(self, capacity: int, seed: int, name: str) -> None:
        self.capacity = capacity
        self.seen = 0  # images shown so far
        self._seed = seed
        self._name = name
        self._held: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """The images to show the discriminator in place of ``images``: N×C×H×W, detached.

        Until ``capacity`` are held, each is stored and returned. Then, with probability ½, it
        replaces a stored one, chosen uniformly, which is returned; else it is returned itself.
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
        """Store ``images``; returns ``count`` of the held ones, with the newest: count×C×H×W.

        images: N×C×H×W, detached. Once ``capacity`` are held, each replaces one chosen uniformly.
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
        """Continue with ``held`` after ``seen`` images; at most ``capacity`` are kept."""
        self._held = held[: self.capacity]
        self.seen = seen
