"""Whether a style is what it was when it came: digests, and a test translation."""

from __future__ import annotations

from pathlib import Path

from cyclegan_cli.errors import StoreError, WeightsError
from cyclegan_cli.files import digest_of
from cyclegan_cli.styles.cards import Direction, Style
from cyclegan_cli.styles.store import find_style

__all__ = ["check_generator", "verify_style"]

_TEST_SIZE = 32  # pixels, each way
_FLAT = 1e-4  # a translation whose deviation is below this shows nothing


def verify_style(style: Style) -> list[str]:
    """What is wrong with ``style``, a sentence each; nothing where it is sound.

    Every direction's size and SHA-256 are compared with those recorded, then it translates a test
    picture. A style that another process replaces meanwhile is looked at again.
    """
    problems = _problems(style)
    if problems and style.folder is not None:
        try:
            now = find_style(style.name)
        except StoreError:
            return problems
        if now.folder == style.folder and now.directions != style.directions:
            return _problems(now)
    return problems


def _problems(style: Style) -> list[str]:
    return [
        f"{direction.file}: {problem}"
        for direction in style.directions.values()
        if (problem := _problem(direction))
    ]


def _problem(direction: Direction) -> str:
    from cyclegan_cli.engine.weights import load_generator

    try:
        digest, size = digest_of(direction.file)
        if size != direction.size:
            return f"it has {size} bytes, and had {direction.size}"
        if digest != direction.sha256:
            return f"its SHA-256 is {digest[:12]}…, and was {direction.sha256[:12]}…"
        if load_generator(direction.file).spec != direction.generator:
            return "its generator is not the one that the style's card names"
        check_generator(direction.file)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except WeightsError as error:
        return str(error).removeprefix(f"{direction.file} ").rstrip(".")
    return ""


def check_generator(path: Path) -> None:
    """Translate a test picture with the generator in ``path``, on the CPU.

    Raises WeightsError where the result is not finite, or shows nothing.
    """
    import torch

    from cyclegan_cli.engine.weights import load_generator

    network = load_generator(path)
    ramp = torch.linspace(-1, 1, _TEST_SIZE)
    picture = torch.stack(
        [ramp.expand(_TEST_SIZE, -1), ramp[:, None].expand(-1, _TEST_SIZE), ramp.outer(ramp)]
    )
    channels = network.spec.in_channels
    x = picture.repeat(2, 1, 1)[None, :channels]
    if network.spec.code > 0:  # which paints on a further channel, the grain
        x = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
    with torch.inference_mode():
        result = network(x)
    if not bool(torch.isfinite(result).all()):
        raise WeightsError(f"{path} translates a test picture into numbers that are not finite.")
    if float(result.std(dim=(2, 3)).max()) < _FLAT:
        raise WeightsError(f"{path} translates a test picture into a single colour.")
