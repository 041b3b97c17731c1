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
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from cyclegan_cli.errors import UsageError, WeightsError, did_you_mean

GanLoss = Literal["lsgan", "vanilla", "hinge"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Resize = Literal["keep", "reduce", "distort"]
Publish = Literal["last", "best"]
Upsample = Literal["transpose", "resize"]
Norm = Literal["instance", "none"]
DiscriminatorKind = Literal["patchgan", "twoscale", "projected"]

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
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


# Whole numbers of a generator, so that a hostile file cannot ask for one that fills the memory.
_BOUNDS = {"blocks": (0, 64), "width": (1, 512), "code": (0, 1024)}
_BOUNDS |= {"in_channels": (1, 4), "out_channels": (1, 4)}


@dataclass(frozen=True)
class GeneratorSpec:
    """All that is needed to rebuild a generator: it travels with every file of weights.

    With ``code`` above 0 the generator is a U-Net with blocks at an eighth of the resolution, and
    the grain is a channel beside the picture.
    """

    name: str = "resnet9"
    blocks: int = 9
    width: int = 64  # channels at full resolution; doubled at half, again at quarter resolution
    separable: bool = False  # 3×3 convolutions of blocks and decoder: depthwise and pointwise
    upsample: Upsample = "transpose"  # the paper's, or nearest-neighbour before a convolution
    norm: Norm = "instance"  # the paper's, or none: a pixel depends on its surroundings alone
    residual: bool = False  # added to the input: nearly the identity before training
    grain: float = 0.0  # deviation of the noise added to a picture (engine.grain), in [−1, 1]
    coarse: float = 0.0  # the same of its coarse noise, before that is brought to full size
    smooth_chroma: bool = False  # of the result, with a code: no colour of single pixels
    code: int = 0  # length of a thumbnail's code, which scales and shifts channels and colours
    in_channels: int = 3
    out_channels: int = 3

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if wrong_kind("int", value) or not low <= value <= high:
                raise WeightsError(f"A generator with {name} = {value!r:.40} cannot be built.")
        plain = not self.separable and self.upsample == "resize" and self.norm == "none"
        if (
            not (isinstance(self.separable, bool) and isinstance(self.residual, bool))
            or self.upsample not in get_args(Upsample)
            or self.norm not in get_args(Norm)
            or (self.residual and self.in_channels != self.out_channels)
            or any(wrong_kind("float", noise) for noise in (self.grain, self.coarse))
            or not (0 <= self.grain <= 1 and 0 <= self.coarse <= 1)
            or not isinstance(self.smooth_chroma, bool)
            or (self.smooth_chroma and not (self.code and self.out_channels == 3))
            or (self.code and not (plain and self.residual and self.in_channels in (1, 3)))
        ):
            raise WeightsError("This generator is of a kind that this version cannot build.")
        # The name is printed: a file's must not carry control codes to the terminal.
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w .+-]{1,100}", self.name):
            raise WeightsError(f"A generator cannot be named {self.name!r:.100}.")

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
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if v or k not in _SINCE}

    @classmethod
    def from_json(cls, data: object) -> GeneratorSpec:
        """The inverse of ``to_json``. Raises WeightsError for anything else."""
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or set(data) - known:
            raise WeightsError("The generator's description is not one that this version knows.")
        return cls(**data)


