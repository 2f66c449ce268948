# SPDX-License-Identifier: Apache-2.0
"""Pages of documentation as what can be run in them: framed blocks and indented command lines, in order."""

from __future__ import annotations

import glob
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("[!.]*/README.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "benchmarks/results/README.md",
        ROOT / "deeplab_infer/assets/README.md",
    ]
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: ([^>]+?) -->\s*\Z")
_COMMAND = re.compile(r"(deeplab-\w+|python|pip|make|torchrun|curl|mkdir|cmake|scripts/\w+\.sh)\b")


@dataclass
class Part:
    """A framed block, or one indented command line (language ``command``).

    Attributes:
        language: of the frame; "" where it names none.
        text: without the frame and its indentation.
        line: where it begins, from 1.
        mark: why it is not run, where a comment above it says so.
    """

    language: str
    text: str
    line: int
    mark: str


def name_of(page: Path) -> str:
    """The page as tables name it."""
    return page.relative_to(ROOT).as_posix()


def parts(page: Path) -> list[Part]:
    """What a page has, in its order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, match.start())
        body = textwrap.dedent(match[3])
        found.append(Part(match[2], body, text.count("\n", 0, match.start()) + 1, mark[1] if mark else ""))
    outside = _FENCE.sub(lambda match: re.sub(r"[^\n]", "", match[0]), text)
    joined = re.sub(r"\\\n( *)", lambda match: "\\" + "\v" + match[1], outside)  # a continued line stays one
    number = 1
    for line in joined.split("\n"):
        if line.startswith("    ") and _COMMAND.match(line.strip()):
            found.append(Part("command", re.sub(r"\\\v *", "", line).strip(), number, ""))
        number += 1 + line.count("\v")
    return sorted(found, key=lambda part: part.line)


def commands(part: Part) -> list[str]:
    """Command lines of a part: of bash frames, of frames without a language, and indented ones."""
    if part.language not in ("bash", "sh", "", "command"):
        return []
    lines = part.text.replace("\\\n", "").splitlines()
    return [bare(line) for line in lines if _COMMAND.match(line.strip()) or part.language == "bash"]


def bare(line: str) -> str:
    """Without a prompt, a comment, or an explanation behind two spaces."""
    return line.strip().removeprefix("$ ").split("  ")[0].split(" #")[0].strip()


def is_synopsis(line: str) -> bool:
    """Brackets and bars mark a synopsis, dots an omission."""
    return re.search(r"[\[\]]|\.\.\.|\|", line) is not None


def words(line: str, folder: Path) -> list[str]:
    """As a shell splits a line, patterns filled in from a folder."""
    split: list[str] = []
    for word in shlex.split(line):
        matches = sorted(glob.glob(word, root_dir=folder)) if "*" in word else []
        split += matches or [word]
    return split
