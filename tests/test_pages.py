"""The pages of docs: all are in the navigation, and what they and the README point to exists."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def in_navigation(entry):
    """Pages under an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in in_navigation(part)]


def test_each_page_has_one_place_in_the_navigation():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(in_navigation(site["nav"])) == [page.name for page in PAGES]


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_pages_and_sections_that_a_page_points_to_exist(page):
    links = re.findall(r"\]\(([^)\s:]+)\)", page.read_text())
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link
