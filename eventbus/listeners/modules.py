"""Hooks by the module: `install(Session, listeners="crm.events")`. A new hook is a new file in that package."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType

from eventbus.errors import ConfigurationError, InstallError
from eventbus.listeners import hooks
from eventbus.listeners.base import Listener


def import_listeners(package: str) -> list[type[Listener]]:
    """Import every module of a package, and of the packages in it; return the Listener classes defined there.

    They come in the order of their names: by module, then by class. The `listens_for` functions of these modules are
    put into that order too, whoever imported them first. Left out are `__main__`, abstract classes, and classes whose
    name begins with an underscore. Raises InstallError that names the module where an import fails.
    """
    modules = list(_modules(package))
    hooks.arrange([module.__name__ for module in modules])
    return [each for module in modules for each in _classes(module)]


def made(classes: Sequence[type[Listener]]) -> list[Listener]:
    """One object of each class. Raises ConfigurationError for a class that is not made without arguments."""
    return [_made(each) for each in classes]


def _modules(name: str) -> Iterator[ModuleType]:
    module = _imported(name)
    yield module
    for each in sorted({found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}):
        if each != "__main__":
            yield from _modules(f"{name}.{each}")


def _imported(name: str) -> ModuleType:
    before = list(hooks.registered)
    try:
        return import_module(name)
    except Exception as error:
        # Python runs the module again at the next try; what it had registered would then be called twice.
        hooks.registered[:] = [each for each in hooks.registered if each in before or not _is_of(name, each.callback)]
        raise InstallError(
            f"install(listeners=…): the module {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _is_of(name: str, callback: hooks.Callback) -> bool:
    return hooks.module_of(callback) == name


def _classes(module: ModuleType) -> list[type[Listener]]:
    return [
        each
        for name, each in sorted(vars(module).items())
        if isinstance(each, type)
        and issubclass(each, Listener)
        and each.__module__ == module.__name__
        and each.__name__ == name  # under another name it is the same class once more
        and not name.startswith("_")
        and not inspect.isabstract(each)
    ]


def _made(kind: type[Listener]) -> Listener:
    try:
        return kind()
    except TypeError as error:
        raise ConfigurationError(
            f"install(listeners=…): {kind.__module__}.{kind.__qualname__} cannot be made without arguments: {error}. "
            "Give its arguments defaults, begin its name with an underscore, or pass objects: listeners=[…]"
        ) from error
