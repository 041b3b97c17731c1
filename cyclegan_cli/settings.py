"""What can be chosen, as frozen dataclasses that check themselves and travel as JSON or TOML.

The names and defaults of training are those of Zhu et al., "Unpaired Image-to-Image Translation
using Cycle-Consistent Adversarial Networks", ICCV 2017 (section 4 and appendix).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cyclegan_cli.errors import UsageError, WeightsError, did_you_mean

__all__ = [
    "GENERATORS",
    "DiscriminatorKind",
    "GanLoss",
    "GeneratorSpec",
    "Interval",
    "Precision",
    "TrainSettings",
    "TranslateSettings",
    "fraction",
    "normal_gpu",
    "wrong_kind",
]

GanLoss = Literal["lsgan", "vanilla", "hinge"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Resize = Literal["keep", "distort"]
Publish = Literal["last", "best"]
Upsample = Literal["transpose", "resize"]
Norm = Literal["instance", "none"]
DiscriminatorKind = Literal["patchgan", "twoscale", "projected"]


def _is_grain(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


@dataclass(frozen=True)
class GeneratorSpec:
    """All that is needed to rebuild a generator: it travels with every file of weights.

    ``width``: channels at full resolution (doubled at half, again at quarter resolution).
    ``separable``: 3×3 convolutions of the residual blocks and of the decoder are split into a
    depthwise and a pointwise one. ``upsample``: transposed convolutions (the paper's) or
    nearest-neighbour enlargement before a convolution. ``norm``: the paper's InstanceNorm, or
    none, so that a pixel depends only on its surroundings. ``residual``: what the layers give is
    added to the input, so that an untrained generator is nearly the identity. ``grain``: the
    deviation of the noise that a picture gets before it (``engine.grain``), in [−1, 1]. ``code``:
    the length of the code that a thumbnail of the whole picture is given; it scales and shifts
    channels in the blocks and sets a colour matrix. Where it is above 0, the generator is a U-Net
    with blocks at an eighth of the resolution, and the grain is a channel beside the picture.
    """

    name: str = "resnet9"
    blocks: int = 9
    width: int = 64
    separable: bool = False
    upsample: Upsample = "transpose"
    norm: Norm = "instance"
    residual: bool = False
    grain: float = 0.0
    code: int = 0
    in_channels: int = 3
    out_channels: int = 3

    def __post_init__(self) -> None:
        # Bounds, so that a hostile file cannot ask for a network that fills the memory.
        bounds = {
            "blocks": (0, 64),
            "width": (1, 512),
            "code": (0, 1024),
            "in_channels": (1, 4),
            "out_channels": (1, 4),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise WeightsError(f"A generator with {name} = {value!r:.40} cannot be built.")
        if (
            not (isinstance(self.separable, bool) and isinstance(self.residual, bool))
            or self.upsample not in get_args(Upsample)
            or self.norm not in get_args(Norm)
            or (self.residual and self.in_channels != self.out_channels)
            or not _is_grain(self.grain)
            or (self.code > 0 and not self._suits_a_code())
        ):
            raise WeightsError("This generator is of a kind that this version cannot build.")
        # The name is printed: a file's must not carry control codes to the terminal.
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w .+-]{1,100}", self.name):
            raise WeightsError(f"A generator cannot be named {self.name!r:.100}.")

    def _suits_a_code(self) -> bool:
        plain = not self.separable and self.upsample == "resize" and self.norm == "none"
        return plain and self.residual and self.in_channels in (1, 3)

    @classmethod
    def named(cls, name: str) -> GeneratorSpec:
        """The generator that ``--generator NAME`` means. Raises UsageError for an unknown name."""
        if name not in GENERATORS:
            raise UsageError(
                f"There is no generator '{name}'.{did_you_mean(name, GENERATORS)}",
                hint=f"Choose one of: {', '.join(GENERATORS)}.",
            )
        return GENERATORS[name]

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: object) -> GeneratorSpec:
        """The inverse of ``to_json``. Raises WeightsError for anything else."""
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or set(data) - known:
            raise WeightsError(
                "The description of the generator is not one that this version knows."
            )
        return cls(**data)


GENERATORS: dict[str, GeneratorSpec] = {
    "resnet9": GeneratorSpec(),
    "resnet6": GeneratorSpec(name="resnet6", blocks=6),
    "mobile": GeneratorSpec(name="mobile", width=24, separable=True, upsample="resize"),
    "brush": GeneratorSpec(
        name="brush",
        width=24,
        separable=True,
        upsample="resize",
        norm="none",
        residual=True,
        grain=0.03,
    ),
    "scene": GeneratorSpec(
        name="scene",
        blocks=5,
        width=16,
        upsample="resize",
        norm="none",
        residual=True,
        grain=0.1,
        code=64,
    ),
}


_INTERVAL = re.compile(
    r"\s*(\d+(?:\.\d+)?)\s*(epochs?|steps?|min(?:utes?)?|s(?:ec(?:onds?)?)?|h(?:ours?)?)\s*"
)

_COUNTED = ("epoch", "epochs", "step", "steps")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
# Epochs, steps or seconds; in between, no float needs an exponent. 1e12 seconds: 30,000 years.
_INTERVAL_LEAST, _INTERVAL_LIMIT = 1e-3, 1e12


@dataclass(frozen=True)
class Interval:
    """How often something happens: every so many epochs, steps or seconds."""

    count: float
    unit: Literal["epoch", "step", "second"]

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read ``1epoch``, ``500steps``, ``10min``, ``30s``, ``2h``; a bare number means epochs.

        Raises UsageError for anything else.
        """
        match = _INTERVAL.fullmatch(text + "epochs" if text.strip().isdigit() else text)
        unit = match[2] if match else ""
        factor = _SECONDS.get(unit[:1], 1.0) if unit not in _COUNTED else 1.0
        count = float(match[1]) * factor if match else 0.0
        if not _INTERVAL_LEAST <= count <= _INTERVAL_LIMIT:
            raise UsageError(
                f"'{text}' is not an interval.", hint="Write 1epoch, 500steps or 10min."
            )
        if unit not in _COUNTED:
            return cls(count, "second")
        if count != int(count):
            raise UsageError(f"'{text}' is not an interval: {unit} are counted in whole numbers.")
        return cls(int(count), "epoch" if unit.startswith("epoch") else "step")

    def __str__(self) -> str:
        if self.unit == "second":
            minutes = self.count / 60
            return f"{_digits(minutes)}min" if minutes.is_integer() else f"{_digits(self.count)}s"
        return f"{_digits(self.count)}{self.unit}{'' if self.count == 1 else 's'}"


def _digits(count: float) -> str:
    """Every digit and no exponent, so that ``Interval.parse`` reads it again."""
    return str(int(count)) if count == int(count) else repr(float(count))


@dataclass(frozen=True)
class TrainSettings:
    """One training, whole: with the pictures and a seed it determines every step.

    Lengths are pixels; ``lr`` is Adam's step size, ``lr_d`` that of the discriminators (None: the
    same); ``decay_from`` is the number of epochs at the full learning rate (None: half of them).
    ``max_steps`` stops early and leaves the schedule as it is. Losses of weight 0 are not
    computed: ``lambda_gan`` weighs the adversarial one, ``lambda_patch`` the sliced Wasserstein
    distance of patches (see ``engine.losses``), ``lambda_self`` the L1 distance of output and
    input at a quarter of the size (Shrivastava et al., CVPR 2017, section 2.1),
    ``lambda_structure`` how little of the input's light and dark is left
    (``engine.losses.structure_loss``). ``lambda_feature``, ``lambda_content``: losses in the
    features of a frozen network (``engine.features``); ``lambda_chroma``: how much of the colours
    at a sixteenth of the size is lost. ``clip``: the largest norm of the gradient of an optimiser's
    parameters; 0: any. ``crop_range``: LOW..HIGH, the side of the square, of a picture whose short
    side is ``load_size``, that is resized to ``crop_size``; None: ``crop_size``. ``replay``:
    pictures of the history, and as many real
    ones, that a discriminator learns from at each step; 0: the paper's exchange. ``noise_d``: the
    deviation of the noise through which the discriminators see. ``ema``: how much of the
    generators' running mean stays at each step, the mean being what is shown, measured and
    published; 0: the generators themselves. ``init``: the style whose weights G and F start from.
    ``hold_out``: pictures of each domain kept out of training to be measured on; of the default, a
    tenth of the pictures at most. ``evaluate_every``: an interval, or "never".
    ``exact_reference``: every layer by PyTorch's own operations.
    """

    generator: GeneratorSpec = field(default_factory=GeneratorSpec)
    epochs: int = 200
    decay_from: int | None = None
    batch_size: int = 1
    lr: float = 2e-4
    lr_d: float | None = None
    beta1: float = 0.5
    beta2: float = 0.999
    clip: float = 0.0
    lambda_cycle: float = 10.0
    lambda_identity: float = 0.5
    lambda_gan: float = 1.0
    lambda_patch: float = 0.0
    lambda_self: float = 0.0
    lambda_structure: float = 0.0
    lambda_feature: float = 0.0
    lambda_content: float = 0.0
    lambda_chroma: float = 0.0
    ema: float = 0.0
    init: str | None = None
    history: int = 50
    replay: int = 0
    gan: GanLoss = "lsgan"
    discriminator: DiscriminatorKind = "patchgan"
    noise_d: float = 0.0
    load_size: int = 286
    crop_size: int = 256
    crop_range: str | None = None
    resize: Resize = "keep"
    flip: bool = True
    seed: int = 0
    max_steps: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    exact_reference: bool = False
    workers: int = 2
    checkpoint_every: str = "1epoch"
    keep: int = 2
    sample_every: str = "1epoch"
    samples: int = 4
    log_every: str = "50steps"
    hold_out: int = 50
    evaluate_every: str = "10epochs"
    publish: Publish = "last"

    def __post_init__(self) -> None:
        _check_kinds(self)
        _require(self.epochs >= 1, "--epochs must be at least 1")
        knee = self.decay_from
        _require(
            knee is None or 0 <= knee <= self.epochs, "--decay-from must lie between 0 and --epochs"
        )
        _require(self.batch_size >= 1, "--batch-size must be at least 1")
        _require(math.isfinite(self.lr) and self.lr >= 0, "--lr must be a number from 0 up")
        own = self.lr_d
        _require(
            own is None or (math.isfinite(own) and own >= 0), "--lr-d must be a number from 0 up"
        )
        for name in ("beta1", "beta2", "ema"):
            fraction(f"--{name}", vars(self)[name], below=True)
        _require(math.isfinite(self.clip) and self.clip >= 0, "--clip must be a number from 0 up")
        for name in (
            "lambda_cycle",
            "lambda_identity",
            "lambda_gan",
            "lambda_patch",
            "lambda_self",
            "lambda_structure",
            "lambda_feature",
            "lambda_content",
            "lambda_chroma",
        ):
            value = getattr(self, name)
            flag = f"--{name.replace('_', '-')}"
            _require(math.isfinite(value) and value >= 0, f"{flag} must be a number from 0 up")
        weights = (
            field.name
            for field in dataclasses.fields(self)
            if field.name.startswith("lambda_") and field.name != "lambda_identity"
        )
        _require(
            any(vars(self)[name] > 0 for name in weights),
            "Every loss has weight 0, so nothing would be learnt: give --lambda-gan or "
            "--lambda-cycle a number above 0",
        )
        _require(
            self.lambda_patch == 0 or self.crop_size >= 64,
            "--lambda-patch needs a --crop-size of at least 64",
        )
        _require(self.history >= 0, "--history must be 0 (none) or more")
        _require(self.replay >= 0, "--replay must be 0 (none) or more")
        _require(self.replay == 0 or self.history > 0, "--replay needs a --history")
        fraction("--noise-d", self.noise_d)
        _require(
            self.discriminator in get_args(DiscriminatorKind),
            "--discriminator must be patchgan, twoscale or projected",
        )
        _require(self.gan in get_args(GanLoss), "--gan must be lsgan, vanilla or hinge")
        _require(
            self.precision in get_args(Precision), "--precision must be auto, fp32, bf16 or fp16"
        )
        _require(self.resize in get_args(Resize), "--resize must be keep or distort")
        _require(self.crop_size >= 32, "--crop-size must be at least 32")
        stride = 8 if self.generator.code else 4
        _require(
            self.crop_size % stride == 0,
            f"--crop-size must be a multiple of {stride} (the generator's stride)",
        )
        low, high = self.crop_sides
        _require(
            32 <= low <= high,
            "--crop-range must be LOW..HIGH, two numbers of pixels from 32 up, such as 160..420",
        )
        _require(
            self.load_size >= high,
            "--load-size must be at least --crop-size, or the end of --crop-range",
        )
        _require(
            not self.needs_features or self.crop_size >= 96,
            "--discriminator projected, --lambda-feature and --lambda-content need a --crop-size "
            "of at least 96",
        )
        _require(0 <= self.seed < 2**63, "--seed must be a whole number from 0 up")
        _require(self.max_steps is None or self.max_steps >= 1, "--max-steps must be at least 1")
        _require(self.workers >= 0, "--workers must be 0 or more")
        _require(self.keep >= 1, "--keep must be at least 1")
        _require(self.samples >= 0, "--samples must be 0 (none) or more")
        _require(self.hold_out >= 0, "--hold-out must be 0 (none but the samples) or more")
        _require(self.publish in get_args(Publish), "--publish must be last or best")
        for text in (self.checkpoint_every, self.sample_every, self.log_every):
            Interval.parse(text)
        if self.evaluate_every != "never":
            Interval.parse(self.evaluate_every)

    @property
    def crop_sides(self) -> tuple[int, int]:
        """The least and the largest side of a crop, before it is resized; (0, 0): unreadable."""
        if self.crop_range is None:
            return self.crop_size, self.crop_size
        match = re.fullmatch(r"\s*(\d{1,6})\s*\.\.\s*(\d{1,6})\s*", self.crop_range)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @property
    def needs_features(self) -> bool:
        """Whether the frozen network of ``engine.features`` takes part."""
        wanted = self.lambda_feature > 0 or self.lambda_content > 0
        return wanted or self.discriminator == "projected"

    @property
    def knee(self) -> int:
        """The number of epochs at the full learning rate."""
        return self.epochs // 2 if self.decay_from is None else self.decay_from

    def learning_rate(self, epoch: int) -> float:
        """Adam's step size during ``epoch`` (counted from 0).

        Constant for ``knee`` epochs, then linear towards 0, which it would reach one epoch after
        the last (the factor of the public implementation).
        """
        decay_epochs = self.epochs - self.knee
        return self.lr * (1.0 - max(0, epoch + 1 - self.knee) / (decay_epochs + 1))

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; the generator is one inside it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainSettings:
        """The inverse of ``to_json``. Raises UsageError for unknown or impossible values."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            close = did_you_mean(unknown[0], known)
            raise UsageError(f"Unknown settings: {', '.join(unknown)}.{close}")
        values = dict(data)
        if "generator" in values:
            values["generator"] = GeneratorSpec.from_json(values["generator"])
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"A setting has a value of the wrong kind ({error}).") from error


@dataclass(frozen=True)
class TranslateSettings:
    """How pictures are painted and written.

    ``resolution``: the long side, in pixels, at which a picture is painted (None: its own, or
    ``at_most`` where that is less; None: as large as it is).
    ``strength``: 0 gives the original back, 1 the painting. ``max_memory``: bytes, None for what
    the machine has free. ``quality``: 1 to 100 for formats that lose something. ``steady``: the
    frames of a video share their InstanceNorm statistics, so that it does not flicker.
    ``exact_reference``: every layer by PyTorch's own operations, none by a faster way.
    """

    precision: Precision = "auto"
    resolution: int | None = None
    at_most: int | None = None
    strength: float = 1.0
    keep_color: bool = False
    compare: bool = False
    steady: bool = True
    format: str | None = None
    quality: int | None = None
    strip_metadata: bool = False
    max_memory: int | None = None
    exact_reference: bool = False
    max_pixels: int = 1_000_000_000

    def __post_init__(self) -> None:
        _check_kinds(self)
        _require(
            self.precision in get_args(Precision), "--precision must be auto, fp32, bf16 or fp16"
        )
        _require(
            self.resolution is None or self.resolution >= 16, "--resolution must be at least 16"
        )
        _require(self.at_most is None or self.at_most >= 16, "at_most must be at least 16")
        fraction("--strength", self.strength)
        _require(self.quality is None or 1 <= self.quality <= 100, "--quality must lie in 1..100")
        _require(self.max_pixels >= 1, "--max-pixels must be at least 1")
        _require(
            self.max_memory is None or self.max_memory >= 2**20, "--max-memory must be at least 1M"
        )


def normal_gpu(text: str) -> str:
    """``--gpu`` as the rest of the program reads it: ``CUDA:1`` and ``cuda:1`` are ``1``.

    ``cuda`` alone stays: it is the CUDA device with the most free memory.
    """
    names = (re.sub(r"\s+", "", name).lower() for name in text.split(","))
    return ",".join(re.sub(r"^(?:cuda|gpu):(?=\d)|(?<=^cpu|^mps):0$", "", name) for name in names)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message + ".")


def fraction(option: str, given: float | str, *, below: bool = False) -> float:
    """A number from 0 to 1, which ``option`` takes; ``below``: 1 itself is too much.

    Raises UsageError for any other; of 70, 70% and 0,7 it says that 0.7 may be meant.
    """
    text = (f"{given:g}" if isinstance(given, float) else str(given)).strip()
    question = ""
    with contextlib.suppress(ValueError):
        number = float(text.rstrip("%").replace(",", "."))
        meant = number / 100 if text.endswith("%") or number >= 2 else number
        if 0 <= meant < 1 or (meant == 1 and not below):
            if meant == number and "," not in text:
                return number
            question = f" Did you mean {meant:g}?"
    bounds = "from 0 to below 1" if below else "from 0 to 1"
    raise UsageError(f"{option} must be a number {bounds}, not {text}.{question}")


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "GeneratorSpec": ((GeneratorSpec,), "a generator"),
}


def wrong_kind(kind: str, value: object) -> str:
    """``must be a whole number, not 'many'``, or "" where ``value`` is of that kind.

    ``kind``: an annotation such as ``int`` or ``str | None``. Values from TOML and JSON files are
    of any kind: ``flip = "no"`` must not mean yes.
    """
    parts = kind.split(" | ")
    if (value is None and "None" in parts) or parts[0] not in _KINDS:
        return ""
    kinds = {one for part in parts if part in _KINDS for one in _KINDS[part][0]}
    if isinstance(value, tuple(kinds)) and (bool in kinds or not isinstance(value, bool)):
        return ""
    return f"must be {_KINDS[parts[0]][1]}, not {value!r}"


def _check_kinds(settings: TrainSettings | TranslateSettings) -> None:
    for setting in dataclasses.fields(settings):
        wrong = wrong_kind(str(setting.type), vars(settings)[setting.name])
        _require(not wrong, f"--{setting.name.replace('_', '-')} {wrong}")
