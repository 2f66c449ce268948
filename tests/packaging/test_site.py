# SPDX-License-Identifier: Apache-2.0
"""The documentation site: built strictly, every page in the navigation, nothing fetched, no link that leads nowhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from .pages import PAGES, ROOT, name_of

needs_sphinx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("sphinx", "myst_parser", "furo")),
    reason="the site needs pip install 'deeplab-infer[docs]'",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs"]
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), ".", str(folder / "html")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "html"


class _Page(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "img":
            self.images.append((values.get("src", ""), values.get("alt", "")))
        if tag in ("script", "img", "iframe", "source") and "src" in values:
            self.fetched.append(values["src"])
        if tag == "link" and values.get("rel") not in ("canonical", "search", "index", "next", "prev"):
            self.fetched.append(values.get("href", ""))


@needs_sphinx
def test_every_page_is_on_the_site_and_in_the_navigation(site):
    first = _Page((site / "docs/index.html").read_text())
    own = [urlsplit(link).path for link in first.links if not urlsplit(link).netloc]
    linked = {(site / "docs" / link).resolve().relative_to(site.resolve()).as_posix() for link in own if link}
    for page in PAGES:
        there = name_of(page).removesuffix(".md") + ".html"
        assert (site / there).exists(), there
        assert there in linked or there == "docs/index.html", f"{there} is not in NAVIGATION of docs/conf.py"


@needs_sphinx
def test_links_and_anchors_of_the_site(site):
    pages = {path.resolve(): _Page(path.read_text()) for path in site.rglob("*.html")}
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link in ("", "#"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {unquote(parts.fragment)}
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                wrong.append(f"{path.relative_to(site.resolve())}: {link}")
    assert not wrong


@needs_sphinx
def test_nothing_is_fetched_from_elsewhere(site):
    for path in site.rglob("*.html"):
        page = _Page(path.read_text())
        assert not [address for address in page.fetched if urlsplit(address).netloc], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text()), path


@needs_sphinx
def test_the_address_of_the_site_leads_to_the_first_page(site):
    assert "url=docs/index.html" in (site / "index.html").read_text()


@needs_sphinx
def test_the_reference_has_every_public_name(site):
    import deeplab_export

    import deeplab_infer

    text = (site / "docs/api.html").read_text()
    public = {f"deeplab_infer.{name}" for name in deeplab_infer.__all__ if not name.startswith("__")}
    public |= {f"deeplab_export.{name}" for name in deeplab_export.__all__}
    missing = [name for name in sorted(public) if f'id="{name}"' not in text]
    assert not missing


def test_images_exist_and_say_what_they_show():
    for page in PAGES:
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
            assert len(alt.split()) >= 2, f"{name_of(page)}: {target} needs a description"
            assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


def test_pictures_of_the_kernels_are_small():
    for path in (ROOT / "docs/images").glob("kernels_*.png"):
        assert path.stat().st_size < 40_000, path.name


def headings(text):
    """Anchors as repository hosts name them."""
    found: dict[str, int] = {}
    names = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for title in re.findall(r"^#{1,6} (.+?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(slug if count == 0 else f"{slug}-{count}")
    return names


def test_links_in_the_repository_lead_to_files_and_headings():
    wrong = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            parts = urlsplit(target)
            if parts.scheme:
                continue
            other = (page.parent / parts.path).resolve() if parts.path else page
            if not other.exists() or (parts.fragment and parts.fragment not in headings(other.read_text())):
                wrong.append(f"{name_of(page)}: {target}")
    assert not wrong
