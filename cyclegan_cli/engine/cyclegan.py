"""The four networks, the two optimisers, and one step of training.

The paper's letters are the names here: X and Y are the two domains; G: X→Y and F: Y→X the
generators; D_X and D_Y the discriminators, which tell real pictures of X and Y from generated ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from cyclegan_cli.engine import features
from cyclegan_cli.engine.distributed import ALONE, Group
from cyclegan_cli.engine.fast.modules import quick
from cyclegan_cli.engine.features import DISCRIMINATORS, Perception, chroma_loss
from cyclegan_cli.engine.grain import canvas, drawn
from cyclegan_cli.engine.history import History
from cyclegan_cli.engine.losses import (
    BEGIN,
    REMEMBERED,
    PatchLoss,
    coarse_l1,
    discriminator_loss,
    generator_loss,
    l1,
    structure_loss,
)
from cyclegan_cli.engine.networks import Generator, initialise
from cyclegan_cli.errors import CheckpointError
from cyclegan_cli.randomness import stream_seed
from cyclegan_cli.settings import TrainSettings
from cyclegan_cli.shares import shares

__all__ = ["CycleGAN"]

_RANGE = 5.0  # weight of values outside of [−1, 1], where a generator's output is not bound to it


_VIEWS = {"G": "G(x)", "F": "F(y)"}  # names of the pictures that are judged


class CycleGAN:
    """G, F, D_X, D_Y with their optimisers and histories (paper, sections 3 and 4).

    ``dtype``: the dtype of autocast; float32 means none. ``group``: the processes that train it
    together; each has all of it, and the same after every step.
    """

    def __init__(
        self,
        settings: TrainSettings,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        group: Group = ALONE,
    ) -> None:
        self.settings = settings
        self.group = group
        self.device = torch.device(device)
        self.dtype = dtype
        spec, seed = settings.generator, settings.seed
        self.G, self.F = Generator(spec), Generator(spec)
        kind = DISCRIMINATORS[settings.discriminator]
        self.D_X, self.D_Y = kind(spec.in_channels), kind(spec.out_channels)
        for name, network in self.networks().items():
            initialise(network, torch.Generator().manual_seed(stream_seed(seed, "weights", name)))
            network.to(self.device)
        self._means: dict[str, Generator] = {}  # the generators' running means, where wanted
        if settings.ema > 0:
            pair = {"G_mean": self.G, "F_mean": self.F}
            self._means = {k: copy.deepcopy(n).requires_grad_(False) for k, n in pair.items()}
        self.steps = 0
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
        # Only for a replay: the real pictures that were seen when the held fakes were made.
        self.real_X = History(settings.history, seed, "real_X")
        self.real_Y = History(settings.history, seed, "real_Y")
        self.patches: dict[str, PatchLoss] = {}
        if settings.lambda_patch > 0:
            channels = {"X": spec.in_channels, "Y": spec.out_channels}
            self.patches = {d: PatchLoss(seed, d, n, self.device) for d, n in channels.items()}
        self.perception = Perception(settings, self.device) if settings.needs_features else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def _adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        s = self.settings
        learnt = [parameter for parameter in parameters if parameter.requires_grad]
        return torch.optim.Adam(learnt, lr=s.lr, betas=(s.beta1, s.beta2))

    @property
    def shown_G(self) -> Generator:
        """What is shown, measured and published of G: its running mean, or itself."""
        return self._means.get("G_mean", self.G)

    @property
    def shown_F(self) -> Generator:
        """The same of F."""
        return self._means.get("F_mean", self.F)

    def networks(self) -> dict[str, nn.Module]:
        """The four networks by the paper's names."""
        return {"G": self.G, "F": self.F, "D_X": self.D_X, "D_Y": self.D_Y}

    @property
    def begins_with(self) -> int:
        """How many pictures of each domain ``begin`` wants to see."""
        if self.patches:
            return BEGIN
        return features.BEGIN * self.settings.batch_size if self.perception else 0

    @torch.no_grad()
    def begin(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Show pictures to what must know some before the first step.

        batches: x and y, as ``step`` takes them.
        """
        pairs = list(batches)
        few = pairs[:: -(-len(pairs) // REMEMBERED)]
        made_x = [self._painted(self.F, y, f"begin-F-{i}")[0] for i, (_, y) in enumerate(few)]
        made_y = [self._painted(self.G, x, f"begin-G-{i}")[0] for i, (x, _) in enumerate(few)]
        if self.patches:
            self.patches["X"].begin([x for x, _ in pairs], made_x)
            self.patches["Y"].begin([y for _, y in pairs], made_y)
        if self.perception:
            quads = [(x, y, f, g) for (x, y), f, g in zip(few, made_x, made_y, strict=True)]
            scales = self.perception.begin(quads[: features.BEGIN])
            for domain, D in (("X", self.D_X), ("Y", self.D_Y)):
                if isinstance(D, features.ProjectedDiscriminator):
                    D.scales.copy_(scales[domain])

    def start_from(self, letter: str, network: Generator) -> None:
        """Give G or F the weights of ``network``, a generator of the same spec."""
        own, shown = (self.G, self.shown_G) if letter == "G" else (self.F, self.shown_F)
        own.load_state_dict(network.state_dict())
        shown.load_state_dict(network.state_dict())

    def _with_grain(self, network: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
        """``network`` of ``x`` under fresh grain, where the generators take any."""
        return self._painted(network, x, name)[0]

    def _painted(
        self, network: Callable[[Tensor], Tensor], x: Tensor, name: str
    ) -> tuple[Tensor, Tensor]:
        """``network`` of ``x`` under fresh grain, and how far it leaves [−1, 1], a scalar.

        What leaves it is clipped, as in a painting; the gradient passes as if it were not.
        """
        spec, seed = (
            self.settings.generator,
            stream_seed(self.settings.seed, "grain", name, self.steps),
        )
        if spec.code == 0:
            return network(self._noisy(x, spec.grain, "grain", name)), x.new_zeros(())
        seed = stream_seed(self.settings.seed, "grain", name, self.steps)
        painted = network(torch.cat([x, spec.grain * drawn(x[:, :1], seed)], dim=1))
        clipped = painted.clamp(-1, 1)
        outside = (painted - clipped).abs().mean()
        return painted + (clipped - painted).detach(), outside

    def _noisy(self, x: Tensor, strength: float, kind: str, name: str) -> Tensor:
        """``x`` under noise of that deviation, drawn for this step, kind and name."""
        if strength == 0:
            return x
        return x + strength * drawn(x, stream_seed(self.settings.seed, kind, name, self.steps))

    def step(self, x: Tensor, y: Tensor, learning_rate: float) -> dict[str, Tensor]:
        """One step: Adam for G and F with both D frozen, then Adam for D_X and D_Y.

        x, y: float, N×3×H×W in [−1, 1], real pictures of X and Y on this device. The discriminators
        learn from the fakes that were made before the generators moved, through the histories.
        Returns every loss as a detached scalar (weighted as it enters the sum): ``G`` and ``F``
        adversarial, ``cycle_X``, ``cycle_Y``, ``identity_X``, ``identity_Y``, ``patch_X``,
        ``patch_Y``, ``self_X``, ``self_Y``, ``structure_X``, ``structure_Y``, ``D_X``, ``D_Y``:
        those whose weight is not 0.

        Of several processes each gets its part of the batch (``shares``), which may be empty, and
        all take the step of the whole batch: gradients are weighted by pictures, summed once for
        each optimiser, and the histories see all pictures in the order of the whole batch.
        """
        count, whole = len(x), self.group.total(len(x))
        if count == 0:  # a picture that counts for nothing, so that all processes do the same
            x = y = torch.zeros((1, *x.shape[1:]), dtype=x.dtype, device=x.device)
        own = self.settings.lr_d  # of the discriminators, which follow the same schedule
        rate_D = learning_rate if own is None else learning_rate * own / (self.settings.lr or 1.0)
        for optimiser, rate in ((self.optimiser_G, learning_rate), (self.optimiser_D, rate_D)):
            for group in optimiser.param_groups:
                group["lr"] = rate
        if self.perception:
            self.perception.next_step(self.steps)
        losses, fake_x, fake_y = self._step_generators(x, y, (count, whole))
        if self.settings.lambda_gan > 0:
            losses |= self._step_discriminators(x, y, fake_x, fake_y, (count, whole))
        self._follow()
        self.steps += 1
        self.scaler.update()
        return losses

    def _step_generators(
        self, x: Tensor, y: Tensor, batch: tuple[int, int]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        s = self.settings
        self._freeze_discriminators(True)
        with self._autocast():
            fake_y, outside_Y = self._painted(self._G, x, "G(x)")
            fake_x, outside_X = self._painted(self._F, y, "F(y)")
            losses = self._adversarial(fake_x, fake_y)
            if s.generator.code > 0:
                losses |= {"range_X": _RANGE * outside_X, "range_Y": _RANGE * outside_Y}
            if s.lambda_cycle > 0:
                back_x = self._with_grain(self._F, fake_y, "F(G(x))")
                back_y = self._with_grain(self._G, fake_x, "G(F(y))")
                losses["cycle_X"] = s.lambda_cycle * l1(back_x, x)
                losses["cycle_Y"] = s.lambda_cycle * l1(back_y, y)
            if s.lambda_cycle * s.lambda_identity > 0:
                weight = s.lambda_cycle * s.lambda_identity
                losses["identity_X"] = weight * l1(self._with_grain(self._F, x, "F(x)"), x)
                losses["identity_Y"] = weight * l1(self._with_grain(self._G, y, "G(y)"), y)
            losses |= self._beyond_the_paper(x, y, fake_x, fake_y)
        means = self._descend(self.optimiser_G, losses, batch)
        return means, fake_x.detach(), fake_y.detach()

    def _beyond_the_paper(
        self, x: Tensor, y: Tensor, fake_x: Tensor, fake_y: Tensor
    ) -> dict[str, Tensor]:
        s, losses = self.settings, {}
        if self.patches:
            losses["patch_X"] = s.lambda_patch * self.patches["X"](fake_x)
            losses["patch_Y"] = s.lambda_patch * self.patches["Y"](fake_y)
        if s.lambda_self > 0:
            losses["self_X"] = s.lambda_self * coarse_l1(fake_x, y)
            losses["self_Y"] = s.lambda_self * coarse_l1(fake_y, x)
        if s.lambda_structure > 0:
            losses["structure_X"] = s.lambda_structure * structure_loss(fake_x, y)
            losses["structure_Y"] = s.lambda_structure * structure_loss(fake_y, x)
        if self.perception:
            losses |= self.perception.losses(x, y, fake_x, fake_y)
        if s.lambda_chroma > 0:
            losses["chroma_X"] = s.lambda_chroma * chroma_loss(fake_x, y)
            losses["chroma_Y"] = s.lambda_chroma * chroma_loss(fake_y, x)
        return losses

    def _adversarial(self, fake_x: Tensor, fake_y: Tensor) -> dict[str, Tensor]:
        s = self.settings
        if s.lambda_gan == 0:
            return {}
        losses = {
            "G": generator_loss(self._judged(self._D_Y, fake_y, "G"), s.gan),
            "F": generator_loss(self._judged(self._D_X, fake_x, "F"), s.gan),
        }
        return {name: s.lambda_gan * loss for name, loss in losses.items()}

    def _step_discriminators(
        self, x: Tensor, y: Tensor, fake_x: Tensor, fake_y: Tensor, batch: tuple[int, int]
    ) -> dict[str, Tensor]:
        s = self.settings
        self._freeze_discriminators(False)
        if s.replay > 0:
            x = self.real_X.replay(x, s.replay)
            y = self.real_Y.replay(y, s.replay)
            fake_x = self.history_X.replay(fake_x, s.replay)
            fake_y = self.history_Y.replay(fake_y, s.replay)
        else:
            fake_x = self._exchange(self.history_X, fake_x, batch)
            fake_y = self._exchange(self.history_Y, fake_y, batch)
        with self._autocast():
            losses = {
                "D_X": discriminator_loss(
                    self._judged(self._D_X, x, "x"),
                    self._judged(self._D_X, fake_x, "fake_x"),
                    s.gan,
                ),
                "D_Y": discriminator_loss(
                    self._judged(self._D_Y, y, "y"),
                    self._judged(self._D_Y, fake_y, "fake_y"),
                    s.gan,
                ),
            }
        return self._descend(self.optimiser_D, losses, batch)

    def _judged(self, D: Callable[[Tensor], Tensor], pictures: Tensor, name: str) -> Tensor:
        """The logits of ``pictures``, seen through noise where that is asked for.

        It hides faint patterns that give a generator away at once and teach it nothing of painting
        (instance noise: Sønderby et al., ICLR 2017).
        """
        if self.perception and self.settings.discriminator == "projected":
            views: Callable[[Any], Tensor] = D
            return views(self.perception.view(pictures, _VIEWS.get(name, name)))
        return D(self._noisy(pictures, self.settings.noise_d, "noise", name))

    def _exchange(self, history: History, fakes: Tensor, batch: tuple[int, int]) -> Tensor:
        """What the history shows in place of this process's pictures.

        Every process holds the same history and shows it the pictures of all, so that it is what
        one process would hold. ``batch``: pictures of this process, and of all.
        """
        if history.capacity == 0 or not self.group.joined:
            return history.exchange(fakes)
        count, whole = batch
        mine = shares(whole, self.group.size)[self.group.rank]
        if len(mine) != count:
            raise ValueError(f"{count} pictures, where {len(mine)} are this process's share")
        shown = history.exchange(self.group.gather(fakes, whole))
        return shown[mine.start : mine.stop] if count else fakes

    def _descend(
        self, optimiser: torch.optim.Adam, losses: Mapping[str, Tensor], batch: tuple[int, int]
    ) -> dict[str, Tensor]:
        """One Adam step on the sum of ``losses``; returns them, detached, of the whole batch."""
        count, whole = batch
        optimiser.zero_grad(set_to_none=True)
        total = _total(losses)
        if self.group.joined:
            total = total * count  # a sum over pictures, until those of all processes are in
        torch.autograd.backward(self.scaler.scale(total))
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        values = {name: loss.detach() for name, loss in losses.items()}
        means = self.group.average(gradients, values, count, whole)
        if self.settings.clip > 0:
            self.scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        self.scaler.step(optimiser)
        return means

    @torch.no_grad()
    def _follow(self) -> None:
        """The running means take a step towards the generators: the first ones long, as a mean."""
        if self.settings.ema == 0:
            return
        stays = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
        for shown, own in ((self.shown_G, self.G), (self.shown_F, self.F)):
            for mean, parameter in zip(shown.parameters(), own.parameters(), strict=True):
                mean.lerp_(parameter, 1 - stays)

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
        G, F = self.shown_G, self.shown_F
        with self._autocast():
            fake_y, fake_x = self._on_canvas(G, x), self._on_canvas(F, y)
            pictures = {"x": x, "G(x)": fake_y, "F(G(x))": self._on_canvas(F, fake_y)}
            pictures |= {"y": y, "F(y)": fake_x, "G(F(y))": self._on_canvas(G, fake_x)}
        return {name: picture.float().cpu() for name, picture in pictures.items()}

    def _on_canvas(self, network: Generator, pictures: Tensor) -> Tensor:
        """``network`` of ``pictures`` under the grain that a painting gets."""
        spec = self.settings.generator
        strength, channels = spec.grain, 1 if spec.code > 0 else pictures.shape[1]
        if strength > 0 or spec.code > 0:
            drawn_grain = canvas(0, pictures.shape[2], pictures.shape[3], channels)
            grain = strength * torch.from_numpy(drawn_grain).to(pictures.device)
            if spec.code > 0:
                beside = grain.expand(len(pictures), -1, -1, -1)
                return cast(Tensor, network(torch.cat([pictures, beside], dim=1))).clamp(-1, 1)
            pictures = pictures + grain
        return cast(Tensor, network(pictures))

    @torch.no_grad()
    def paint(self, network: Generator, pictures: Tensor) -> Tensor:
        """G or F at work: float, N×3×H×W in [−1, 1] -> the same, float32 on the CPU."""
        with self._autocast():
            painted = self._on_canvas(network, pictures.to(self.device))
        return painted.float().cpu()

    # -- the whole state -----------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        for name, network in (self.networks() | self._means).items():
            for key, tensor in network.state_dict().items():
                tensors[f"{name}.{key}"] = tensor
        for name, optimiser in self._optimisers().items():
            for index, moments in optimiser.state_dict()["state"].items():
                for key, tensor in moments.items():
                    tensors[f"{name}.{index}.{key}"] = tensor
        for name, history in self._histories().items():
            for index, image in enumerate(history.state()):
                tensors[f"{name}.{index:04}"] = image
        for name, memory in self._memories().items():
            for key, tensor in memory.state().items():
                tensors[f"{name}.{key}"] = tensor
        plain: dict[str, Any] = {"scaler": self.scaler.state_dict(), "steps": self.steps}
        plain |= {f"{name}.steps": memory.steps for name, memory in self._memories().items()}
        plain |= {f"{name}.seen": history.seen for name, history in self._histories().items()}
        return tensors, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of ``state``. Raises CheckpointError where the state is of another model."""
        try:
            for name, network in (self.networks() | self._means).items():
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
            for name, memory in self._memories().items():
                memory.load_state(_below(tensors, name), int(plain[f"{name}.steps"]))
            self.steps = int(plain.get("steps", 0))  # of runs from before, nothing depends on it
            if plain["scaler"]:
                self.scaler.load_state_dict(plain["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"The checkpoint is of another model ({error}).") from error

    def _optimisers(self) -> dict[str, torch.optim.Adam]:
        return {"optimiser_G": self.optimiser_G, "optimiser_D": self.optimiser_D}

    def _memories(self) -> dict[str, PatchLoss | features.FeatureDistance]:
        found: dict[str, PatchLoss | features.FeatureDistance] = {
            f"patches_{domain}": patches for domain, patches in self.patches.items()
        }
        distances = self.perception.distances if self.perception else {}
        return found | {f"features_{domain}": distance for domain, distance in distances.items()}

    def _histories(self) -> dict[str, History]:
        histories = {"history_X": self.history_X, "history_Y": self.history_Y}
        if self.settings.replay > 0:
            histories |= {"real_X": self.real_X, "real_Y": self.real_Y}
        return histories


def _as_it_is(network: Any) -> Any:
    return network


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors named ``prefix.…``, without the prefix."""
    return {
        k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")
    }
