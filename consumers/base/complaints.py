"""What is wrong with the settings, gathered so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from eventbus.errors import ConfigurationError


@final
class Complaints:
    """Whoever starts a consumer for the first time should not have to start it once for each mistake."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """One more."""
        self._texts.append(text.rstrip("."))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Around work that may raise ConfigurationError: it counts as one more, and the next work follows."""
        try:
            yield
        except ConfigurationError as error:
            self.add(str(error))

    def tell(self) -> None:
        """Raise ConfigurationError with all of them, if there are any."""
        if self._texts:
            raise ConfigurationError("; ".join(self._texts))
