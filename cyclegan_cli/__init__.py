"""Style transfer by CycleGAN. Importing this package is cheap; torch comes with the first call."""

from cyclegan_cli.version import __version__

__all__ = ["__version__"]