_SINCE = ("coarse", "smooth_chroma")  # left out where unused: earlier versions do not know them
_MOBILE = GeneratorSpec("mobile", width=24, separable=True, upsample="resize")
_BRUSH = replace(_MOBILE, name="brush", norm="none", residual=True, grain=0.03)
_SCENE = replace(_BRUSH, name="scene", blocks=5, width=16, separable=False, code=64)
_SCENE = replace(_SCENE, grain=0.1, coarse=0.3, smooth_chroma=True)
GENERATORS = {
    spec.name: spec
    for spec in (GeneratorSpec(), GeneratorSpec("resnet6", blocks=6), _MOBILE, _BRUSH, _SCENE)
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
        count, unit = self.count, self.unit + "s" * (self.count != 1)
        if self.unit == "second":
            count, unit = (count / 60, "min") if (count / 60).is_integer() else (count, "s")
        return f"{int(count) if count == int(count) else count}{unit}"  # which parse reads again


@dataclass(frozen=True)
class TrainSettings:
    """One training, whole: with the pictures and a seed it determines every step.

    Lengths are in pixels. A loss of weight 0 is not computed.
    """

    generator: GeneratorSpec = field(default_factory=GeneratorSpec)
    epochs: int = 200
    decay_from: int | None = None  # epochs at the full learning rate; None: half of them
    batch_size: int = 1
    lr: float = 2e-4  # Adam's step size
    lr_d: float | None = None  # that of the discriminators; None: the same
    warmup: int = 0  # steps over which the generators' rate rises to lr
    beta1: float = 0.5
    beta2: float = 0.999
    clip: float = 0.0  # largest norm of an optimiser's gradient; 0: any
    lambda_cycle: float = 10.0
    lambda_identity: float = 0.5
    lambda_gan: float = 1.0  # the adversarial loss
    lambda_patch: float = 0.0  # sliced Wasserstein distance of patches (engine.losses)
    lambda_spectrum: float = 0.0  # power spectra of windows (engine.losses)
    lambda_self: float = 0.0  # L1 of output and input at 1/4 size (Shrivastava et al., CVPR 2017)
    lambda_structure: float = 0.0  # how little of the input's light and dark is left
    lambda_feature: float = 0.0  # in the features of a frozen network (engine.features)
    lambda_content: float = 0.0  # in the same features
    lambda_chroma: float = 0.0  # how much of the colours at 1/16 size is lost
    ema: float = 0.0  # what stays of the generators' running mean at each step; 0: no mean
    init: str | None = None  # the style whose weights G and F start from
    history: int = 50
    replay: int = 0  # images of the history, and as many real ones, that D learns from; 0: none
    gan: GanLoss = "lsgan"
    discriminator: DiscriminatorKind = "patchgan"
    noise_d: float = 0.0  # deviation of the noise that D sees through, in [−1, 1]
    load_size: int = 286
    crop_size: int = 256
    crop_range: str | None = None  # LOW..HIGH: sides of crops, resized to crop_size
    resize: Resize = "keep"
    flip: bool = True
    seed: int = 0
    max_steps: int | None = None  # stops early; the schedule stays
    precision: Precision = "auto"
    compile: bool = False
    exact_reference: bool = False  # every layer by PyTorch's own operations
    workers: int = 2
    checkpoint_every: str = "1epoch"
    keep: int = 2
    sample_every: str = "1epoch"
    samples: int = 4
    log_every: str = "50steps"
    hold_out: int = 50  # of each domain, to be measured on; by default a tenth at most
    evaluate_every: str = "10epochs"  # an interval, or "never"
    publish: Publish = "last"

    def __post_init__(self) -> None:
        _check(self)
        knee, side, stride = self.decay_from, self.crop_size, 8 if self.generator.code else 4
        low, high = self.crop_sides
        weights = {name: vars(self)[name] for name in vars(self) if name.startswith("lambda_")}
        del weights["lambda_identity"]  # which weighs the cycle's
        for right, message in (
            (knee is None or knee <= self.epochs, "--decay-from must lie between 0 and --epochs"),
            (any(weights.values()), "Every loss has weight 0: give --lambda-gan a number above 0"),
            (self.replay == 0 or self.history > 0, "--replay needs a --history"),
            (side % stride == 0, f"--crop-size must be a multiple of {stride}, G's stride"),
            (32 <= low <= high, "--crop-range must be LOW..HIGH in pixels, from 32 up: 160..420"),
            (high <= self.load_size, "--load-size must be at least --crop-size or --crop-range"),
            (self.lambda_patch == 0 or side >= 64, "--lambda-patch needs crops of at least 64"),
            (
                not self.needs_features or side >= 96,
                "Losses and discriminators of features need a --crop-size of at least 96",
            ),
            (self.seed < 2**63, "--seed must be below 2**63"),
        ):
            _require(right, message)
        measured = () if self.evaluate_every == "never" else (self.evaluate_every,)
        for text in (self.checkpoint_every, self.sample_every, self.log_every, *measured):
            Interval.parse(text)

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

    def rates(self, learning_rate: float, step: int) -> tuple[float, float]:
        """Adam's step sizes for the generators and for the discriminators.

        ``learning_rate``: that of the epoch; ``step``: counted from 0.
        """
        risen = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        own = learning_rate if self.lr_d is None else learning_rate * self.lr_d / (self.lr or 1.0)
        return learning_rate * risen, own

    def options(self, *always: str) -> list[str]:
        """Options of ``cyclegan train`` that are not the default, and those of ``always``."""
        words = []
        for name, default in vars(TrainSettings()).items():
            value, flag = vars(self)[name], name.replace("_", "-")
            if isinstance(value, bool) and value != default:
                words.append(f"--{flag}" if value else f"--no-{flag}")
            elif value not in (default, None) or (name in always and value is not None):
                words += [f"--{flag}", value.name if name == "generator" else str(value)]
        return words

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; the generator is one inside it."""
        return dataclasses.asdict(self) | {"generator": self.generator.to_json()}

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
    """How pictures are painted and written."""

    precision: Precision = "auto"
    resolution: int | None = None  # the long side, in pixels, to paint at; None: the picture's own
    at_most: int | None = None  # where resolution is None: a longer side is painted at this
    strength: float = 1.0  # 0: the original, 1: the painting
    keep_color: bool = False
    compare: bool = False
    steady: bool = True  # the frames of a video share their InstanceNorm statistics
    format: str | None = None
    quality: int | None = None  # 1 to 100, for formats that lose something
    strip_metadata: bool = False
    max_memory: int | None = None  # bytes; None: what the machine has free
    exact_reference: bool = False  # every layer by PyTorch's own operations
    max_pixels: int = 1_000_000_000

    def __post_init__(self) -> None:
        _check(self)
        _require(self.quality is None or self.quality <= 100, "--quality must lie in 1..100")
        _require(
            self.max_memory is None or self.max_memory >= 2**20, "--max-memory must be at least 1M"
        )


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


_CHOICES = {"GanLoss": get_args(GanLoss), "DiscriminatorKind": get_args(DiscriminatorKind)}
_CHOICES |= {"Precision": get_args(Precision), "Resize": get_args(Resize)}
_CHOICES |= {"Publish": get_args(Publish)}
# The least whole number that an option takes, where it is not 0.
_LEAST = {"epochs": 1, "batch_size": 1, "crop_size": 32, "max_steps": 1, "keep": 1}
_LEAST |= {"resolution": 16, "at_most": 16, "quality": 1, "max_pixels": 1}
# Numbers from 0 to 1, and whether 1 is one of them.
FRACTIONS = {"beta1": False, "beta2": False, "ema": False, "noise_d": True, "strength": True}


def _check(settings: TrainSettings | TranslateSettings) -> None:
    """Raise UsageError where a value is of another kind than its option takes, or out of range."""
    for setting in dataclasses.fields(settings):
        name, kind, value = setting.name, str(setting.type), vars(settings)[setting.name]
        option = f"--{name.replace('_', '-')}"
        wrong = wrong_kind(kind, value)
        _require(not wrong, f"{option} {wrong}")
        if kind in _CHOICES:
            *most, last = _CHOICES[kind]
            known = f"{', '.join(most)} or {last}"
            _require(value in (*most, last), f"{option} must be {known}, not {value}")
        elif value is None:
            continue
        elif name in FRACTIONS:
            fraction(option, value, below=not FRACTIONS[name])
        elif kind.startswith("int"):
            least = _LEAST.get(name, 0)
            _require(value >= least, f"{option} must be at least {least}")
        elif kind.startswith("float"):
            _require(0 <= value < math.inf, f"{option} must be a number from 0 up")
