"""The old place of `eventbus.Converter`, for programs that import it from here."""

from eventbus.records.schemas.derived import Converter

__all__ = ["Converter"]
