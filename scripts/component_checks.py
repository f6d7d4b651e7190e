"""The components of a config before any work: their targets, arguments and values, and what can be made without data.

A component is ``{"_target_": ..., ...}``. Python programs have a type checker for these mistakes; configs have this.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import pydoc
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from os import PathLike
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from monai.bundle import ConfigComponent, ConfigParser

from scripts.errors import cause, sentence
from transforms.errors import InputError

OPEN = object()
"""A value that is known only when it is made: a component, or an expression."""

REFERENCE = re.compile(r"@([A-Za-z_][\w:#]*)")

ONCE = {"tracker", "raw_scan"}
"""Ids that are not made twice: they open MLflow and a scan."""

SIDE = 24
"""Side in voxels of the image on which a network is tried: a multiple of 8, as the sides of all scans are."""

WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("a text", "texts"),
    NoneType: ("None", "None"),
}
"""A type for a person: of one value, and of many."""

COMPONENT = ('a component as {"_target_": ...}', 'components as {"_target_": ...}')


def references(config: Any) -> list[str]:
    """List the ids that a part of a config refers to, with ``::`` between their words.

    A text refers to others where the whole of it is a reference, or where it is code. Other texts may hold an ``@``.
    """
    if isinstance(config, str):
        found = [match for match in REFERENCE.finditer(config) if config.startswith("$") or match[0] == config]
        return [match[1].replace("#", "::") for match in found]
    return [name for _, part in _parts(config) for name in references(part)]


def nearest(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence on an unknown name: the nearest known one, if there is one."""
    found = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {found[0]}?" if found else "."


def check_components(parser: ConfigParser, checked: Collection[str]) -> None:
    """Refuse a component that is not there, an argument that it does not take, and a value of another type.

    Args:
        parser: of the config.
        checked: ids whose values are checked elsewhere.

    Raises:
        InputError: one sentence with the id, what was found and what was expected.
    """
    for name, component in _components("", parser.get()):
        target = ConfigComponent(component, name, parser.locator).resolve_module_name()
        if not isinstance(target, str) or target.startswith(("$", "@")):
            continue
        try:
            made = pydoc.locate(target)
        except pydoc.ErrorDuringImport:
            made = None
        if made is None:
            raise InputError(f"--{name}: found no {target}, expected the name of a class or a function.")
        if callable(made):
            _check_arguments(parser, name, component, made, checked)


def _components(name: str, config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if ConfigComponent.is_instantiable(config):
        yield name, config
    for key, part in _parts(config):
        yield from _components(f"{name}::{key}" if name else str(key), part)


def _parts(config: Any) -> list[tuple[Any, Any]]:
    if isinstance(config, Mapping):
        return list(config.items())
    return list(enumerate(config)) if isinstance(config, list) else []


def _check_arguments(
    parser: ConfigParser,
    name: str,
    component: Mapping[str, Any],
    made: Callable[..., Any],
    checked: Collection[str],
) -> None:
    try:
        parameters = inspect.signature(made).parameters
    except ValueError:  # a function of C
        return
    typed: Any = made
    try:
        hints = get_type_hints(typed.__init__ if isinstance(made, type) else made)
    except (NameError, TypeError):
        hints = {}
    arguments = {key: value for key, value in component.items() if key not in ConfigComponent.non_arg_keys}
    title = str(component["_target_"]).rpartition(".")[2]
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in arguments.items():
        if key not in parameters:
            if anything:
                continue
            raise InputError(f"--{name}::{key}: found an argument that {title} does not have{nearest(key, parameters)}")
        at, found = _plain(parser, f"{name}::{key}", value)
        fits = key not in hints or _fits(found, hints[key]) or found is parameters[key].default
        if at not in checked and not fits:
            raise InputError(f"--{at}: found {found!r}, expected {_words(hints[key])}, as {title} has it.")
    needed = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if missing := [key for key in needed if key not in arguments and component.get("_mode_") != "callable"]:
        raise InputError(f"--{name}: found no {missing[0]}, expected one, which {title} needs.")


def _plain(parser: ConfigParser, name: str, value: Any) -> tuple[str, Any]:
    """Follow references to a value, and return it with its id."""
    for _ in range(len(parser.get())):
        if not (isinstance(value, str) and (match := REFERENCE.fullmatch(value))):
            break
        name = match[1].replace("#", "::")
        value = parser.get(name, OPEN)
    code = isinstance(value, str) and value.startswith(("$", "@", "%"))
    return name, OPEN if code or ConfigComponent.is_instantiable(value) else value


def _fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911, one for each form of a type
    """Whether a value of a config may stand where a type is asked for; True where nobody can say."""
    base, inner = get_origin(hint) or hint, get_args(hint)
    if value is OPEN or (isinstance(value, str) and value.startswith(("$", "@"))):
        return True
    if ConfigComponent.is_instantiable(value):
        return True
    if base in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if base is Literal:
        return value in inner
    if base is Annotated:
        return _fits(value, inner[0])
    if base is Callable or not isinstance(base, type):
        return base is not Callable or callable(value)
    if base in (int, float):
        return isinstance(value, int | base) and not isinstance(value, bool)
    if base in (bool, str, NoneType):
        return isinstance(value, base)
    if issubclass(base, PathLike):
        return isinstance(value, str | PathLike)
    if issubclass(base, Mapping):
        return isinstance(value, Mapping)
    if _is_component(base):
        return isinstance(value, base)
    if issubclass(base, Collection):
        each = [one for one in inner if one is not Ellipsis][:1]
        return isinstance(value, list | tuple) and all(_fits(one, hint) for one, hint in itertools.product(value, each))
    return True


def _is_component(base: type) -> bool:
    """Whether a type is a class of which a config makes objects; devices and types of numbers are texts as well."""
    package = base.__module__.partition(".")[0]
    return package in ("torch", "monai", "ignite", "transforms", "scripts") and base not in (torch.device, torch.dtype)


def _words(hint: Any, many: bool = False) -> str:  # noqa: PLR0911, one for each form of a type
    base, inner = get_origin(hint) or hint, get_args(hint)
    if base in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(one, many) for one in inner))
    if base is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if base is Annotated:
        return _words(inner[0], many)
    if base in WORDS:
        return WORDS[base][many]
    if base is Callable or (isinstance(base, type) and _is_component(base)):
        return COMPONENT[many]
    if isinstance(base, type) and issubclass(base, Mapping):
        return "values by name"
    if isinstance(base, type) and issubclass(base, Collection):
        return ("lists" if many else "a list") + (f" of {_words(inner[0], many=True)}" if inner else "")
    return str(getattr(base, "__name__", base))


