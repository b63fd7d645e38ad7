"""What mkdocs does besides: formulas as MathML, figures in the page's colours, and nothing fetched from a network."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
FIGURE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*(figures/[\w-]+\.svg)"\s*/?></p>')
SECTION = re.compile(r"<!-- README: (.+?) -->")
FETCHED = re.compile(r"""<(?:script|img|iframe|link rel="stylesheet")[^>]*?(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Sections of the README where a page asks for them; tables inside ``<details>``, as GitHub reads them."""
    page = SECTION.sub(lambda match: section(Path(config.docs_dir, "..", "README.md"), match[1]), markdown)
    return page.replace("<details>", '<details markdown="1">')


def on_page_content(content: str, config: Any, **_: Any) -> str:
    """Formulas and figures into the page."""
    page = FORMULA.sub(lambda match: formula(match[2]), content)
    return FIGURE.sub(lambda match: figure(Path(config.docs_dir, match[2]), match[1]), page)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse what a reader's browser would have to fetch from elsewhere.

    Raises:
        PluginError: it names the element.
    """
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} fetches {found[0]}; put a copy into docs/.")
    return output


def section(readme: Path, title: str) -> str:
    """What stands below a heading of the README, with its links as from docs/.

    Raises:
        PluginError: there is no such heading.
    """
    parts = re.split(r"^## (.+)\n", readme.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if title not in sections:
        raise PluginError(f"README.md has no section {title!r}; it has {list(sections)}.")
    return sections[title].replace("](docs/", "](")


def formula(marked: str) -> str:
    r"""TeX between \( \) or \[ \] as MathML.

    Raises:
        PluginError: a command that latex2mathml does not know.
    """
    tex = html.unescape(marked).strip()
    drawn = convert(tex[2:-2].strip(), display="block" if tex.startswith(r"\[") else "inline")
    if unknown := re.search(r"\\[A-Za-z]+", drawn):
        raise PluginError(f"no MathML for {unknown[0]} in the formula {tex}.")
    return drawn


def figure(path: Path, caption: str) -> str:
    """The drawing itself, whose colours then follow the page's."""
    return f"<figure>{path.read_text(encoding='utf-8')}<figcaption>{caption}</figcaption></figure>"
