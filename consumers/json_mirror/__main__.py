"""`python -m consumers.json_mirror`."""

from consumers.json_mirror.command import main

raise SystemExit(main())
