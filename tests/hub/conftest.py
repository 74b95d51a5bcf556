"""Fixtures for tests against the loopback Hub: the server, clients in subprocesses, miniature CLIPs.

def test_something(hub, run_client):
    hub.add_repo("org/model", {"config.json": "{}"})
    client = run_client(
        '''
        from huggingface_hub import hf_hub_download

        @check
        def fresh():
            return open(hf_hub_download("org/model", "config.json")).read()

        @check
        def missing():
            hf_hub_download("org/model", "absent.json")
        ''',
        hub,
    )
    assert client["fresh"].value == "{}"
    assert client["missing"].error == "RemoteEntryNotFoundError"
    assert len(hub.asked("org/model/config.json", "GET", during="fresh")) == 1
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.hub_server import Hub
from support.miniature_clips import build_all

# Runs before the client's code, in its process. `@check` runs the function at once and keeps its value or its error,
# so that one subprocess (and one import of torch) serves many assertions; the Hub is told which check is running, so
# that requests and faults can be told apart by it.
PRELUDE = """
import json, os, sys, time, traceback, urllib.request

_results = {}


def _running(name):
    if os.environ["CLIENT_HUB_RUNS"] == "1":
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(os.environ["HF_ENDPOINT"] + "/_check/" + name).close()


def check(function):
    _running(function.__name__)
    try:
        _results[function.__name__] = {"value": function()}
    except (Exception, SystemExit) as error:
        _results[function.__name__] = {
            "error": type(error).__name__,
            "bases": [base.__name__ for base in type(error).__mro__],
            "message": str(error),
            "traceback": traceback.format_exc(),
        }
    finally:
        _running("")
    with open(os.environ["CLIENT_RESULTS"], "w") as file:
        json.dump(_results, file)
    return function


if os.environ["CLIENT_HURRIES"] == "1":
    time.sleep = lambda seconds: None
exec(compile(sys.argv[1], "<client>", "exec"), {"__name__": "__main__", "check": check})
"""


@dataclass(frozen=True)
class Outcome:
    """What one `@check` of a client gave: a value (JSON), or the class, bases and message of its error."""

    value: Any = None
    error: str | None = None
    bases: list[str] = field(default_factory=list)
    message: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Client:
    """A client that has ended: its output, its HF_HOME, and its checks by name."""

    returncode: int
    stdout: str
    stderr: str
    home: Path
    checks: dict[str, Outcome]

    def __getitem__(self, name: str) -> Outcome:
        assert name in self.checks, f"the client never got to {name!r}:\n{self.stderr}"
        return self.checks[name]

    def value(self, name: str) -> Any:
        """The value of a check that must have passed."""
        outcome = self[name]
        assert outcome.error is None, outcome.traceback
        return outcome.value

    @property
    def leftovers(self) -> list[str]:
        """Half-written files below HF_HOME."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*.incomplete"))


@pytest.fixture(scope="session")
def new_hub() -> Iterator[Callable[[], Hub]]:
    """Starts Hubs that run to the end of the session: for fixtures of a wider scope than `hub`."""
    hubs: list[Hub] = []

    def start() -> Hub:
        hubs.append(Hub().start())
        hubs[-1].add_user("hf_tester", "tester", orgs=["org"])
        return hubs[-1]

    yield start
    for server in hubs:
        server.close()


@pytest.fixture
def hub(new_hub: Callable[[], Any]) -> Iterator[Any]:
    """A running Hub with one user, of the token `hf_tester`, who writes to `tester/…` and to `org/…`."""
    server = new_hub()
    yield server
    server.close()


@pytest.fixture(scope="session")
def run_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Client]:
    """Runs Python code in a subprocess whose Hub is `hub`, and returns a `Client`.

    `home` is the HF_HOME (a fresh one if not given: pass `client.home` to keep a cache). `hurry=True` cuts the waits
    between the client's own retries, which are otherwise 1 + 2 + 4 + 8 + 8 s; the retries themselves stay. With
    `hub_runs=False` the client's checks are not announced to a Hub that is closed. `must_finish=False` allows an exit
    code other than 0. Further keywords are environment variables; None removes one.
    """

    def run(
        code: str,
        hub: Any,
        *,
        home: Path | None = None,
        hurry: bool = False,
        hub_runs: bool = True,
        timeout: float = 300,
        must_finish: bool = True,
        **env: str | None,
    ) -> Client:
        folder = tmp_path_factory.mktemp("client")
        home = home or folder / "hf_home"
        results = folder / "results.json"
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not key.lower().endswith("_proxy")
        }
        settings: dict[str, str | None] = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "TORCH_HOME": str(home / "torch"),
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "CLIENT_RESULTS": str(results),
            "CLIENT_HUB_RUNS": str(int(hub_runs)),
            "CLIENT_HURRIES": str(int(hurry)),
            **env,
        }
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE, textwrap.dedent(code)],
            env=inherited | {key: value for key, value in settings.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=folder,
        )
        assert not must_finish or done.returncode == 0, f"the client ended with {done.returncode}:\n{done.stderr}"
        checks = json.loads(results.read_text()) if results.exists() else {}
        outcomes = {name: Outcome(**outcome) for name, outcome in checks.items()}
        return Client(done.returncode, done.stdout, done.stderr, home, outcomes)

    return run


@pytest.fixture(scope="session")
def miniature_clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Miniature CLIPs by repo id, as folders in the layout of the Hub's repos (see miniature_clips.py)."""
    return build_all(tmp_path_factory.mktemp("miniature_clips"))
