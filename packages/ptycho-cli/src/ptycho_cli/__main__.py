"""``python -m ptycho_cli``: the same as the program ``ptycho-cli``."""

import sys

from ptycho_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
