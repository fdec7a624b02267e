"""What tests of several modules share."""

import contextlib
import os
import shutil
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# the same examples everywhere; how long one takes is the affair of the machine
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
# an example that fails is all that mutation testing asks for, not the smallest one
settings.register_profile("mutation", settings.get_profile("project"), phases=(Phase.explicit, Phase.generate))

# a shell starts what goes to the background with SIGINT ignored, and Python leaves it so
signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell")
"""Names to look for on the PATH; a Chromium that Playwright downloaded is found as well."""


# in a file, so that processes can import it
KILLER = """
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longattn.expressions import column
from longattn.scorers import Scorer


@dataclass(frozen=True)
class Killer(Scorer):
    name: ClassVar[str] = "killer"

    def measurement(self):
        return {}

    def schema(self):
        return {"killer": "float64"}

    def measure(self, windows, layers):
        if any(window.doc_id == "poison" for window in windows):
            os._exit(1)
        return {"killer": np.zeros(len(windows))}

    def score(self):
        return column("killer")
"""


@pytest.fixture
def generator():
    """Torch's random numbers, the same in every test."""
    torch = pytest.importorskip("torch")
    return torch.Generator().manual_seed(20260722)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A random Llama of two layers whose tokens are bytes."""
    from longattn.testing import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


class ObjectStore:
    """An S3 server on this machine (moto's), with a record of its requests, faults on demand and a bucket by test."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Handler(WSGIRequestHandler):
            # clients of S3 keep connections open
            protocol_version = "HTTP/1.1"

            def log(self, *_: object) -> None:
                pass

        self._application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.options = f"?endpoint_override=127.0.0.1:{self._server.server_port}&scheme=http&region=us-east-1"
        self.begin()

    def begin(self) -> None:
        """A new bucket, no faults, no request yet."""
        self.create(f"bucket-{uuid.uuid4().hex[:12]}")
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and query."""
        self.fault: Callable[[str, str, str], str | None] = lambda method, path, query: None
        """What to answer instead, such as ``503 Slow Down``; ``cut`` for half of the answer, None for all of it."""

    def create(self, bucket: str) -> None:
        """A new bucket, the one that is meant from now on."""
        self._backend.create_bucket(bucket, "us-east-1")
        self.bucket = bucket

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environment: dict, start: Callable) -> Iterable[bytes]:
        request = tuple(environment[name] for name in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"))
        self.requests.append(request)
        status = self.fault(*request)
        if status == "cut":
            return self._half(environment, start)
        if status:
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            start(status, [("Content-Length", "0")])
            return [b""]
        return self._application(environment, start)

    def _half(self, environment: dict, start: Callable) -> Iterable[bytes]:
        answer = b"".join(self._application(environment, start))
        yield answer[: len(answer) // 2]
        # the server closes the connection
        raise ConnectionAbortedError

    @property
    def _backend(self):
        from moto.s3.models import s3_backends

        return s3_backends["123456789012"]["aws"]

    def address(self, name: str) -> str:
        """The URI of something in the bucket."""
        return f"s3://{self.bucket}/{name}{self.options}"

    def put(self, name: str, content: bytes) -> None:
        """Write an object, past the network."""
        self._backend.put_object(self.bucket, name, content)

    def delete(self, name: str) -> None:
        """Delete an object, past the network."""
        self._backend.delete_object(self.bucket, name)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """The content of every object below a prefix, by the rest of its name; folders' own objects are left out."""
        keys = self._backend.buckets[self.bucket].keys
        named = {name: keys[name].value for name in keys.keys() if name.startswith(prefix)}  # noqa: SIM118
        return {name.removeprefix(prefix): value for name, value in named.items() if not name.endswith("/")}

    @property
    def unfinished_uploads(self) -> int:
        """Uploads in parts that were begun and neither completed nor aborted."""
        return len(self._backend.buckets[self.bucket].multiparts)

    def count(self) -> Counter[str]:
        """Requests since the last count, by kind: ``PUT``, ``LIST``, ..."""
        kinds = ("LIST" if "list-type" in query else method for method, _, query in self.requests)
        counted = Counter(kinds)
        self.requests = []
        return counted


@pytest.fixture(scope="session")
def s3_server():
    """The server, begun once."""
    pytest.importorskip("moto")
    server = ObjectStore()
    yield server
    server.stop()


@pytest.fixture
def object_store(s3_server, monkeypatch, tmp_path):
    """The server with an empty bucket, its credentials, and a cache folder of this test's own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LONGATTN_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3_server.begin()
    return s3_server


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, for tests of pages as a person sees them; skips where there is none.

    It is started for each test file anew: while Playwright is at work, no other test may run an event loop.
    """
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'")
    named = os.environ.get("LONGATTN_CHROMIUM")
    found = [named] if named else filter(None, map(shutil.which, CHROMIUMS))
    program = next(iter(found), None)
    with api.sync_playwright() as playwright:
        try:
            # without a program, one that Playwright has downloaded
            chromium = playwright.chromium.launch(executable_path=program)
        except api.Error:
            if program:
                raise
            pytest.skip("no Chromium: `make browser` installs one, LONGATTN_CHROMIUM=FILE names one")
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open an HTML file as ``open_page(path, width=1280, ...)``; the test fails at its end if the page was at fault.

    At fault is a page that logs an error or warning, breaks its content security policy, throws, or asks for any file
    but itself. ``options`` go to Playwright's ``new_context``: ``color_scheme="dark"``, ``java_script_enabled=False``,
    ``has_touch=True``.
    """
    faults: list[str] = []
    contexts = []

    def open_one(path: Path, width: int = 1280, height: int = 800, **options):
        options = {"color_scheme": "light", "reduced_motion": "reduce"} | options
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        address = path.resolve().as_uri()
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: None if asked.url.split("#")[0] == address else faults.append(asked.url))
        page.goto(address)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not faults, faults


@pytest.fixture
def accessibility_findings():
    """Call with an open page: what axe-core finds against WCAG 2.2 A and AA, as ``rule (impact): elements``."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def find(page, least: str = "serious") -> list[str]:
        impacts = ("minor", "moderate", "serious", "critical")
        found = axe.run(page).response["violations"]
        return [
            f"{rule['id']} ({rule['impact']}): " + "; ".join(node["html"][:200] for node in rule["nodes"][:3])
            for rule in found
            if impacts.index(rule["impact"]) >= impacts.index(least)
        ]

    return find


@pytest.fixture(scope="session")
def ray(tmp_path_factory):
    """The engine ray with one Ray for all tests, which takes seconds to start; its workers can import ``killer``."""
    from longattn.engines import ray as engine
    from longattn.errors import RunError
    from longattn.settings import Compute

    folder = tmp_path_factory.mktemp("modules")
    (folder / "killer.py").write_text(KILLER)
    with pytest.MonkeyPatch.context() as patch:
        # Ray starts the processes of workers with our variables
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        patch.syspath_prepend(folder)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(engine.connection(Compute(engine="ray", ray_workers=8)))
            except RunError as error:
                if "does not start" not in str(error):
                    raise
                pytest.skip(str(error))
            yield engine
