"""Code outside the package, found by name: the fields called `import_path`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from fsamlab.checks import ConfigError
from fsamlab.config.project import PROJECT_ROOT


def search_project() -> None:
    """Let Python find the modules that lie beside launch.py, whichever command runs and wherever it was started."""
    if str(PROJECT_ROOT) not in sys.path:
        sys.path.append(str(PROJECT_ROOT))  # last: such a module never hides an installed one


def import_function(key: str, path: str, what: str = "function") -> Callable[..., Any]:
    """Return the function that `path`, written `package.module:function`, names.

    Args:
        key: the config key that holds the path, for the message.
        path: for example `my_package.data:build`.
        what: in messages, for example `Class`.

    Raises:
        ConfigError: the path has another form, or the module or the function does not exist. An error inside the
            imported module is not caught.
    """
    module_name, _, function_name = path.partition(":")
    if not all(name.isidentifier() for name in (*module_name.split("."), function_name)):
        raise ConfigError(key, path, f"must have the form package.module:{what}")
    search_project()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        allowed = f"there is no module {error.name}; put it beside launch.py, install it, or set PYTHONPATH"
        raise ConfigError(key, path, allowed) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(key, path, f"{module_name} has no {what.lower()} {function_name}")
    try:
        inspect.signature(function)
    except (TypeError, ValueError):  # as for some built-in types
        raise ConfigError(
            key, path, f"the arguments of {function_name} cannot be found out; name a Python function"
        ) from None
    return function


def check_call(
    key: str, path: str, function: Callable[..., Any], positional: Sequence[str], keywords: Collection[str]
) -> None:
    """Refuse a function that cannot be called with these arguments.

    Args:
        key: the config key that holds the path, for the message; `path` too.
        function: found at `path`.
        positional: a word for each positional argument, for the message.
        keywords: the names of the other arguments.

    Raises:
        ConfigError: the function takes other arguments.
    """
    try:
        inspect.signature(function).bind(*positional, **dict.fromkeys(keywords))
    except TypeError as error:
        names = ", ".join([*positional, *(f"{name}=" for name in keywords)])
        raise ConfigError(key, path, f"cannot be called with ({names}): {error}") from None


def call_imported(key: str, path: str, kind: type, *args: Any, **kwargs: Any) -> Any:
    """Call the function that `path` names and return the result.

    Args:
        key: the config key that holds the path, for the message.
        path: as in :func:`import_function`.
        kind: the class that the result must have.
        args: arguments of the function; `kwargs` too.

    Raises:
        ConfigError: the function cannot take the arguments, or the result is of another class. An error inside the
            function is not caught.
    """
    function = import_function(key, path)
    check_call(key, path, function, [type(a).__name__ for a in args], kwargs)
    made = function(*args, **kwargs)
    if not isinstance(made, kind):
        raise ConfigError(key, path, f"returned a {type(made).__name__}, not a {kind.__module__}.{kind.__qualname__}")
    return made
