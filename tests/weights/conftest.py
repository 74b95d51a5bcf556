"""Fixtures for tests against the loopback Hub: the server, clients in processes of their own, miniature CLIPs.

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

import importlib
import json
import os
import sys
import textwrap
import time
import traceback
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import close_session

from support.hub_server import Hub
from support.miniature_clips import build_all
from support.processes import forked


def run_checks(code: str, hub: Hub, results: Path, hub_runs: bool) -> None:
    """Run a client's code. Its `@check` runs the function at once and keeps its value or its error.

    The Hub is told which check is running, so that requests and faults can be told apart by it.
    """
    outcomes: dict[str, Any] = {}

    def running(name: str) -> None:
        if hub_runs:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"{hub.endpoint}/_check/{name}").close()

    def check(function: Callable[[], Any]) -> Callable[[], Any]:
        running(function.__name__)
        try:
            outcomes[function.__name__] = {"value": function()}
        except (Exception, SystemExit) as error:
            outcomes[function.__name__] = {
                "error": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
        finally:
            running("")
        results.write_text(json.dumps(outcomes))
        return function

    exec(compile(code, "<client>", "exec"), {"__name__": "__main__", "check": check})


def become_client(environment: dict[str, str], folder: Path) -> None:
    """Make of a fork what a new process with this environment would be, as far as huggingface_hub goes."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    warnings.simplefilter("default")
    importlib.reload(huggingface_hub.constants)  # it reads the environment when it is imported
    huggingface_hub.hf_api.api.endpoint = huggingface_hub.constants.ENDPOINT
    if "transformers.utils.hub" in sys.modules:
        sys.modules["transformers.utils.hub"]._hf_api = None  # a client of its own, for the endpoint that was
    close_session()


@dataclass(frozen=True)
class Outcome:
    """What one `@check` of a client gave: a value (JSON), or the class and message of its error."""

    value: Any = None
    error: str | None = None
    message: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Client:
    """A client that has ended: its HF_HOME, and its checks by name."""

    home: Path
    checks: dict[str, Outcome]

    def __getitem__(self, name: str) -> Outcome:
        assert name in self.checks, f"the client never got to {name!r}"
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
    """Run Python code in a process whose Hub is `hub`, and return a `Client`.

    It is a fork of this process, so that it need not import torch again. `home` is the HF_HOME (a fresh one if not
    given: pass `client.home` to keep a cache). `hurry=True` cuts the waits between the client's own retries, which are
    otherwise 1 + 2 + 4 + 8 + 8 s; the retries themselves stay. With `hub_runs=False` the client's checks are not
    announced to a Hub that is closed. Further keywords are environment variables; None removes one.
    """

    def run(
        code: str,
        hub: Any,
        *,
        home: Path | None = None,
        hurry: bool = False,
        hub_runs: bool = True,
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
            "NO_PROXY": "127.0.0.1",
            **env,
        }
        environment = inherited | {key: value for key, value in settings.items() if value is not None}

        def client() -> None:
            become_client(environment, folder)
            if hurry:
                time.sleep = lambda seconds: None
            run_checks(textwrap.dedent(code), hub, results, hub_runs)

        assert forked(client) == 0
        checks = json.loads(results.read_text()) if results.exists() else {}
        return Client(home, {name: Outcome(**outcome) for name, outcome in checks.items()})

    return run


@pytest.fixture(scope="session")
def miniature_clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Miniature CLIPs by repo id, as folders in the layout of the Hub's repos (see miniature_clips.py)."""
    return build_all(tmp_path_factory.mktemp("miniature_clips"))
