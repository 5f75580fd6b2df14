"""The models, by kind. `load_all` registers them; packages are imported when a model is built."""

import importlib
import pkgutil


def load_all() -> None:
    """Import every module of this package, which registers its models."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
