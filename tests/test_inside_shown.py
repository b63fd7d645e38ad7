"""What `prefix-peft inspect --adapter` shows: pages, pictures and shades, and what it refuses."""

import re
from html.parser import HTMLParser

import pytest
import tiny
import torch
import transformers as tr

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.inside import attention_mass
from prefix_peft.inside.colours import ANCHORS, colour
from prefix_peft.inside.heatmap import HeatMap, short_names
from prefix_peft.inside.page import page
from prefix_peft.inside.picture import draw
from prefix_peft.inside.shades import shaded
from prefix_peft.inside.tables import Table

P = 5


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """A base model whose vocabulary is hostile to a page, and two prefixes for it."""
    place = tmp_path_factory.mktemp("inside")
    base, read = tiny.build("gpt2"), tiny.tokenizer()
    read.add_tokens(["<script>alert(1)</script>&\"'"])  # takes the place of no token that a text here has
    base.resize_token_embeddings(len(read), mean_resizing=False)
    base.save_pretrained(place / "base")
    read.save_pretrained(place / "base")
    for name, seed in (("one", 1), ("two", 2)):
        model = tr.GPT2LMHeadModel.from_pretrained(place / "base")
        tiny.fill(prefix_peft.wrap(model, P), seed).save_pretrained(place / name, save_embedding_layers=False)
    return place


