"""``python -m cyclegan_cli`` is the ``cyclegan`` command."""

import sys

from cyclegan_cli.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
