"""What only Java programs compute: METEOR 1.5 (Denkowski & Lavie 2014), and Stanford's Penn Treebank tokeniser.

pycocoevalcap brings both, with METEOR's paraphrases.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from .bleu import padded
from .texts import Unavailable, checked

METEOR = ("meteor", "meteor-1.5.jar")
TOKENIZER = ("tokenizer", "stanford-corenlp-3.4.1.jar")


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 for English with ``-norm``, from 0 to 1; it takes a minute, mostly for reading its paraphrases.

    Raises:
        ValueError: the two lists do not fit each other.
        Unavailable: no Java, no pycocoevalcap, or Java fails.
    """
    texts, answers = checked(predictions, references)
    rows = padded(answers)
    with TemporaryDirectory() as folder:
        written, right = Path(folder, "predictions"), Path(folder, "references")
        _write(written, texts)
        _write(right, [text for row in rows for text in row])
        options = ["-l", "en", "-norm", "-r", str(len(rows[0]))]
        printed = _java("-Xmx2G", "-jar", str(_jar(*METEOR)), str(written), str(right), *options)
    found = re.search(r"^Final score:\s+(\S+)$", printed, re.MULTILINE)
    if found is None:
        raise Unavailable(f"METEOR printed no final score but {printed[-200:]!r}.")
    return float(found[1])


def treebank_tokens(texts: Sequence[str]) -> list[str]:
    """Lower-cased tokens as in the Penn Treebank, parted by spaces, without punctuation, as coco-caption has them.

    Raises:
        Unavailable: no Java, no pycocoevalcap, or Java fails.
    """
    jar = _jar(*TOKENIZER)
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    with TemporaryDirectory() as folder:
        file = Path(folder, "texts")
        _write(file, texts)
        program = "edu.stanford.nlp.process.PTBTokenizer"
        printed = _java("-cp", str(jar), program, "-preserveLines", "-lowerCase", str(file))
    lines = printed.split("\n")[: len(texts)]
    if len(lines) != len(texts):
        raise Unavailable(f"the tokeniser made {len(lines)} lines of {len(texts)} texts.")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in lines]


def lacking() -> str | None:
    """Why this module's metrics are unavailable here, or None."""
    try:
        _program()
        _jar(*METEOR)
    except Unavailable as fault:
        return str(fault)
    return None


def _jar(*path: str) -> Path:
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise Unavailable("needs pycocoevalcap, which brings METEOR; pip install prefix-peft[official]")
    return Path(package.submodule_search_locations[0], *path)


def _program() -> str:
    program = shutil.which("java")
    if program is None:
        raise Unavailable("needs Java; there is no java on the PATH")
    return program


def _java(*arguments: str) -> str:
    command = [_program(), "-Dfile.encoding=UTF-8", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise Unavailable(f"java ended with status {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout


def _write(path: Path, texts: Sequence[str]) -> None:
    """One a line, whatever in a text could end a line."""
    path.write_text("".join(" ".join(text.split()) + "\n" for text in texts), encoding="utf-8")
