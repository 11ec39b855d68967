"""Pages read the same on GitHub and on the site: only marks that both know, and links that lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKS = {
    "an include of the site's": r"--8<--|^\s*:::",
    "an admonition or tabs of the site's": r"^\s*(?:!!!|\?\?\?\+?|===)\s",
    "an alert of GitHub's": r"^\s*>\s*\[!\w+\]",
    "a reference that only the site resolves": r"\]\[",
    "a list or table without an empty line before it, which the site takes for text": (
        r"^(?! *(?:[-|]|\d+\.) | +\S).+\n(?:- |\d+\. |\|)"
    ),
    "words after a block's language, with which the site takes it for text": r"^ *`{3,}\S+ +\S",
    "attributes that only the site reads": r"\{\s*[:.#][^}]*\}\s*$",
}
APART = ("reference", "results", "changelog.md")
MOST_WORDS = 15_000  # of the guides: what a reader gets through in an hour or so; the rest is looked up
CODE = re.compile(r"^ *(`{3,}).*?^ *\1`*$", re.MULTILINE | re.DOTALL)
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """The text of a page without blocks of code; of these their first line stays, with its marks."""
    text = page.read_text(encoding="utf-8")
    return CODE.sub(lambda block: block[0].splitlines()[0], text)


@each
def test_a_page_has_no_marks_that_only_github_or_only_the_site_knows(page: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "`code`", prose(page))
    assert {what: re.findall(mark, text, re.MULTILINE) for what, mark in MARKS.items()} == {what: [] for what in MARKS}


@each
def test_a_page_has_the_same_parts_on_both(page: Path) -> None:
    markdown = pytest.importorskip("markdown", reason="make docs installs it")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    extensions = re.findall(
        r"^  - ([\w.]+)", settings[settings.index("markdown_extensions:") :].split("\n\n")[0], re.MULTILINE
    )
    text = page.read_text(encoding="utf-8")
    site = re.sub(r"(?s)<(div|table) class=\"highlight.*?</\1>", "", markdown.markdown(text, extensions=extensions))
    github = MarkdownIt("commonmark").enable("table").render(text)
    assert parts(site) == parts(github)


def parts(html: str) -> Counter[str]:
    return Counter(re.findall(r"<(table|tr|ul|ol|li|h\d|img|blockquote|strong|em)\b", html))


@each
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(\s*([^)#\s]*)(?:#([^)\s]*))?\s*\)", prose(page))
    for link, anchor in links:
        if not link.startswith(("http://", "https://", "mailto:")):
            target = (page.parent / link).resolve() if link else page
            assert target.exists(), link
            made_by_site = target.parent.name == "api"  # its anchors are names of objects
            assert not anchor or made_by_site or anchor in anchors(target), f"{link}#{anchor}"


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page, which is what the site calls them as long as they are ASCII."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in words}


def test_the_guides_are_short() -> None:
    """`find docs -name '*.md' ! -path '*/reference/*' ! -path '*/results/*' ! -name changelog.md | xargs cat | wc -w`."""
    guides = [page for page in PAGES[1:] if page.relative_to(ROOT / "docs").parts[0] not in APART]
    words = {str(page.relative_to(ROOT)): len(page.read_text(encoding="utf-8").split()) for page in guides}
    assert sum(words.values()) <= MOST_WORDS, sorted(words.items(), key=lambda item: -item[1])
