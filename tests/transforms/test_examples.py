"""The examples of the reference run, and print what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "transforms.md").read_text()

NAMES = re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def given():
    """Names that the page's own code makes for the examples."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("name", NAMES)
def test_each_item_of_the_reference_has_an_example_that_is_right(name, given):
    module, _, attribute = name.rpartition(".")
    member = getattr(importlib.import_module(module), attribute)
    (found,) = doctest.DocTestFinder(recurse=False).find(member, attribute, globs={**given})
    assert found.examples
    problems = []
    doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(found, out=problems.append)
    assert not problems, "".join(problems)
