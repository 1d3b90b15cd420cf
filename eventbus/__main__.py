"""`python -m eventbus`."""

import sys

from eventbus.commands import main

if __name__ == "__main__":
    sys.exit(main())
