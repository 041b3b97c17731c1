"""The method from its formulas: slow, plain, float64, and independent of ``cyclegan_cli``.

Written from Zhu et al. (ICCV 2017), Kingma and Ba (ICLR 2015) and the definition of each operation,
with indexing, sums and matrix products only; torch lends the tensors and the derivatives. A network
is a plain dictionary {name: tensor} in the order in which data meets it; the names are those of the
paper's appendix (c7s1-64, d128, R256, u128).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]

# -- operations ------------------------------------------------------------------------------------


def mirror(index: int, size: int) -> int:
    """Where ``index`` falls when 0 … size − 1 is continued by reflection, the edge not repeated."""
    index = abs(index)
    return index if index < size else 2 * (size - 1) - index


def reflect(x: Tensor, margin: int) -> Tensor:
    """N×C×H×W -> N×C×(H + 2 margin)×(W + 2 margin)."""
    height, width = x.shape[2:]
    rows = [mirror(i, height) for i in range(-margin, height + margin)]
    columns = [mirror(j, width) for j in range(-margin, width + margin)]
    return x[:, :, rows, :][:, :, :, columns]


def surround(x: Tensor, margin: int) -> Tensor:
    """Zeros on every side."""
    n, c, height, width = x.shape
    canvas = x.new_zeros(n, c, height + 2 * margin, width + 2 * margin)
    canvas[:, :, margin : margin + height, margin : margin + width] = x
    return canvas


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """y[n,o,i,j] = b[o] + Σ_c,a,b w[o,c,a,b] x[n,c,si+a−p,sj+b−p]; w: O×C×K×K."""
    x = surround(x, padding)
    size = weight.shape[2]
    height = (x.shape[2] - size) // stride + 1
    width = (x.shape[3] - size) // stride + 1
    kernel = weight.permute(2, 3, 0, 1).reshape(size * size, *weight.shape[:2]).unbind()
    y = bias.reshape(1, -1, 1, 1)
    for a in range(size):
        for b in range(size):  # what the kernel's place (a, b) meets, for every output pixel
            part = x[:, :, a : a + stride * height : stride, b : b + stride * width : stride]
            part = part[:, :, :height, :width]
            met = kernel[size * a + b] @ part.reshape(*part.shape[:2], height * width)
            y = y + met.reshape(len(x), -1, height, width)
    return y


def convolve_each(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise: every channel by a 3×3 kernel of its own; w: C×1×3×3, no padding."""
    height, width = x.shape[2] - 2, x.shape[3] - 2
    y = bias.reshape(1, -1, 1, 1)
    for a in range(3):
        for b in range(3):
            kernel = weight[:, 0, a, b].reshape(1, -1, 1, 1)
            y = y + kernel * x[:, :, a : a + height, b : b + width]
    return y


