"""A stand-in for the Hugging Face hub on this machine, which counts the bytes it hands out."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves the files of one folder as the model ``repository``."""

    def __init__(self, folder: Path, repository: str) -> None:
        self.folder = folder
        self.repository = repository
        self.bytes_read: dict[str, int] = {}
        """Bytes handed out of each file."""
        self.endpoint = ""

    def answer(self, path: str, byte_range: str | None) -> tuple[int, bytes]:
        """Status and body for a GET request."""
        path = unquote(urlsplit(path).path)
        api, files = f"/api/models/{self.repository}", f"/{self.repository}/resolve/"
        if path == api or re.fullmatch(rf"{api}/revision/(main|{COMMIT})", path):
            card = {"license": "apache-2.0"}
            return 200, json.dumps({"id": self.repository, "sha": COMMIT, "cardData": card}).encode()
        if path.startswith(f"{api}/tree/"):
            return 200, json.dumps([self.entry(file) for file in sorted(self.folder.iterdir())]).encode()
        if path.startswith(files):
            return self.content(path.removeprefix(files).split("/", 1)[1], byte_range)
        return 404, b"{}"

    def entry(self, file: Path) -> dict[str, object]:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        size = file.stat().st_size
        lfs = {"oid": digest, "size": size, "pointerSize": 130} if file.suffix == ".safetensors" else None
        return {"type": "file", "path": file.name, "size": size, "oid": digest[:40], "lfs": lfs}

    def content(self, name: str, byte_range: str | None) -> tuple[int, bytes]:
        content = (self.folder / name).read_bytes()
        if byte_range:
            first, last = byte_range.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        self.bytes_read[name] = self.bytes_read.get(name, 0) + len(content)
        return 206 if byte_range else 200, content


@contextmanager
def serve(folder: Path, repository: str) -> Iterator[FakeHub]:
    """Run a hub with one repository until the block is left."""
    hub = FakeHub(folder, repository)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = hub.answer(self.path, self.headers["Range"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
