"""The documentation does what it says: its code runs, its commands are there, its lists are up to date.

Small models stand for those that a page names (`pages.make_models`), and trainings take two steps. What cannot run here
has a comment before it that says why: ``<!-- not run: ... -->``, or ``<!-- parsed: ... -->`` where at least the
command's own parser reads it.
"""

import re
import sys
from collections import Counter
from xml.etree import ElementTree

import pages
import pytest
import yaml

sys.path.insert(0, str(pages.ROOT))

from documentation import commands, figures

# Pages whose own tests run their code, with what else they say.
ELSEWHERE = {"docs/scaling.md": "test_scaling_page.py", "docs/converting.md": "test_convert.py"}
WITH_CODE = [page for page in pages.pages() if pages.blocks(page) and page not in ELSEWHERE]
DOCS = pages.ROOT / "docs"


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pages.make_models(folder)
    return folder


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:Unable to fetch remote file")  # PEFT's own
@pytest.mark.parametrize("page", WITH_CODE)
def test_code(page, stand_ins, tmp_path, monkeypatch, capsys):
    """All of a page, in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    for model in stand_ins.iterdir():
        (tmp_path / model.name).symlink_to(model)
    pages.make_files(tmp_path)
    namespace = {"__name__": "page"}
    for block in pages.blocks(page):
        if not block.mark:
            pages.run(block, namespace)
        elif block.mark == "parsed":
            for words in block.commands:
                pages.check(words)


def test_what_is_not_run_is_counted():
    marked = [block for page in pages.pages() for block in pages.blocks(page) if block.mark]
    assert Counter(block.mark for block in marked) == {"not run": 10, "parsed": 7}, marked
    assert all(len(block.reason.split()) > 2 for block in marked if block.reason != "the same")


def test_pages_that_are_tested_elsewhere_are():
    for page, name in ELSEWHERE.items():
        assert page.rpartition("/")[2] in (pages.ROOT / "tests" / name).read_text()


def test_the_command_line_page_is_what_the_parsers_say():
    assert (DOCS / "command-line.md").read_text(encoding="utf-8") == commands.page(), (
        "write it anew: python documentation/commands.py docs/command-line.md"
    )


def test_the_figures_are_drawn_and_shown():
    shown = set(re.findall(r"figures/([\w-]+)\.svg", "".join(path.read_text() for path in DOCS.rglob("*.md"))))
    assert shown == figures.FIGURES.keys() == {path.stem for path in (DOCS / "figures").iterdir()}
    for name, draw in figures.FIGURES.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8") == draw(), (
            "draw it anew: python documentation/figures.py docs/figures"
        )
        ElementTree.fromstring(draw())


def test_every_page_is_in_the_navigation():
    config = (pages.ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(config)["nav"]))
    assert sorted(listed) == sorted(page.removeprefix("docs/") for page in pages.pages()[1:])


def test_every_question_is_on_the_list_of_questions():
    listed = re.findall(r"\]\((?:\./)?([\w-]+\.md)\)", (DOCS / "questions" / "index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in (DOCS / "questions").iterdir() if path.name != "index.md")


def test_every_public_name_is_in_the_reference():
    import prefix_peft
    from prefix_peft import convert, inside

    written = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").iterdir())
    for package in (prefix_peft, inside, convert):
        source = (pages.ROOT / "src" / package.__name__.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
        names = set(re.findall(r"import \w+ as (\w+)", source)) - {"FORMATS"}
        missing = [name for name in names if f"::: {package.__name__}.{name}" not in written]
        assert not missing, f"docs/api/ has nothing of {missing} of {package.__name__}"


def test_the_errors_that_a_page_explains_are_said():
    page = (DOCS / "questions" / "loading.md").read_text(encoding="utf-8")
    said = "".join(path.read_text(encoding="utf-8") for path in (pages.ROOT / "src").rglob("*.py"))
    quoted = [text for row in re.findall(r"^\| (`.*?) \|", page, re.M) for text in re.findall(r"`(.+?)`", row)]
    assert len(quoted) == 6 and all(text in said for text in quoted), quoted
