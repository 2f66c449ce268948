# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that needs nothing else: styles and plots are in it, and it runs no script."""

from __future__ import annotations

import html
import io
import re
import xml.etree.ElementTree as ElementTree

from . import charts
from .markup import Block, Bullets, Chart, Code, Document, Inline, Link, Paragraph, Section, Table
from .reading import clean

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #59636e; --line: #d6dbe0; --band: #f4f6f8; --page: #ffffff;
  --link: #0a58a5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #353c44; --band: #1c2228; --page: #12161a; --link: #7cb8f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { margin-top: 2.5rem; padding-top: .6rem; border-top: 1px solid var(--line); font-size: 1.3rem; line-height: 1.3; }
a { color: var(--link); }
ul { padding-left: 1.2rem; }
code { padding: .05em .3em; border-radius: .25em; background: var(--band); font-size: .88em; }
.wide { margin: 1rem 0; overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption, summary, figcaption { padding: .3rem 0; color: var(--soft); text-align: left; font-size: .92rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { background: var(--band); }
td { white-space: nowrap; }
td.words, th.words { text-align: left; }
td.words { white-space: normal; min-width: 6rem; max-width: 28rem; overflow-wrap: anywhere; }
summary { cursor: pointer; }
figure { margin: 1.5rem 0; overflow-x: auto; }
svg { display: block; width: 100%; min-width: 36rem; max-width: 60rem; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: "DejaVu Sans", Verdana, system-ui, sans-serif !important; }
@media print { figure, tr { break-inside: avoid; } }
"""
# The page may not load or run anything, whatever a result file holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def render_html(document: Document) -> str:
    """The whole page."""
    charts_drawn = _Charts()
    sections = "\n".join(_section(section, charts_drawn) for section in document.sections)
    title = _text(document.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"{sections}\n</body>\n</html>\n"
    )


class _Charts:
    """Draws plots, and counts them: names inside one must not meet those of another."""

    def __init__(self) -> None:
        self._count = 0

    def svg(self, chart: Chart) -> str:
        self._count += 1
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with charts.style():
            chart.draw().savefig(stream, format="svg", metadata=nothing)
        return _inline_svg(stream.getvalue(), f"chart{self._count}-", chart.title)


def _inline_svg(text: str, prefix: str, title: str) -> str:
    """An SVG file as a part of a page: no namespaces, no style of its own, names that no other plot has."""
    root = ElementTree.fromstring(text)
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        for child in list(element):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                element.remove(child)
        element.attrib = {
            name.rpartition("}")[2]: _attribute(name, value, prefix) for name, value in element.attrib.items()
        }
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", clean(title))
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name.endswith("href"):
        return f"#{prefix}{value[1:]}"
    # The page's ink is light or dark as the reader's screen asks.
    return _REFERENCE.sub(rf"url(#{prefix}\1)", value).replace(charts.INK, "currentColor")


def _section(section: Section, drawn: _Charts) -> str:
    anchor = f' id="{_text(section.anchor)}"' if section.anchor else ""
    heading = f"<h{section.level}{anchor}>{_text(section.title)}</h{section.level}>"
    return "\n".join([heading, *(_block(block, drawn) for block in section.blocks)])


def _block(block: Block, drawn: _Charts) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{_inlines(block.parts)}</p>"
    if isinstance(block, Bullets):
        return "<ul>\n" + "\n".join(f"<li>{_inlines(item)}</li>" for item in block.items) + "\n</ul>"
    if isinstance(block, Chart):
        return f"<figure>\n<figcaption>{_text(block.title)}</figcaption>\n{drawn.svg(block)}\n</figure>"
    return _table(block)


def _table(table: Table) -> str:
    classes = [' class="words"' if title in table.left else "" for title in table.titles]
    heads = "".join(f'<th scope="col"{c}>{_text(t)}</th>' for c, t in zip(classes, table.titles, strict=True))
    rows = [
        "<tr>" + "".join(f"<td{c}>{_inline(cell)}</td>" for c, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in table.rows
    ]
    caption = f"<caption>{_text(table.caption)}</caption>\n" if table.caption and not table.folded else ""
    body = "\n".join(rows)
    content = f"{caption}<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    text = f'<div class="wide"><table>\n{content}\n</table></div>'
    return f"<details><summary>{_text(table.caption)}</summary>\n{text}\n</details>" if table.folded else text


def _inlines(parts: tuple[Inline, ...]) -> str:
    return "".join(_inline(part) for part in parts)


def _inline(part: Inline) -> str:
    if isinstance(part, Link):
        return f'<a href="{html.escape(part.address)}">{_text(part.text)}</a>'
    if isinstance(part, Code):
        return f"<code>{_text(part.text)}</code>"
    return _text(part)


def _text(text: str) -> str:
    return html.escape(clean(text))
