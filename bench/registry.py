"""Names to methods. A method of somebody else's is named by its place: `module:Class`."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.errors import UserError, nearest

if TYPE_CHECKING:
    from methods.base import Method

METHODS = {
    "dipro": "methods.dipro.model:DiPro",
    "ehr_transformer": "methods.baselines.ehr_transformer:EhrTransformer",
    "medfuse": "methods.baselines.medfuse:MedFuse",
    "drfuse": "methods.baselines.drfuse:DrFuse",
    "utde": "methods.baselines.utde:Utde",
    "umse": "methods.baselines.umse:Umse",
    "chexrelnet": "methods.baselines.chexrelnet:CheXRelNet",
    "chexrelformer": "methods.baselines.chexrelformer:CheXRelFormer",
    "sdpl": "methods.baselines.sdpl:Sdpl",
}


def load_method(name: str) -> type[Method[Any]]:
    """Return a method's class by its registered name or by `module:Class`.

    Raises:
        UserError: no such name, module or class.
    """
    place = METHODS.get(name, name)
    module_name, separator, class_name = place.partition(":")
    if not separator:
        raise UserError(
            f"unknown method '{name}': {nearest(name, METHODS)} (or module:Class for your own)"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UserError(f"method '{name}': there is no module '{module_name}'")
        raise
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value)}
    if class_name not in classes:
        raise UserError(f"method '{name}': no class '{class_name}', {nearest(class_name, classes)}")
    return cast("type[Method[Any]]", classes[class_name])


def source_files(name: str) -> list[Path]:
    """Files that hold a method's own code: its module, and its package if it has one of its own."""
    module = inspect.getmodule(load_method(name))
    assert module is not None and module.__file__ is not None
    own = Path(module.__file__)
    if own.parent.name in ("baselines", "methods") or not (own.parent / "__init__.py").exists():
        return [own]
    return sorted(own.parent.glob("*.py"))
