"""The old place of `eventbus.drain_on_sigterm`, for programs that import it from here."""

from eventbus.delivery.lifetime import drain_on_sigterm

__all__ = ["drain_on_sigterm"]
