"""Which records and fields of the files are wanted, and what their models' names mean."""

from __future__ import annotations

from typing import Any, Final

from eventbus.dumps.outcome import Options
from eventbus.dumps.targets import Target, Targets

_NEVER: Final[frozenset[str]] = frozenset()


class Selection:
    """Decides by the names of models and fields. Made once for a load, so that slips in options show at its start."""

    def __init__(self, targets: Targets, options: Options) -> None:
        self._targets = targets
        self._ignore = options.ignore_nonexistent
        self.known: dict[Any, Target | None] = {}
        """What model names met so far mean."""
        self._refused: set[str] = set()
        self._exclude = targets.chosen(options.exclude, "--exclude")
        self._only = targets.chosen(options.only, "--only")

    def target(self, model: str) -> Target | None:
        """The target of a model name, or None for one to leave out. Raises LookupError, once, for an unknown one."""
        try:
            return self.known[model]
        except KeyError:
            pass
        if model in self._refused:
            return None
        found = self._meet(model)
        self.known[model] = found
        return found

    def _meet(self, model: str) -> Target | None:
        target = self._targets.find(model)
        problem = self._unknown(model) if target is None else self._foreign(model, target)
        if problem:
            if self._ignore:
                return None
            self._refused.add(model)
            raise LookupError(problem)
        assert target is not None
        if self._exclude.get(target, _NEVER) is None or (self._only and target not in self._only):
            return None
        return target

    def _unknown(self, model: str) -> str:
        return f"{self._targets.no_model(model[:200], 20)} (--ignorenonexistent leaves others out)"

    def _foreign(self, model: str, target: Target) -> str:
        if self._targets.named(model, target):
            return ""
        return (
            f"{model[:200]} is not of the service {self._targets.label(target)!r}: load one service at a time, "
            f"named by --service (or --ignorenonexistent to leave other ones out)"
        )

    def is_named(self, target: Target) -> bool:
        """Whether the user named the target as one to be loaded."""
        return target in self._only

    def wants_field(self, target: Target, name: str) -> bool:
        """Whether a field of a record is to be loaded."""
        fields = self._exclude.get(target, _NEVER)
        return fields is not None and name not in fields
