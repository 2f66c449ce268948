# SPDX-License-Identifier: Apache-2.0
"""The documentation site: Sphinx on the repository's own Markdown files (``make docs``).

The source folder is the repository's root, so that pages stay where they are and their links work alike on the site
and in a checkout. Nothing is fetched, neither to build the site nor to look at it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# Caption in the sidebar -> its pages. Every page is here: a file that is not is an error of the build.
NAVIGATION = {
    "Start": ["docs/quickstart", "README", "examples/README"],
    "Export": ["docs/export", "docs/precision", "docs/optimisations", "docs/tensorrt", "docs/tensorrt_plugins"],
    "Run": ["docs/cpu", "docs/outputs", "docs/large_images", "docs/streams", "docs/fleet", "docs/cpp", "docs/api"],
    "Measure": ["benchmarks/README", "benchmarks/results/README", "docs/evaluation"],
    "Train": ["docs/finetune", "docs/training", "docs/datasets", "deeplab_infer/assets/README"],
    "Serve": ["docs/serving"],
    "How it works": ["docs/kernels", "export/README", "docs/adding", "CONTRIBUTING", "CHANGELOG"],
    "Help": ["docs/troubleshooting", "docs/faq"],
}

project = "deeplab-infer"
root_doc = "docs/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.githubpages"]
include_patterns = ["*.md", "docs/*.md", "*/README.md", "*/*/README.md"]
# Folders that are not ours to read: environments, builds, and what commands write.
exclude_patterns = [".*", "build", "dist", "demo", "exported", "predictions", "runs", "site"]
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4  # links to headings, by the names that repository hosts give them
default_role = "code"  # in docstrings a name between single backticks is code
autodoc_typehints = "none"  # the signature has them
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "deeplab-infer"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_extra_path = ["site_root"]  # leads from the site's address to the first page
highlight_language = "none"


def _adapt(app: Any, name: str, source: list[str]) -> None:
    """What a repository's host and Sphinx write differently: anchors, and the navigation inside the first page."""
    source[0] = re.sub(r'^<a id="([\w-]+)"></a>$', r"(\1)=", source[0], flags=re.MULTILINE)
    if name != root_doc:
        return
    for caption, pages in NAVIGATION.items():
        there = [f"/{page}" for page in pages if (ROOT / f"{page}.md").exists()]
        lines = ["```{toctree}", f":caption: {caption}", ":hidden:", "", *there, "```"]
        source[0] += "\n\n" + "\n".join(lines) + "\n"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _adapt)
