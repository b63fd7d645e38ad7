"""The fields of a dataclass as a table, where a page asks for them by ``<!-- fields: package.module.Class -->``.

What they mean is said in their metadata, which no docstring repeats. The source is read and not imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ASKED = re.compile(r"<!-- fields: ([\w.]+)\.(\w+) -->")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Tables in the place of the comments."""
    source = Path(config.docs_dir, "..", "src")
    return ASKED.sub(lambda match: table(source / f"{match[1].replace('.', '/')}.py", match[2]), markdown)


def table(file: Path, name: str) -> str:
    """Name, type, default and meaning of each field that has a meaning.

    Raises:
        PluginError: the file has no such class, or the class no such field.
    """
    classes = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    rows = [row for node in classes if node.name == name for row in _rows(node)]
    if not rows:
        raise PluginError(f"{file} has no class {name} with fields that say what they mean.")
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows])


def _rows(node: ast.ClassDef) -> Iterator[str]:
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.value, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in field.value.keywords}
        if "metadata" in given:
            default = given.get("default") or ast.Call(given["default_factory"], [], [])
            cells = (field.target, field.annotation, default)
            name, kind, value = (f"<code>{ast.unparse(cell).replace('|', '&#124;')}</code>" for cell in cells)
            yield f"| {name} | {kind} | {value} | {ast.literal_eval(given['metadata'])['help']} |"
