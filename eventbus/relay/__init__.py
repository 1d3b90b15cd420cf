"""`eventbus relay` delivers what no living process will, or, with strict ordering, everything."""

from eventbus.relay.command import main
from eventbus.relay.service import Ordering, Progress, Relay

__all__ = ["Ordering", "Progress", "Relay", "main"]
