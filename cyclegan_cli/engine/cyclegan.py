"""The four networks, the two optimisers, and one step of training.

The paper's letters are the names here: X and Y are the two domains; G: X→Y and F: Y→X the
generators; D_X and D_Y the discriminators, which tell real pictures of X and Y from generated ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_cli.engine.fast.modules import quick
from cyclegan_cli.engine.history import History
from cyclegan_cli.engine.networks import Discriminator, Generator, initialise
from cyclegan_cli.engine.objective import discriminator_loss, generator_loss, l1
from cyclegan_cli.errors import CheckpointError
from cyclegan_cli.randomness import stream_seed
from cyclegan_cli.settings import TrainSettings

__all__ = ["CycleGAN"]

BETA2 = 0.999  # Adam's second decay, as in the public implementation


class CycleGAN:
    """G, F, D_X, D_Y with their optimisers and histories (paper, sections 3 and 4).

    ``dtype``: the dtype of autocast; float32 means none.
    """

    def __init__(
        self,
        settings: TrainSettings,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.dtype = dtype
        spec, seed = settings.generator, settings.seed
        self.G, self.F = Generator(spec), Generator(spec)
        self.D_X, self.D_Y = Discriminator(spec.in_channels), Discriminator(spec.out_channels)
        for name, network in self.networks().items():
            initialise(network, torch.Generator().manual_seed(stream_seed(seed, "weights", name)))
            network.to(self.device)
        # Compiled calls share the parameters of the networks, which stay what is saved.
        call = torch.compile if settings.compile else _as_it_is
        self._G, self._F = call(self.G), call(self.F)
        plain = settings.exact_reference or settings.compile
        if not plain and self.device.type == "cpu" and dtype == torch.float32:
            self._G, self._F = quick(self.G), quick(self.F)
        self._D_X, self._D_Y = call(self.D_X), call(self.D_Y)
        self.optimiser_G = self._adam(chain(self.G.parameters(), self.F.parameters()))
        self.optimiser_D = self._adam(chain(self.D_X.parameters(), self.D_Y.parameters()))
        self.history_X = History(settings.history, seed, "X")
        self.history_Y = History(settings.history, seed, "Y")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def _adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        s = self.settings
        return torch.optim.Adam(parameters, lr=s.lr, betas=(s.beta1, BETA2))

    def networks(self) -> dict[str, nn.Module]:
        """The four networks by the paper's names."""
        return {"G": self.G, "F": self.F, "D_X": self.D_X, "D_Y": self.D_Y}

    def step(self, x: Tensor, y: Tensor, learning_rate: float) -> dict[str, Tensor]:
        """One step: Adam for G and F with both D frozen, then Adam for D_X and D_Y.

        x, y: float, N×3×H×W in [−1, 1], real pictures of X and Y on this device. The discriminators
        learn from the fakes that were made before the generators moved, through the histories.
        Returns every loss as a detached scalar (weighted as it enters the sum): ``G`` and ``F``
        adversarial, ``cycle_X``, ``cycle_Y``, ``identity_X``, ``identity_Y``, ``D_X``, ``D_Y``.
        """
        for optimiser in (self.optimiser_G, self.optimiser_D):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
        losses, fake_x, fake_y = self._step_generators(x, y)
        losses.update(self._step_discriminators(x, y, fake_x, fake_y))
        self.scaler.update()
        return losses

    def _step_generators(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        s = self.settings
        self._freeze_discriminators(True)
        with self._autocast():
            fake_y, fake_x = self._G(x), self._F(y)
            losses = {
                "G": generator_loss(self._D_Y(fake_y), s.gan),
                "F": generator_loss(self._D_X(fake_x), s.gan),
                "cycle_X": s.lambda_cycle * l1(self._F(fake_y), x),
                "cycle_Y": s.lambda_cycle * l1(self._G(fake_x), y),
            }
            if s.lambda_identity > 0:
                weight = s.lambda_cycle * s.lambda_identity
                losses["identity_X"] = weight * l1(self._F(x), x)
                losses["identity_Y"] = weight * l1(self._G(y), y)
        self._descend(self.optimiser_G, _total(losses))
        return {k: v.detach() for k, v in losses.items()}, fake_x.detach(), fake_y.detach()

    def _step_discriminators(
        self, x: Tensor, y: Tensor, fake_x: Tensor, fake_y: Tensor
    ) -> dict[str, Tensor]:
        s = self.settings
        self._freeze_discriminators(False)
        fake_x, fake_y = self.history_X.exchange(fake_x), self.history_Y.exchange(fake_y)
        with self._autocast():
            losses = {
                "D_X": discriminator_loss(self._D_X(x), self._D_X(fake_x), s.gan),
                "D_Y": discriminator_loss(self._D_Y(y), self._D_Y(fake_y), s.gan),
            }
        self._descend(self.optimiser_D, _total(losses))
        return {k: v.detach() for k, v in losses.items()}

    def _descend(self, optimiser: torch.optim.Adam, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(optimiser)

    def _freeze_discriminators(self, frozen: bool) -> None:
        self.D_X.requires_grad_(not frozen)
        self.D_Y.requires_grad_(not frozen)

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(
            self.device.type, dtype=self.dtype if enabled else None, enabled=enabled
        )

    @torch.no_grad()
    def sample(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The generators at work, without learning.

        x, y: float, N×3×H×W in [−1, 1]. Returns ``x``, ``G(x)``, ``F(G(x))``, ``y``, ``F(y)``,
        ``G(F(y))``, float32 on the CPU.
        """
        with self._autocast():
            fake_y, fake_x = self.G(x), self.F(y)
            pictures = {"x": x, "G(x)": fake_y, "F(G(x))": self.F(fake_y)}
            pictures |= {"y": y, "F(y)": fake_x, "G(F(y))": self.G(fake_x)}
        return {name: picture.float().cpu() for name, picture in pictures.items()}

    # -- the whole state -----------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        for name, network in self.networks().items():
            for key, tensor in network.state_dict().items():
                tensors[f"{name}.{key}"] = tensor
        for name, optimiser in self._optimisers().items():
            for index, moments in optimiser.state_dict()["state"].items():
                for key, tensor in moments.items():
                    tensors[f"{name}.{index}.{key}"] = tensor
        for name, history in self._histories().items():
            for index, image in enumerate(history.state()):
                tensors[f"{name}.{index:04}"] = image
        plain: dict[str, Any] = {"scaler": self.scaler.state_dict()}
        plain |= {f"{name}.seen": history.seen for name, history in self._histories().items()}
        return tensors, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of ``state``. Raises CheckpointError where the state is of another model."""
        try:
            for name, network in self.networks().items():
                network.load_state_dict(_below(tensors, name))
            for name, optimiser in self._optimisers().items():
                moments: dict[int, dict[str, Tensor]] = {}
                for key, tensor in _below(tensors, name).items():
                    index, kind = key.split(".")
                    moments.setdefault(int(index), {})[kind] = tensor.clone()
                optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
            for name, history in self._histories().items():
                held = sorted(_below(tensors, name).items())
                images = [image.to(self.device, copy=True) for _, image in held]
                history.load_state(images, int(plain[f"{name}.seen"]))
            if plain["scaler"]:
                self.scaler.load_state_dict(plain["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"The checkpoint is of another model ({error}).") from error

    def _optimisers(self) -> dict[str, torch.optim.Adam]:
        return {"optimiser_G": self.optimiser_G, "optimiser_D": self.optimiser_D}

    def _histories(self) -> dict[str, History]:
        return {"history_X": self.history_X, "history_Y": self.history_Y}


def _as_it_is(network: Any) -> Any:
    return network


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors named ``prefix.…``, without the prefix."""
    return {
        k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")
    }