def scatter(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution, stride 2, padding 1, output padding 1; w: C×O×3×3.

    Every x[n,c,i,j] adds x·w[c,o,a,b] to y[n,o,2i+a−1,2j+b−1]; y has twice x's height and width.
    """
    n, _, height, width = x.shape
    canvas = x.new_zeros(n, weight.shape[1], 2 * height + 1, 2 * width + 1)
    shares = torch.einsum("nchw,coab->nabohw", x, weight)
    for a in range(3):
        for b in range(3):
            canvas[:, :, a : a + 2 * height : 2, b : b + 2 * width : 2] += shares[:, a, b]
    return canvas[:, :, 1:, 1:] + bias.reshape(1, -1, 1, 1)


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour enlargement: y[2i + a, 2j + b] = x[i, j]."""
    rows = [i // 2 for i in range(2 * x.shape[2])]
    columns = [j // 2 for j in range(2 * x.shape[3])]
    return x[:, :, rows, :][:, :, :, columns]


def normalise(x: Tensor) -> Tensor:
    """InstanceNorm: (x − mean) / √(biased variance + 1e-5) of each picture and channel."""
    count = x.shape[2] * x.shape[3]
    mean = x.sum((2, 3), keepdim=True) / count
    variance = ((x - mean) * (x - mean)).sum((2, 3), keepdim=True) / count
    return (x - mean) / (variance + 1e-5).sqrt()


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def leaky(x: Tensor) -> Tensor:
    return x * (x > 0) + 0.2 * x * (x <= 0)


def tanh(x: Tensor) -> Tensor:
    return 1 - 2 / ((2 * x).exp() + 1)


# -- networks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Which CycleGAN: the generator's shape, the objective, Adam's constants."""

    blocks: int = 9
    width: int = 64
    compact: bool = False  # separable 3×3 convolutions, enlargement instead of transposition
    free: bool = False  # no normalisation in the generators; their output is added to their input
    gan: str = "lsgan"
    lambda_cycle: float = 10.0
    lambda_identity: float = 0.5
    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    epsilon: float = 1e-8


def generator_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a generator, in order."""
    w = recipe.width
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inputs: int, size: int) -> None:
        shapes[f"{name}.weight"] = (out, inputs, size, size)
        shapes[f"{name}.bias"] = (out,)

    def conv3(name: str, out: int, inputs: int) -> None:
        if recipe.compact:
            conv(f"{name}.depth", inputs, 1, 3)
            conv(f"{name}.point", out, inputs, 1)
        else:
            conv(name, out, inputs, 3)

    conv("c7", w, 3, 7)
    conv("d2", 2 * w, w, 3)
    conv("d4", 4 * w, 2 * w, 3)
    for block in range(recipe.blocks):
        conv3(f"R{block}a", 4 * w, 4 * w)
        conv3(f"R{block}b", 4 * w, 4 * w)
    for name, inputs, out in (("u2", 4 * w, 2 * w), ("u1", 2 * w, w)):
        conv3(name, out, inputs)
        if not recipe.compact:
            shapes[f"{name}.weight"] = (inputs, out, 3, 3)  # transposed: inputs first
    conv("c3", 3, w, 7)
    return shapes


def discriminator_shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a discriminator, in order."""
    widths = (3, 64, 128, 256, 512, 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(5):
        shapes[f"C{layer}.weight"] = (widths[layer + 1], widths[layer], 4, 4)
        shapes[f"C{layer}.bias"] = (widths[layer + 1],)
    return shapes


def silent(name: str, free: bool = False) -> bool:
    """Whether ``name`` is a bias that the normalisation after it removes: its gradient is 0."""
    heard = ("c3.", "C0.", "C4.") if not free else ("c", "d", "R", "u", "C0.", "C4.")
    return name.endswith(".bias") and not name.startswith(heard)


def generate(p: Weights, x: Tensor, recipe: Recipe) -> Tensor:
    """G(x) or F(y)."""

    def conv(name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        return convolve(x, p[f"{name}.weight"], p[f"{name}.bias"], stride, padding)

    def conv3(name: str, x: Tensor) -> Tensor:
        x = reflect(x, 1)
        if not recipe.compact:
            return conv(name, x)
        depth = convolve_each(x, p[f"{name}.depth.weight"], p[f"{name}.depth.bias"])
        return conv(f"{name}.point", depth)

    def settled(x: Tensor) -> Tensor:
        return x if recipe.free else normalise(x)

    picture = x
    x = relu(settled(conv("c7", reflect(x, 3))))
    for name in ("d2", "d4"):
        x = relu(settled(conv(name, reflect(x, 1), 2) if recipe.free else conv(name, x, 2, 1)))
    for block in range(recipe.blocks):
        inner = relu(settled(conv3(f"R{block}a", x)))
        x = x + settled(conv3(f"R{block}b", inner))
    for name in ("u2", "u1"):
        if recipe.compact:
            x = conv3(name, double(x))
        else:
            x = scatter(x, p[f"{name}.weight"], p[f"{name}.bias"])
        x = relu(settled(x))
    painted = tanh(conv("c3", reflect(x, 3)))
    return picture + painted if recipe.free else painted


def judge(p: Weights, x: Tensor) -> Tensor:
    """D_X or D_Y: logits of patches."""
    for layer, stride in enumerate((2, 2, 2, 1, 1)):
        x = convolve(x, p[f"C{layer}.weight"], p[f"C{layer}.bias"], stride, 1)
        if layer in (1, 2, 3):
            x = normalise(x)
        if layer < 4:
            x = leaky(x)
    return x


# -- objective -------------------------------------------------------------------------------------


def mean(x: Tensor) -> Tensor:
    return x.sum() / x.numel()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖₁ / number of elements."""
    return mean((a - b).abs())


def fooling(logits: Tensor, gan: str) -> Tensor:
    """The generator's adversarial loss."""
    if gan == "lsgan":
        return mean((logits - 1) ** 2)
    if gan == "vanilla":
        return mean(-(1 / (1 + (-logits).exp())).log())
    return mean(-logits)


def telling(real: Tensor, fake: Tensor, gan: str) -> Tensor:
    """The discriminator's loss, halved."""
    if gan == "lsgan":
        return (mean((real - 1) ** 2) + mean(fake**2)) / 2
    if gan == "vanilla":
        truth, lie = 1 / (1 + (-real).exp()), 1 / (1 + (-fake).exp())
        return (mean(-truth.log()) + mean(-(1 - lie).log())) / 2
    return (mean(relu(1 - real)) + mean(relu(1 + fake))) / 2


# -- one step --------------------------------------------------------------------------------------


@dataclass
class Training:
    """All that a step reads and changes: weights, Adam's two moments, the number of steps."""

    weights: dict[str, Weights]
    first: dict[str, Weights]
    second: dict[str, Weights]
    steps: int = 0


def begin(weights: dict[str, Weights]) -> Training:
    def zeros() -> dict[str, Weights]:
        return {n: {k: torch.zeros_like(v) for k, v in p.items()} for n, p in weights.items()}

    return Training({n: dict(p) for n, p in weights.items()}, zeros(), zeros())


@dataclass
class Report:
    """What a step found."""

    losses: dict[str, Tensor]
    gradients: dict[str, Weights]
    fake_x: Tensor
    fake_y: Tensor


def generators_objective(
    w: dict[str, Weights], x: Tensor, y: Tensor, r: Recipe
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The terms of L_G, weighted, with F(y) and G(x)."""
    fake_y, fake_x = generate(w["G"], x, r), generate(w["F"], y, r)
    terms = {
        "G": fooling(judge(w["D_Y"], fake_y), r.gan),
        "F": fooling(judge(w["D_X"], fake_x), r.gan),
        "cycle_X": r.lambda_cycle * distance(generate(w["F"], fake_y, r), x),
        "cycle_Y": r.lambda_cycle * distance(generate(w["G"], fake_x, r), y),
    }
    if r.lambda_identity:
        both = r.lambda_cycle * r.lambda_identity
        terms["identity_X"] = both * distance(generate(w["F"], x, r), x)
        terms["identity_Y"] = both * distance(generate(w["G"], y, r), y)
    return terms, fake_x, fake_y


def adam(t: Training, network: str, gradients: Weights, r: Recipe) -> None:
    """Algorithm 1 of Kingma and Ba, with step number ``t.steps``."""
    for name, g in gradients.items():
        m = r.beta1 * t.first[network][name] + (1 - r.beta1) * g
        v = r.beta2 * t.second[network][name] + (1 - r.beta2) * g * g
        t.first[network][name], t.second[network][name] = m, v
        corrected_m = m / (1 - r.beta1**t.steps)
        corrected_v = v / (1 - r.beta2**t.steps)
        moved = t.weights[network][name] - r.lr * corrected_m / (corrected_v.sqrt() + r.epsilon)
        t.weights[network][name] = moved


def _watch(weights: dict[str, Weights], networks: tuple[str, str]) -> dict[str, Weights]:
    """The same numbers, with derivatives wanted for ``networks`` only."""
    return {
        n: {k: v.detach().clone().requires_grad_(n in networks) for k, v in p.items()}
        for n, p in weights.items()
    }


def _gradients(
    total: Tensor, watched: dict[str, Weights], networks: tuple[str, str]
) -> dict[str, Weights]:
    leaves = [(n, k, v) for n in networks for k, v in watched[n].items()]
    slopes = torch.autograd.grad(total, [leaf for _, _, leaf in leaves])
    found: dict[str, Weights] = {n: {} for n in networks}
    for (n, k, _), slope in zip(leaves, slopes, strict=True):
        found[n][k] = slope
    return found


def step(
    t: Training,
    x: Tensor,
    y: Tensor,
    r: Recipe,
    shown_x: Tensor | None = None,
    shown_y: Tensor | None = None,
) -> Report:
    """One step of training; ``t`` is changed.

    ``shown_x``, ``shown_y``: what the histories show the discriminators (None: the new fakes).
    """
    t.steps += 1
    watched = _watch(t.weights, ("G", "F"))
    terms, fake_x, fake_y = generators_objective(watched, x, y, r)
    gradients = _gradients(sum(terms.values(), torch.zeros(())), watched, ("G", "F"))
    adam(t, "G", gradients["G"], r)
    adam(t, "F", gradients["F"], r)

    fake_x, fake_y = fake_x.detach(), fake_y.detach()
    shown_x = fake_x if shown_x is None else shown_x
    shown_y = fake_y if shown_y is None else shown_y
    watched = _watch(t.weights, ("D_X", "D_Y"))
    d_x, d_y = watched["D_X"], watched["D_Y"]
    judged = {
        "D_X": telling(judge(d_x, x), judge(d_x, shown_x), r.gan),
        "D_Y": telling(judge(d_y, y), judge(d_y, shown_y), r.gan),
    }
    gradients |= _gradients(judged["D_X"] + judged["D_Y"], watched, ("D_X", "D_Y"))
    adam(t, "D_X", gradients["D_X"], r)
    adam(t, "D_Y", gradients["D_Y"], r)
    losses = {k: v.detach() for k, v in (terms | judged).items()}
    return Report(losses, gradients, fake_x, fake_y)