def make_without_data(parser: ConfigParser, run: str) -> ConfigParser:
    """Make all that a run needs and that needs no data, so that what cannot be made is refused before data are loaded.

    It is made apart from the config: what the run itself makes draws the same random numbers.

    Args:
        parser: of the config.
        run: id that is to be run.

    Returns:
        a parser with what was made. Its data sets load nothing before they are used.

    Raises:
        InputError: one sentence with the id, what was found and why it cannot be made.
    """
    trial = ConfigParser(_copied(parser.get()), globals=parser.globals)
    for name in ("train::dataset", "validate::dataset"):
        if name in trial:
            kept = {key: trial[name][key] for key in ("data", "transform") if key in trial[name]}
            trial[name] = {"_target_": "Dataset", **kept}
    trial.parse(reset=True)
    # an inference first says what is wrong with its scan, and then with its weights
    left = ONCE | ({"trained"} if "raw_scan" in trial else set())
    # a cohort of phantoms may have to be made: not for values that cannot be used
    for later in ({"dataset_dir"}, set[str]()):
        for name in _makeable(trial, run, left | later):
            _refusing(trial, name, partial(trial.get_parsed_content, name))
    return trial


def try_network(made: ConfigParser) -> None:
    """Refuse a network that cannot map an image whose sides are multiples of 8, as of too many resolutions.

    Args:
        made: see :func:`make_without_data`.
    """
    network, channels = made.get_parsed_content("network"), made.get_parsed_content("network_def::in_channels")
    image = torch.zeros(1, channels, SIDE, SIDE, SIDE, device=made.get_parsed_content("device"))
    with torch.no_grad():
        _refusing(made, "network_def", partial(network, image))


def _copied(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _copied(part) for key, part in config.items()}
    return [_copied(part) for part in config] if isinstance(config, list) else config


def _makeable(parser: ConfigParser, run: str, without: Collection[str]) -> list[str]:
    """List the ids that a run refers to, the deepest first, and their parts, but for those that need some ids.

    The steps of the run are its work, and not listed: an evaluation would take place in its own check.
    """
    work = {run, *(f"{run}::{key}" for key, _ in _parts(parser.get(run)))}
    needs: dict[str, bool] = {}
    names: list[str] = []

    def visit(name: str) -> bool:
        """Whether an id needs one of those that are left out."""
        if name not in needs:
            needs[name] = False  # a circle ends here
            config = parser.get(name)
            parts = [f"{name}::{key}" for key, part in _parts(config) if isinstance(part, dict | list)]
            used = [visit(one) for one in [*dict.fromkeys(references(config)), *parts]]
            needs[name] = name in without or any(used)
            if not needs[name] and name not in work and isinstance(config, str | dict | list):
                names.append(name)
        return needs[name]

    visit(run)
    return names


def _refusing(parser: ConfigParser, name: str, action: Callable[[], Any]) -> None:
    """Do something with a component, and refuse its values where that raises an error."""
    try:
        action()
    except Exception as error:
        if sentence(error):
            raise
        config = parser.get(name)
        values = {key: _plain(parser, "", value)[1] for key, value in _parts(config) if not str(key).startswith("_")}
        found = ", ".join(f"{key} {value!r}" for key, value in values.items() if value is not OPEN)
        title = config["_target_"] if ConfigComponent.is_instantiable(config) else config
        raise InputError(
            f"--{name}: found {found or title}, which cannot be used ({cause(error)}), expected other values."
        ) from None
