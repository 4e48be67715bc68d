"""What a method's class must say, and of which types: a mistake is one line, before any work."""

from __future__ import annotations

import inspect
import itertools
import os
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from bench.contract import Ablation, MethodConfig, Preset
from bench.data.batch import Inputs
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from methods.base import Method

DECLARED = ("title", "inputs", "configure", "forward")
"""What a method cannot do without."""

CALLED_ON_THE_CLASS = {
    "configure": ("preset", "task"),
    "recipe": ("task",),
    "decline": ("task", "cxr", "ehr"),
}
CALLED_ON_THE_METHOD = {
    "__init__": ("config", "spec"),
    "forward": ("batch", "with_attention"),
}
"""Functions by name, and what they are called with."""

GIVEN_BY_NAME = ("ehr", "with_attention")
"""Arguments that some calls give by their name."""

_NOT_THE_AUTHORS = (sysconfig.get_path("stdlib") + os.sep, str(Path(__file__).parent) + os.sep, "<")
"""How files begin that an author of a method did not write."""


@cache
def check_declaration(method: type) -> None:
    """Refuse a class that is no method, lacks something, or declares or answers in wrong types.

    Raises:
        UserError: what is wrong, in one line.
    """
    name = f"{method.__module__}:{method.__qualname__}"
    if not issubclass(method, Method):
        raise UserError(f"{name} is no method: derive it from methods.base.Method")
    own = {declared for base in _own_bases(method) for declared in vars(base)}
    if missing := [declared for declared in DECLARED if declared not in own]:
        raise UserError(f"{name} lacks {', '.join(missing)}: see methods/base.py for what they are")
    if wrong := _attributes(method) or _signatures(method) or _answers(method):
        raise UserError(f"{name}: {wrong}")


def blamed(error: BaseException) -> str:
    """An error with its place, the last line of a method's author that it went through.

    Returns:
        E.g. 'ValueError at my_method.py:12: no such size'.
    """
    if isinstance(error, SyntaxError):
        line = f":{error.lineno}" if error.lineno else ""
        return f"{type(error).__name__} at {Path(error.filename or '?').name}{line}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_the_authors(frame.filename)]
    last = (own or frames)[-1]
    place = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    message = " ".join(str(error).split())
    return f"{place}: {message}" if message else place


def _own_bases(method: type) -> list[type]:
    return [base for base in method.__mro__ if base not in Method.__mro__]


def _is_the_authors(filename: str) -> bool:
    return "site-packages" not in filename and not filename.startswith(_NOT_THE_AUTHORS)


def _attributes(method: type[Method[Any]]) -> str | None:
    """What is wrong with the class attributes, if anything is."""
    if not isinstance(method.title, str):
        return f"title is {kind_of(method.title)}, expected a str"
    if not isinstance(method.inputs, Inputs):
        return f"inputs is {kind_of(method.inputs)}, expected e.g. Inputs(films=True, ehr=True)"
    ablations = method.ablations
    if not isinstance(ablations, dict):
        return f"ablations is {kind_of(ablations)}, expected a dict of names to Ablation(...)"
    for name, ablation in ablations.items():
        if not isinstance(name, str) or not isinstance(ablation, Ablation):
            return f"ablations[{name!r}] is {kind_of(ablation)}, expected an Ablation(...)"
    return None


def _signatures(method: type[Method[Any]]) -> str | None:
    """What is wrong with how the functions can be called, if anything is."""
    for name, arguments in (CALLED_ON_THE_CLASS | CALLED_ON_THE_METHOD).items():
        function = inspect.getattr_static(method, name)
        on_class = name in CALLED_ON_THE_CLASS
        if on_class != isinstance(function, classmethod):
            return f"{name} must {'' if on_class else 'not '}be a @classmethod"
        called = function.__func__ if isinstance(function, classmethod) else function
        by_place = [argument for argument in arguments if argument not in GIVEN_BY_NAME]
        by_name = dict.fromkeys(set(arguments) - set(by_place))
        try:
            inspect.signature(called).bind(None, *by_place, **by_name)
        except TypeError as error:
            return f"{name} is called with ({', '.join(arguments)}): {error}"
    return None


def _answers(method: type[Method[Any]]) -> str | None:
    """What is wrong with what `decline` and `configure` return, if anything is."""
    try:
        return _declines(method) or _configurations(method)
    except UserError:
        raise
    except Exception as error:
        return blamed(error)


def _declines(method: type[Method[Any]]) -> str | None:
    for task, cxr, ehr in itertools.product(Task, Cxr, (True, False)):
        reason = method.decline(task, cxr, ehr)
        if reason is not None and not (isinstance(reason, str) and reason):
            return (
                f"decline({task}, {cxr}, ehr={ehr}) returned {reason!r}, expected the reason in a "
                "sentence, or None to accept"
            )
    return None


def _configurations(method: type[Method[Any]]) -> str | None:
    """Of every task that it does in some setting, for every preset."""
    for preset, task in itertools.product(Preset, Task):
        settings = itertools.product(Cxr, (True, False))
        if all(method.decline(task, cxr, ehr) for cxr, ehr in settings):
            continue
        config = method.configure(preset, task)
        call = f"configure({preset}, {task})"
        if not isinstance(config, MethodConfig):
            return f"{call} returned {kind_of(config)}, expected a MethodConfig"
        kind = type(config)
        if inspect.get_annotations(kind) and "__dataclass_fields__" not in vars(kind):
            return f"{kind.__name__} has fields but no @dataclass(frozen=True)"
        weights = config.loss_weights()
        if not isinstance(weights, dict) or not all(map(_is_number, weights.values())):
            return f"loss_weights() returned {weights!r}, expected a dict of names to numbers"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def kind_of(value: object) -> str:
    """An object's type in words, e.g. 'a dict' or 'the class Inputs'."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
