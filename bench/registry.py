"""Names to methods. A method of somebody else's is named by its place: `module:Class`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from bench.declaration import blamed, check_declaration
from bench.errors import UserError, nearest
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
        UserError: no such name, module or class, a module that cannot be imported, or a class that
            does not declare what a method must.
    """
    found = _find_class(name)
    check_declaration(found)
    return cast(type[Method[Any]], found)


def _find_class(name: str) -> type:
    place = METHODS.get(name, name)
    module_name, separator, class_name = place.partition(":")
    if not separator:
        raise UserError(
            f"unknown method '{name}': {nearest(name, METHODS)} (or module:Class for your own)"
        )
    parts = [*module_name.split("."), class_name]
    if module_name.endswith(".py") or not all(map(str.isidentifier, parts)):
        hint = Path(module_name.removesuffix(".py")).as_posix().replace("/", ".").strip(".")
        example = f"{hint or 'my_method'}:{class_name or 'MyMethod'}"
        raise UserError(f"method '{name}': give module:Class as Python imports it, e.g. {example}")
    module = _import(name, module_name)
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value)}
    if class_name not in classes:
        own = [key for key, value in classes.items() if value.__module__ == module.__name__]
        valid = nearest(class_name, own) if own else "it defines none"
        raise UserError(f"method '{name}': no class '{class_name}' in {module_name}, {valid}")
    return classes[class_name]


def _import(name: str, module_name: str) -> ModuleType:
    """Import a method's module; whatever stops that is one line with its place."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == module_name or module_name.startswith(f"{missing}."):
            raise UserError(
                f"method '{name}': there is no module '{module_name}' in {Path.cwd()} or among the "
                "installed packages"
            )
        raise UserError(f"method '{name}' cannot be imported: {blamed(error)}")
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"method '{name}' cannot be imported: {blamed(error)}")


def source_files(name: str) -> list[Path]:
    """Files that hold a method's own code: its module, and what that imports of `methods`.

    Modules of the method's own package count too; imports are followed.
    """
    start = _find_class(name).__module__
    packages = {"methods", start.partition(".")[0]}
    found: dict[str, Path] = {}
    to_read = {start}
    while to_read:
        place = to_read.pop()
        found[place] = Path(cast(str, _spec(place).origin))  # type: ignore[union-attr]
        to_read |= _imported(place, found[place], packages) - found.keys()
    return sorted(found.values())


def _imported(place: str, file: Path, packages: set[str]) -> set[str]:
    """Modules of some packages that a module imports anywhere in its file."""
    if file.suffix != ".py":
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            package = place if file.name == "__init__.py" else place.rpartition(".")[0]
            origin = importlib.util.resolve_name(origin, package)
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    own = {name for name in names if name.partition(".")[0] in packages}
    return {name for name in own if (spec := _spec(name)) and spec.has_location}


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; None if the name is none, as `package.module.Class`."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
