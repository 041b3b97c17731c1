"""Style transfer by CycleGAN. Importing this package is cheap; torch comes with the first call."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclegan_cli.api import LoadedStyle, load_style, translate

__version__ = "0.1.0"
__all__ = ["LoadedStyle", "__version__", "load_style", "translate"]


def __getattr__(name: str) -> object:
    if name in ("LoadedStyle", "load_style", "translate"):
        from cyclegan_cli import api

        return vars(api)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
