"""A Hugging Face Hub on the loopback interface: what publishing and loading a model asks of one, no more.

    with HubServer() as hub:
        HF_ENDPOINT=hub.url HF_TOKEN=anything ...

``uploads`` says how weights come: "regular" (in the commit) or "lfs" (by a PUT before it, with HF_HUB_DISABLE_XET=1).
``cut[part] = n`` ends the next n requests or answers of a part in their middle: "put", "commit" or the name of a file.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

from hub_routes import ROUTES, Asked, Hub, Refused


class HubServer(Hub):
    """A hub that is served while its ``with`` block runs."""

    def __init__(self, uploads: str = "regular") -> None:
        super().__init__(uploads)
        self.cut: dict[str, int] = {}
        self.asked: list[str] = []  # methods and paths

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.handle_error = lambda *_: None  # a client may go away
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def is_cut(self, part: str) -> bool:
        """Whether it is now, once less from then on."""
        left = self.cut.get(part, 0)
        self.cut[part] = max(0, left - 1)
        return left > 0


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_) -> None:
        """Say nothing."""

    def answer(self) -> None:
        """Find the route, and reply with what it returns: JSON, or bytes with headers."""
        url = urlsplit(self.path)
        path, length = unquote(url.path), int(self.headers.get("Content-Length", 0))
        self.hub.asked.append(f"{self.command} {path}")
        part = "put" if self.command == "PUT" else "commit" if "/commit/" in path else ""
        if part and self.hub.is_cut(part):
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = Asked(token, self.rfile.read(length), "create_pr" in parse_qs(url.query))
        try:
            self.reply(200, *self.routed(path, asked))
        except Refused as refused:
            self.reply(refused.status, json.dumps(refused.content).encode(), refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def routed(self, path: str, asked: Asked) -> tuple[bytes, dict[str, str]]:
        """The body and the headers of an answer."""
        for methods, pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods:
                given = {name: value for name, value in found.groupdict().items() if value is not None}
                content = route(self.hub, asked, **given)
                return content if isinstance(content, tuple) else (json.dumps(content).encode(), {})
        raise Refused(404, "EntryNotFound")

    def reply(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Send it, or the part that was asked for, or half of that."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200:
            first, total = int(wanted[1]), len(data)
            status, data = 206, data[first : int(wanted[2]) + 1 if wanted[2] else None]
            headers = headers | {"Content-Range": f"bytes {first}-{first + len(data) - 1}/{total}"}
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.close_connection |= (cut := self.hub.is_cut(self.path.rsplit("/", 1)[-1]))
        self.wfile.write(data[: len(data) // 2] if cut else data)


@contextmanager
def environment(directory: Path) -> Iterator[dict[str, str]]:
    """A Hub for programs that are started inside: the variables by which they find it, logged in, with a cache here."""
    with HubServer() as server:
        yield {
            "HF_ENDPOINT": server.url, "HF_TOKEN": "anything", "HF_HOME": str(directory / "huggingface"),
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
