"""`python -m eventbus.relay`."""

import sys

from eventbus.relay import main

sys.exit(main())
