"""The four networks, the two optimisers, and one step of training.

The paper's letters are the names here: X and Y are the two domains; G: X→Y and F: Y→X the
generators; D_X and D_Y the discriminators, which tell real pictures of X and Y from generated ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_cli.engine import features
from cyclegan_cli.engine import losses as objective
from cyclegan_cli.engine.distributed import ALONE, Group
from cyclegan_cli.engine.fast.training import fused_layers
from cyclegan_cli.engine.features import Perception
from cyclegan_cli.engine.grain import drawn, fresh, grained, on_canvas
from cyclegan_cli.engine.history import History
from cyclegan_cli.engine.losses import discriminator_loss, generator_loss, l1
from cyclegan_cli.engine.networks import DISCRIMINATORS, Generator, initialise, parameter_groups
from cyclegan_cli.engine.weights import below
from cyclegan_cli.errors import CheckpointError
from cyclegan_cli.machine import Part
from cyclegan_cli.randomness import stream_seed
from cyclegan_cli.settings import TrainSettings

_Memory = objective.PatchLoss | objective.SpectrumLoss | features.FeatureDistance

_RANGE = 5.0  # weight of values outside [−1, 1], for generators that are not bound to it
_VIEWS = {"G": "G(x)", "F": "F(y)"}  # names of the pictures that the discriminators see


class CycleGAN:
    """G, F, D_X, D_Y with their optimisers and histories (paper, sections 3 and 4).

    ``dtype``: of autocast; float32 means none. ``group``: the processes that train it together;
    each has a copy, which is the same in all after every step.
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
        self._means: dict[str, Generator] = {}  # running means of the generators, if wanted
        if settings.ema > 0:
            pair = {"G_mean": self.G, "F_mean": self.F}
            self._means = {k: copy.deepcopy(n).requires_grad_(False) for k, n in pair.items()}
        self.steps = 0
        # What is called shares the parameters of the networks, which are what is saved.
        call: Callable[[Any], Any] = torch.compile if settings.compile else lambda network: network
        self._G, self._F = call(self.G), call(self.F)
        plain = settings.exact_reference or settings.compile
        own = not plain and self.device.type == "cpu"
        half = own and dtype == torch.bfloat16
        if own:
            self._G, self._F = fused_layers(self.G, half=half), fused_layers(self.F, half=half)
        self._D_X, self._D_Y = call(self.D_X), call(self.D_Y)
        self.optimiser_G = self._adam(self.G, self.F, fused=half)
        self.optimiser_D = self._adam(self.D_X, self.D_Y, fused=half)
        self.history_X, self.history_Y = (History(settings.history, seed, d) for d in "XY")
        # For a replay: the real pictures of the steps in which the held fakes were made.
        self.real_X, self.real_Y = (History(settings.history, seed, f"real_{d}") for d in "XY")
        self.patches: dict[str, objective.PatchLoss] = {}
        self.spectra: dict[str, objective.SpectrumLoss] = {}
        for domain, channels in (("X", spec.in_channels), ("Y", spec.out_channels)):
            if settings.lambda_patch > 0:
                self.patches[domain] = objective.PatchLoss(seed, domain, channels, self.device)
            if settings.lambda_spectrum > 0:
                self.spectra[domain] = objective.SpectrumLoss(channels, self.device)
        self._part: Part | None = None  # of this step's batch, where there are several processes
        wanted = settings.needs_features
        self.perception = Perception(settings, self.device, group) if wanted else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def _adam(self, *networks: nn.Module, fused: bool = False) -> torch.optim.Adam:
        s, betas = self.settings, (self.settings.beta1, self.settings.beta2)
        groups = parameter_groups(*networks)
        return torch.optim.Adam(groups, lr=s.lr, betas=betas, fused=fused or None)

    @property
    def shown_G(self) -> Generator:
        """G as it is shown, measured and published: its running mean, if there is one."""
        return self._means.get("G_mean", self.G)

    @property
    def shown_F(self) -> Generator:
        """The same for F."""
        return self._means.get("F_mean", self.F)

    def networks(self) -> dict[str, nn.Module]:
        """The four networks by the paper's names."""
        return {"G": self.G, "F": self.F, "D_X": self.D_X, "D_Y": self.D_Y}

    @property
    def begins_with(self) -> int:
        """How many pictures of each domain ``begin`` needs."""
        if self.patches or self.spectra:
            return objective.BEGIN
        return features.BEGIN * self.settings.batch_size if self.perception else 0

    @torch.no_grad()
    def begin(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Prepare losses that need pictures before the first step; batches: x, y of ``step``."""
        total, gather = self.group.total, self.group.gather
        pairs = [(gather(x, total(len(x))), gather(y, total(len(y)))) for x, y in batches]
        few = pairs[:: -(-len(pairs) // objective.REMEMBERED)]
        made_x = [self._painted(self.F, y, f"begin-F-{i}")[0] for i, (_, y) in enumerate(few)]
        made_y = [self._painted(self.G, x, f"begin-G-{i}")[0] for i, (x, _) in enumerate(few)]
        for side, domain, made in ((0, "X", made_x), (1, "Y", made_y)):
            for losses in (self.patches, self.spectra):
                if domain in losses:
                    losses[domain].begin([pair[side] for pair in pairs], made)
        if self.perception:
            quads = [(x, y, f, g) for (x, y), f, g in zip(few, made_x, made_y, strict=True)]
            scales = self.perception.begin(quads[: features.BEGIN])
            if self.settings.discriminator == "projected":
                for domain, D in (("X", self.D_X), ("Y", self.D_Y)):
                    D.get_buffer("scales").copy_(scales[domain])

    def start_from(self, letter: str, network: Generator) -> None:
        """Give G or F the weights of ``network``, of the same spec but for noise and chroma."""
        for own in (self.G, self.shown_G) if letter == "G" else (self.F, self.shown_F):
            kept, given = own.state_dict(), network.state_dict()
            own.load_state_dict({name: given.get(name, value) for name, value in kept.items()})

    def _painted(
        self, network: Callable[[Tensor], Tensor], x: Tensor, name: str
    ) -> tuple[Tensor, Tensor]:
        """``network`` of ``x`` under new grain, and by how much it leaves [−1, 1], a scalar.

        The result is clipped, as in a painting; the gradient passes as if it were not.
        """
        spec = self.settings.generator
        if not grained(spec):
            return network(x), x.new_zeros(())
        seed = stream_seed(self.settings.seed, "grain", name, self.steps)
        grain = fresh(spec, x, seed, self._part)
        if spec.code == 0:
            return network(x + grain), x.new_zeros(())
        painted = network(torch.cat([x, grain], dim=1))
        clipped = painted.clamp(-1, 1)
        outside = (painted - clipped).abs().mean()
        return painted + (clipped - painted).detach(), outside

    def step(self, x: Tensor, y: Tensor, learning_rate: float) -> dict[str, Tensor]:
        """One step: Adam for G and F with both D frozen, then Adam for D_X and D_Y.

        x, y: float, N×3×H×W in [−1, 1], real pictures of X and Y on this device. The discriminators
        learn from the fakes made before the step of the generators, through the histories. Returns
        every weighted loss whose weight is not 0 as a detached scalar: ``G``, ``F`` (adversarial),
        ``D_X``, ``D_Y``, and ``…_X``, ``…_Y`` of cycle, identity, patch, spectrum, self, structure,
        feature, content, chroma.

        Each of several processes gets its part of the batch (``shares``), which may be empty, and
        takes the step of the whole batch: gradients are weighted by pictures and summed once for
        each optimiser, and the histories see all pictures in the order of the whole batch.
        """
        self._part = self.group.part(len(x))
        if len(x) == 0:  # a picture of weight 0, so that all processes do the same
            x = y = torch.zeros((1, *x.shape[1:]), dtype=x.dtype, device=x.device)
        rate_G, rate_D = self.settings.rates(learning_rate, self.steps)
        for optimiser, rate in ((self.optimiser_G, rate_G), (self.optimiser_D, rate_D)):
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
        if self.perception:
            self.perception.next_step(self.steps, self._part)
        losses, fake_x, fake_y = self._step_generators(x, y)
        if self.settings.lambda_gan > 0:
            losses |= self._step_discriminators(x, y, fake_x, fake_y)
        self._update_means()
        self.steps += 1
        self.scaler.update()
        return losses

    def _step_generators(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        s = self.settings
        for frozen in (self.D_X, self.D_Y):
            frozen.requires_grad_(False)
        with self._autocast():
            fake_y, outside_Y = self._painted(self._G, x, "G(x)")
            fake_x, outside_X = self._painted(self._F, y, "F(y)")
            losses: dict[str, Tensor] = {}
            if s.lambda_gan > 0:
                logits = self._judged(self._D_Y, fake_y, "G"), self._judged(self._D_X, fake_x, "F")
                losses = {"G": s.lambda_gan * generator_loss(logits[0], s.gan)}
                losses["F"] = s.lambda_gan * generator_loss(logits[1], s.gan)
            if s.generator.code > 0:
                losses |= {"range_X": _RANGE * outside_X, "range_Y": _RANGE * outside_Y}
            if s.lambda_cycle > 0:
                back_x, _ = self._painted(self._F, fake_y, "F(G(x))")
                back_y, _ = self._painted(self._G, fake_x, "G(F(y))")
                losses["cycle_X"] = s.lambda_cycle * l1(back_x, x)
                losses["cycle_Y"] = s.lambda_cycle * l1(back_y, y)
            if s.lambda_cycle * s.lambda_identity > 0:
                weight = s.lambda_cycle * s.lambda_identity
                losses["identity_X"] = weight * l1(self._painted(self._F, x, "F(x)")[0], x)
                losses["identity_Y"] = weight * l1(self._painted(self._G, y, "G(y)")[0], y)
            losses |= self._optional_losses(x, y, fake_x, fake_y)
        means = self._descend(self.optimiser_G, losses)
        return means, fake_x.detach(), fake_y.detach()

    def _optional_losses(
        self, x: Tensor, y: Tensor, fake_x: Tensor, fake_y: Tensor
    ) -> dict[str, Tensor]:
        s = self.settings
        losses: dict[str, Tensor] = {}

        def add(name: str, weight: float, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
            if weight > 0:
                losses[f"{name}_X"] = weight * loss(fake_x, y)
                losses[f"{name}_Y"] = weight * loss(fake_y, x)

        with torch.autocast(self.device.type, enabled=False):
            for domain, fake in (("X", fake_x), ("Y", fake_y)):
                if self.patches:
                    losses[f"patch_{domain}"] = s.lambda_patch * self.patches[domain](fake)
                if self.spectra:
                    losses[f"spectrum_{domain}"] = s.lambda_spectrum * self.spectra[domain](fake)
        add("self", s.lambda_self, objective.coarse_l1)
        add("structure", s.lambda_structure, objective.structure_loss)
        if self.perception:
            losses |= self.perception.losses(x, y, fake_x, fake_y)
        add("chroma", s.lambda_chroma, objective.chroma_loss)
        return losses

    def _step_discriminators(
        self, x: Tensor, y: Tensor, fake_x: Tensor, fake_y: Tensor
    ) -> dict[str, Tensor]:
        s = self.settings
        for trained in (self.D_X, self.D_Y):
            trained.requires_grad_(True)
        if s.replay > 0:
            x = self.real_X.replay(x, s.replay)
            y = self.real_Y.replay(y, s.replay)
            fake_x = self.history_X.replay(fake_x, s.replay)
            fake_y = self.history_Y.replay(fake_y, s.replay)
        else:
            fake_x = self._exchange(self.history_X, fake_x)
            fake_y = self._exchange(self.history_Y, fake_y)
        losses = {}
        with self._autocast():
            both = ("x", self._D_X, x, fake_x), ("y", self._D_Y, y, fake_y)
            for name, D, real, fake in both:
                logits = self._judged(D, real, name), self._judged(D, fake, f"fake_{name}")
                losses[f"D_{name.upper()}"] = discriminator_loss(*logits, s.gan)
        return self._descend(self.optimiser_D, losses)

    def _judged(self, D: Callable[[Tensor], Tensor], pictures: Tensor, name: str) -> Tensor:
        """The logits of ``pictures``, with noise if wanted (Sønderby et al., ICLR 2017).

        Noise hides faint patterns that give a generator away and teach it nothing about painting.
        """
        if self.perception and self.settings.discriminator == "projected":
            views: Callable[[Any], Tensor] = D
            return views(self.perception.view(pictures, _VIEWS.get(name, name)))
        if self.settings.noise_d > 0:
            seed = stream_seed(self.settings.seed, "noise", name, self.steps)
            pictures = pictures + self.settings.noise_d * drawn(pictures, seed, self._part)
        return D(pictures)

    def _exchange(self, history: History, fakes: Tensor) -> Tensor:
        """``history.exchange`` of this process's pictures.

        Every process shows its history the pictures of all, so that each holds the same.
        """
        if history.capacity == 0 or self._part is None:
            return history.exchange(fakes)
        rows = self._part.rows
        shown = history.exchange(self.group.gather(fakes, self._part.whole))
        return shown[rows.start : rows.stop] if rows else fakes

    def _descend(
        self, optimiser: torch.optim.Adam, losses: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """One Adam step on the sum of ``losses``; returns those of the whole batch, detached."""
        optimiser.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        count, whole = (len(self._part.rows), self._part.whole) if self._part else (1, 1)
        total = total * count  # a sum over pictures; ``average`` divides by those of all
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
    def _update_means(self) -> None:
        """One step of the running means towards the generators; the first steps are longer."""
        if self.settings.ema == 0:
            return
        stays = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
        for shown, own in ((self.shown_G, self.G), (self.shown_F, self.F)):
            for mean, parameter in zip(shown.parameters(), own.parameters(), strict=True):
                mean.lerp_(parameter, 1 - stays)

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(
            self.device.type, dtype=self.dtype if enabled else None, enabled=enabled
        )

    @torch.no_grad()
    def sample(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """``x``, ``G(x)``, ``F(G(x))``, ``y``, ``F(y)``, ``G(F(y))``: float32 on the CPU.

        x, y: float, N×3×H×W in [−1, 1].
        """
        spec, G, F = self.settings.generator, self.shown_G, self.shown_F
        with self._autocast():
            fake_y, fake_x = on_canvas(spec, G, x), on_canvas(spec, F, y)
            pictures = {"x": x, "G(x)": fake_y, "F(G(x))": on_canvas(spec, F, fake_y)}
            pictures |= {"y": y, "F(y)": fake_x, "G(F(y))": on_canvas(spec, G, fake_x)}
        return {name: picture.float().cpu() for name, picture in pictures.items()}

    @torch.no_grad()
    def paint(self, network: Generator, pictures: Tensor) -> Tensor:
        """G or F of ``pictures``: float, N×3×H×W in [−1, 1] -> the same, float32 on the CPU."""
        with self._autocast():
            painted = on_canvas(self.settings.generator, network, pictures.to(self.device))
        return painted.float().cpu()

    # -- the whole state -----------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        optimisers = {"optimiser_G": self.optimiser_G, "optimiser_D": self.optimiser_D}
        for name, network in (self.networks() | self._means).items():
            tensors |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
        for name, optimiser in optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": tensor for key, tensor in moments.items()}
        for name, history in self._histories().items():
            tensors |= {f"{name}.{i:04}": image for i, image in enumerate(history.state())}
        for name, memory in self._memories().items():
            tensors |= {f"{name}.{key}": tensor for key, tensor in memory.state().items()}
        plain: dict[str, Any] = {"scaler": self.scaler.state_dict(), "steps": self.steps}
        plain |= {f"{name}.steps": memory.steps for name, memory in self._memories().items()}
        plain |= {f"{name}.seen": history.seen for name, history in self._histories().items()}
        return tensors, plain

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of ``state``. Raises CheckpointError if the state is of another model."""
        try:
            for name, network in (self.networks() | self._means).items():
                network.load_state_dict(below(tensors, name))
            optimisers = {"optimiser_G": self.optimiser_G, "optimiser_D": self.optimiser_D}
            for name, optimiser in optimisers.items():
                moments: dict[int, dict[str, Tensor]] = {}
                for key, tensor in below(tensors, name).items():
                    index, kind = key.split(".")
                    moments.setdefault(int(index), {})[kind] = tensor.clone()
                optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
            for name, history in self._histories().items():
                held = sorted(below(tensors, name).items())
                images = [image.to(self.device, copy=True) for _, image in held]
                history.load_state(images, int(plain[f"{name}.seen"]))
            for name, memory in self._memories().items():
                memory.load_state(below(tensors, name), int(plain[f"{name}.steps"]))
            self.steps = int(plain.get("steps", 0))  # older checkpoints do not need it
            if plain["scaler"]:
                self.scaler.load_state_dict(plain["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"The checkpoint is of another model ({error}).") from error

    def _memories(self) -> dict[str, _Memory]:
        distances = self.perception.distances if self.perception else {}
        kinds: dict[str, Mapping[str, _Memory]]
        kinds = {"patches": self.patches, "spectrum": self.spectra, "features": distances}
        return {f"{kind}_{d}": memory for kind, two in kinds.items() for d, memory in two.items()}

    def _histories(self) -> dict[str, History]:
        histories = {"history_X": self.history_X, "history_Y": self.history_Y}
        if self.settings.replay > 0:
            histories |= {"real_X": self.real_X, "real_Y": self.real_Y}
        return histories
