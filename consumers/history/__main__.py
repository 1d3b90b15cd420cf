"""`python -m consumers.history`."""

from consumers.history.command import main

raise SystemExit(main())
