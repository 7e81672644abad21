"""Foreign code by name: the `import_path` fields of data and model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fsamlab.config import ConfigError


def import_function(key: str, path: str) -> Callable[..., Any]:
    """Return the function that `path`, written `package.module:function`, names.

    Args:
        key: the config key the path came from, for the error's text.
        path: for example `my_package.data:build`.

    Raises:
        ConfigError: the path has another form, or the module or the function does not exist. An error
            inside the imported module is left as it is.
    """
    module_name, _, function_name = path.partition(":")
    if not module_name or not function_name:
        raise ConfigError(key, path, "must have the form package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(key, path, f"there is no module {error.name}; install it or set PYTHONPATH") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(key, path, f"{module_name} has no function {function_name}")
    return function
