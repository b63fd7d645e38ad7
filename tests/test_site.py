"""The site is built from the pages without a network, and fetches nothing when it is read."""

import re
import sys

import pages
import pytest

pytest.importorskip("mkdocs", reason="the site is built by mkdocs: pip install prefix-peft[docs]")

sys.path.insert(0, str(pages.ROOT))

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import PluginError

from documentation import hooks

FETCHED = re.compile(r"""(?:src=|url\(|@import |<link rel="?stylesheet"? href=)["']?(?:https?:)?//""")


@pytest.mark.filterwarnings("ignore")
def test_build(tmp_path):
    build(load_config(str(pages.ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))  # strict: a broken link is an error
    texts = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    assert texts.keys() >= {page.removeprefix("docs/").replace(".md", ".html") for page in pages.pages()[1:]}
    assert "<math" in texts["mathematics.html"] and "arithmatex" not in texts["mathematics.html"]
    assert all('class="fig"' in texts[name] for name in ("index.html", "mathematics.html"))
    assert "cannot be merged into the weights" in texts["what-works.html"], "the README's limits"
    assert "PrefixConfig" in texts["api/wrapping.html"]
    for path in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]:
        assert not FETCHED.search(path.read_text()), path


@pytest.mark.parametrize("element", ['<script src="https://x.org/a.js">', '<link rel="stylesheet" href="//x.org/a">'])
def test_what_would_be_fetched_is_refused(element):
    class Page:
        class file:
            src_uri = "index.md"

    with pytest.raises(PluginError, match=r"index\.md fetches .*x\.org.*put a copy into docs/"):
        hooks.on_post_page(f"<p>{element}</p>", Page)
    assert hooks.on_post_page('<a href="https://x.org">', Page) == '<a href="https://x.org">'


def test_formulas():
    assert "<mfrac>" in hooks.formula(r"\(\frac{a}{b}\)") and 'display="block"' in hooks.formula(r"\[a &lt; b\]")
    with pytest.raises(PluginError, match=r"no MathML for \\nosuch"):
        hooks.formula(r"\(\nosuch{a}\)")


def test_a_section_that_the_readme_does_not_have():
    with pytest.raises(PluginError, match=r"no section 'Nothing'; it has \['One wrapped model'"):
        hooks.section(pages.ROOT / "README.md", "Nothing")
