"""`python -m hardware`: see `hardware.commands`."""

import sys

from hardware.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
