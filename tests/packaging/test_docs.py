# SPDX-License-Identifier: Apache-2.0
"""What the documentation tells people to type has options that exist, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex

import pytest
from deeplab_bench.command import build_parser as bench_parser
from deeplab_export.options import build_parser as export_parser

from deeplab_infer.commands import evaluate, predict, serve, train

from .pages import PAGES, ROOT, is_synopsis

PARSERS = {
    "deeplab-export": export_parser,
    "deeplab-bench": bench_parser,
    "deeplab-predict": predict.build_parser,
    "deeplab-eval": evaluate.build_parser,
    "deeplab-serve": serve.build_parser,
    "deeplab-train": train.build_parser,
}


def _typed_lines():
    for page in PAGES:
        for line in page.read_text().splitlines():
            words = line.strip().removeprefix("$ ").split("  ")[0].split(" #")[0]
            name = words.split(" ")[0]
            if name in PARSERS and not is_synopsis(words):
                yield pytest.param(name, words.removesuffix("\\"), id=f"{page.name}: {words[:60]}")


LINES = list(_typed_lines())


@pytest.mark.parametrize(("name", "line"), LINES)
def test_documented_commands_have_options_that_exist(name, line):
    PARSERS[name]().parse_args(shlex.split(line)[1:])


def test_there_are_documented_commands():
    assert len(LINES) > 5


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if not re.match(r"https?:|mailto:", target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_messages_of_the_troubleshooting_page_are_in_the_sources():
    """The first column of its tables: each quoted part is written somewhere."""
    folders = ("deeplab_infer", "export", "benchmarks")
    sources = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)  # literals that are continued on the next line
    quoted = [
        part
        for line in (ROOT / "docs/troubleshooting.md").read_text().splitlines()
        if line.startswith("| `")
        for part in re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", line)[1])
    ]
    assert len(quoted) > 60
    assert not [part for part in quoted if part not in joined]