def ran(capsys, *argv):
    status = main(["inspect", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_prefix_needs_no_option_before_its_name(on_disk, capsys):
    named, plain = (
        ran(capsys, *words, "--compare", on_disk / "two")
        for words in (("--adapter", on_disk / "one"), (on_disk / "one",))
    )
    assert named[0] == 0 and "one" in named[1] and plain == named


HOSTILE = "<script>alert(1)</script>&\"'"


class Page(HTMLParser):
    """Which tags there are, what they load, and the texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_a_page_is_whole_escaped_and_loads_nothing(on_disk, tmp_path, capsys):
    file = tmp_path / "page.html"
    text = f"t7 {HOSTILE} t8"
    given = ("--adapter", on_disk / "one", "--model", on_disk / "base", "--text", text, "--separator", " t4")
    status, out, err = ran(capsys, *given, "--words", 2, "--compare", on_disk / "two", "--html", file)
    assert status == 0, err
    read = Page(file.read_text(encoding="utf-8"))
    assert not read.open and "script" not in read.tags and HOSTILE in read.texts
    assert not {name for name, _ in read.attributes} & {"src", "href", "onclick"} and "url(" not in file.read_text()
    assert {"Attention to the prefix", "Nearest words", "Compared by site", "Norm of the keys"} <= set(read.texts)
    masses = attention_mass(*loaded(on_disk), text, separator=" t4")
    for mass in masses.sites:
        assert re.search(rf"decoder +\| {mass.site.name.split('.')[2]} +\| {100 * mass.heads.mean():.1f} ", out)
    titles = [value for name, value in read.attributes if name == "title"]
    assert f"layer 1, head 2: {100 * float(masses.sites[1].heads[2]):.3g}" in titles


def test_every_text_of_a_page_is_escaped():
    names = [HOSTILE, "$\\nonsense{$"]
    heat = HeatMap(HOSTILE, HOSTILE, names, HOSTILE, names, [[1.0, 2.0]] * 2, HOSTILE, 2.0)
    table = Table(HOSTILE, HOSTILE, names, [names])
    for words in (False, True):
        text = page(HOSTILE, [HOSTILE], [HeatMap(**vars(heat) | {"words": words}), table])
        assert "<script" not in text and HOSTILE in Page(text).texts
        assert "\"'" not in re.sub(r"<meta[^>]*>", "", text)


def test_a_name_is_no_formula(tmp_path):
    names = ["$\\nonsense{$", "b"]
    draw("T", [HeatMap("T", "r", names, "c", names, [[1.0, 2.0]] * 2, "u", 2.0, words=True)], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def loaded(place):
    from prefix_peft.commands.models import load_prefix

    return load_prefix(str(place / "base"), str(place / "one"))


def test_a_picture(on_disk, tmp_path, capsys, monkeypatch):
    text = ("--model", on_disk / "base", "--text", "t7 $t8$ t9", "--separator", " t4")
    for more in ((), text):
        file = tmp_path / "picture.PNG"
        status, out, err = ran(capsys, "--adapter", on_disk / "one", *more, "--png", file)
        assert status == 0 and f"Written: {file}" in out, err
        assert file.read_bytes().startswith(b"\x89PNG")
        file.unlink()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    status, _, err = ran(capsys, "--adapter", on_disk / "one", "--png", tmp_path / "picture.png")
    assert status == 2 and "pip install prefix-peft[plot]" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say which model (--model), or which trained prefix (--adapter), or both"),
        (("--model", "base", "--text", "t7"), "--text looks inside a trained prefix; say which one with --adapter"),
        (("--adapter", "one", "--text", "t7"), "--text needs the base model as well; say --model"),
        (("--adapter", "one", "--words", "3"), "--words needs the base model as well; say --model"),
        (("--adapter", "one", "--model", "base", "--text", " "), "--text must have words, got ' '"),
        (("--adapter", "one", "--model", "base", "--target", "t7"), "--target goes with a text; say --text"),
        (("--adapter", "one", "--model", "base", "--words", "-1"), "--words must be at least 0, got -1"),
        (("--adapter", "one", "--png", "a.jpg"), "--png writes a file that ends in .png, got 'a.jpg'"),
        (("--adapter", "one", "--html", "a.png"), "--html writes a file that ends in .html, got 'a.png'"),
        (("--adapter", "one", "--model", "base", "--text", "t7 " * 200), "the text is longer than the 128 tokens"),
        (("--adapter", "one", "--model", "other", "--text", "t7"), "was trained on another base model"),
        (("--adapter", "./no/where/at/all"), "./no/where/at/all"),
        (("--plan",), "a plan is for a model; say --model"),
        (("--model", "base", "--plan", "--html", "a.html"), "--html does not belong to a plan; leave it out"),
    ],
)
def test_what_cannot_be_looked_into(on_disk, options, message, capsys, monkeypatch):
    monkeypatch.chdir(on_disk)
    if "other" in options and not (on_disk / "other").exists():
        other, read = tiny.build("gpt2", seed=5), tr.AutoTokenizer.from_pretrained(on_disk / "base")
        other.resize_token_embeddings(len(read), mean_resizing=False)
        other.save_pretrained(on_disk / "other")
        read.save_pretrained(on_disk / "other")
    status, _, err = ran(capsys, *options)
    assert status == 2 and message in err


def test_shades_and_colours():
    heat = HeatMap("Title", "layer", ["0", "1"], "head", ["0", "1"], [[0.0, 100.0], [59.9, float("nan")]], "%", 100.0)
    lines = shaded(heat).splitlines()
    assert lines[3:5] == ["0        ██  50.0", "1     ▒▒     59.9"]
    turned = shaded(HeatMap(**vars(heat) | {"words": True, "columns": ["a", "b"]})).splitlines()
    assert turned[3:5] == ["a       ▒▒  29.9", "b    ██     100.0"]
    assert page("T", [], [heat]).count("<td></td>") == 1
    assert [colour(i / 7) for i in range(8)] == ANCHORS and colour(-1) == ANCHORS[0] and colour(2) == ANCHORS[-1]
    dark = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in map(colour, torch.linspace(0, 1, 30).tolist())]
    assert dark == sorted(dark, reverse=True)


def test_names_are_shortened_to_what_tells_them_apart():
    assert short_names(["a.h.0.attn", "a.h.1.attn"]) == ["0", "1"]
    assert short_names(["d.0.self", "d.0.cross"]) == ["self", "cross"]
    assert short_names(["a.attn"]) == ["a.attn"]
    assert short_names(["a.0.attn", "b.x.1.attn"]) == ["0", "1"]
    assert short_names(["a.0.attn", "b.x.0.attn"]) == ["a.0.attn", "b.x.0.attn"]
