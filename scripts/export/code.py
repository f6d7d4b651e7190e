"""The code that a bundle needs: the modules that its configs reach, and the packages that these import."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable
from importlib.metadata import packages_distributions, version
from pathlib import Path

from scripts.version import ROOT

OWN = ("scripts", "transforms")
"""Packages whose modules are copied."""

OF_MONAI = ("fire", "tqdm")
"""Packages that MONAI and Ignite import for the command line and for progress bars."""

OPTIONAL = ("SimpleITK",)
"""Packages that a bundle imports only for scans without a brain mask; the model card names them."""

IN_FIELDS_OF_THEIR_OWN = {"monai", "torch", "numpy"}
"""Packages whose versions metadata does not list with the others."""


def needed_files(configs: Iterable[str]) -> list[Path]:
    """Find the files of ``scripts`` and ``transforms`` that configs need, imports within functions included.

    Args:
        configs: texts of the configs.

    Returns:
        paths relative to ``ROOT``, sorted.
    """
    names = {name for text in configs for name in re.findall(r"\b(?:scripts|transforms)(?:\.\w+)+", text)}
    todo = list(names)
    files: set[Path] = set()
    while todo:
        for file in _files_of(todo.pop()) - files:
            files.add(file)
            todo += [name for name in _imports(file) if name.split(".")[0] in OWN]
    data = {path.relative_to(ROOT) for path in ROOT.glob("transforms/data/*") if path.is_file()}
    return sorted(files | data)


def required_packages(files: Collection[Path]) -> dict[str, str]:
    """Return the installed versions of the packages that files need, but for those with fields of their own.

    Args:
        files: as :func:`needed_files` returns them.
    """
    known = packages_distributions()
    modules = {name.split(".")[0] for file in files if file.suffix == ".py" for name in _imports(file)}
    modules |= set(OF_MONAI)
    modules -= {*sys.stdlib_module_names, *OWN, *OPTIONAL, *IN_FIELDS_OF_THEIR_OWN}
    # a package in several parts, as mlflow, has a distribution of its own name
    names = {module if module in known[module] else known[module][0] for module in modules}
    return {re.sub(r"[-_.]+", "-", name).lower(): version(name) for name in sorted(names, key=str.lower)}


def _files_of(name: str) -> set[Path]:
    """Find the files of a dotted name: of its module, and of the packages around it."""
    words = name.split(".")
    files: set[Path] = set()
    for count in range(1, len(words) + 1):
        place = Path(*words[:count])
        # a stub names what a package imports at first use
        for file in (place.with_suffix(".py"), place / "__init__.py", place / "__init__.pyi"):
            if (ROOT / file).is_file():
                files.add(file)
    return files


def _imports(file: Path) -> set[str]:
    """Return the dotted names that a file imports; a name may be that of a module or of something in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(file.parts[: len(file.parts) - node.level])
            source = ".".join(filter(None, [package if node.level else "", node.module]))
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return names
