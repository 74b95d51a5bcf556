"""A small Hub on loopback, speaking the HTTP protocol of the installed `huggingface_hub` client.

What it answers is read from the client's own source (version 2.4): `file_download.py` (HEAD and GET of
`/{repo}/resolve/{revision}/{file}`), `hf_api.py` (repo, revision, tree, ref and card endpoints), `_commit_api.py`
(preupload, commit) and `lfs.py` (batch, PUT, verify). Xet is not spoken: clients run with `HF_HUB_DISABLE_XET=1`.

As on the real Hub, small text files are served by the Hub itself and LFS files by a second host: `resolve` answers
302 with the LFS hash, size and commit in its headers and the signed address of the bytes in `Location`. The second
host here is a second port, which to the client is another origin, so it must not be sent the token.

State is plain: `hub.repos[repo_id].commits[oid].files[path]` is a `Blob`. Every request is logged in `hub.requests`,
and faults are armed with `hub.cut`, `hub.answer`, `hub.misstate_length` and `hub.replace`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

# What the Hub's default .gitattributes keeps in LFS, as far as checkpoints go. Other files go there by size or when
# their first bytes are not text.
LFS_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy", ".h5", ".onnx", ".msgpack"),
    *(".zip", ".gz", ".tar", ".tgz", ".arrow", ".parquet"),
)
LFS_SIZE = 10 * 1024 * 1024

# Of the Hub's license identifiers (hub-docs, repositories-licenses.md), those that models here have.
LICENSES = ("apache-2.0", "mit", "cc-by-nc-4.0", "unknown", "other")
FRONT_MATTER = re.compile(r"\A\s*---(?:\r\n|\r|\n)(.*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Blob:
    """One file's bytes, and whether the Hub keeps them in LFS."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def git_oid(self) -> str:
        """Git's hash of the blob: of the pointer file for LFS."""
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def entry(self, path: str) -> dict[str, Any]:
        """This file as `/tree` and `/paths-info` list it."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data), "oid": self.git_oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    """A snapshot of the repo: all its files, not the difference to the parent."""

    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """A model repo: commits by id, and branches and tags that point at them."""

    repo_id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit | None:
        """The commit that a branch, tag or commit id (7 digits or more) names."""
        for refs in (self.branches, self.tags):
            if revision in refs:
                return self.commits[refs[revision]]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            return next((commit for oid, commit in self.commits.items() if oid.startswith(revision)), None)
        return None

    def add(self, files: Mapping[str, Blob], parent: str | None, title: str) -> Commit:
        listing = "\n".join(f"{blob.git_oid} {path}" for path, blob in sorted(files.items()))
        oid = hashlib.sha1(f"{self.repo_id}\n{parent}\n{title}\n{listing}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, dict(files))
        return self.commits[oid]


@dataclass(frozen=True)
class User:
    """The owner of a token: writes to `name` and `orgs`."""

    name: str
    orgs: tuple[str, ...] = ()

    def owns(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)


@dataclass
class Request:
    """One logged request. `target` is `repo/file` for file bytes and metadata, and the plain path otherwise."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    host: str
    during: str | None
    target: str = ""
    status: int | None = None

    @property
    def token(self) -> str | None:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme == "Bearer" else None


@dataclass
class Fault:
    """What goes wrong with the requests whose method and target match, `times` times (None: always).

    `during` limits it to one check of a client script (see `run_client` in conftest.py).
    """

    target: str
    method: str
    times: int | None
    during: str | None
    status: int | None = None
    change: Callable[[bytes], bytes] | None = None
    length_error: int = 0
    cut_after: int | None = None
    reset: bool = False

    def takes(self, request: Request) -> bool:
        """Whether the fault hits this request; counts it if so."""
        hit = (
            self.times != 0
            and self.method in ("*", request.method)
            and self.during in (None, request.during)
            and (fnmatchcase(request.target, self.target) or fnmatchcase(request.path, self.target))
        )
        if hit and self.times is not None:
            self.times -= 1
        return hit


class HubError(Exception):
    """An answer other than success, with the headers by which the client tells its causes apart."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        line = " ".join(message.split()).encode("ascii", "replace").decode()
        self.headers = {"X-Error-Message": line, **({"X-Error-Code": code} if code else {}), **headers}


class Hub:
    """The server and its state. Use as a context manager, or call `start` and `close`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users: dict[str, User] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.during: str | None = None
        self.signature = secrets.token_hex(16)
        self.lock = threading.RLock()
        self._servers: dict[str, _Server] = {}
        self._closed = False

    # -- running

    def start(self) -> Hub:
        for host in ("hub", "storage"):
            server = _Server(("127.0.0.1", 0), _Handler)
            server.hub, server.host = self, host
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            self._servers[host] = server
        return self

    def close(self) -> None:
        """Stops listening: from then on connections to `endpoint` are refused. A second time does nothing."""
        if not self._closed:
            self._closed = True
            for server in self._servers.values():
                server.shutdown()
                server.server_close()

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def url(self, host: str) -> str:
        return f"http://127.0.0.1:{self._servers[host].server_address[1]}"

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT."""
        return self.url("hub")

    # -- contents

    def add_user(self, token: str, name: str, orgs: Iterable[str] = ()) -> str:
        """Makes `token` valid for a new user, and returns it."""
        self.users[token] = User(name, tuple(orgs))
        return token

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str | Path] | Path | None = None,
        *,
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Creates a repo with one commit holding `files` (a mapping, or a folder), and returns the commit id."""
        with self.lock:
            self.repos[repo_id] = Repo(repo_id, private, gated)
            return self.commit(repo_id, {} if files is None else files, title="initial commit")

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str | Path] | Path,
        *,
        revision: str = "main",
        title: str = "commit",
    ) -> str:
        """Commits to a branch (new ones start from main), and returns the commit id."""
        if isinstance(files, Path):
            root = files
            files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
        with self.lock:
            repo = self.repos[repo_id]
            parent = repo.resolve(revision) or repo.resolve("main")
            merged = dict(parent.files if parent else {})
            for path, content in files.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                data = data.encode() if isinstance(data, str) else data
                merged[path] = Blob(data, _is_lfs(path, len(data), data[:512]))
            commit = repo.add(merged, parent.oid if parent else None, title)
            repo.branches[revision] = commit.oid
            return commit.oid

    def tag(self, repo_id: str, name: str, revision: str = "main") -> None:
        repo = self.repos[repo_id]
        commit = repo.resolve(revision)
        if commit is None:
            raise KeyError(f"{repo_id} has no revision {revision}")
        repo.tags[name] = commit.oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The bytes of every file of a revision."""
        commit = self.repos[repo_id].resolve(revision)
        if commit is None:
            raise KeyError(f"{repo_id} has no revision {revision}")
        return {path: blob.data for path, blob in commit.files.items()}

    # -- what was asked for

    def asked(self, target: str = "*", method: str = "*", during: str | None = None) -> list[Request]:
        """Logged requests whose target (or path) matches the pattern, in order of arrival."""
        return [
            request
            for request in self.requests
            if method in ("*", request.method)
            and during in (None, request.during)
            and (fnmatchcase(request.target, target) or fnmatchcase(request.path, target))
        ]

    # -- faults; `target` is a shell pattern over `repo/file` or over the path of the request

    def cut(
        self,
        target: str,
        *,
        after: int = 0,
        method: str = "GET",
        times: int | None = 1,
        reset: bool = False,
        during: str | None = None,
    ) -> Fault:
        """Ends the connection after `after` bytes of the body; `reset` ends it with RST instead of FIN."""
        return self._arm(Fault(target, method, times, during, cut_after=after, reset=reset))

    def answer(
        self,
        target: str,
        status: int,
        *,
        method: str = "*",
        times: int | None = None,
        during: str | None = None,
    ) -> Fault:
        """Answers with this status. `times=2` with 503 is a Hub that is back at the third try."""
        return self._arm(Fault(target, method, times, during, status=status))

    def misstate_length(
        self, target: str, by: int, *, method: str = "GET", times: int | None = None, during: str | None = None
    ) -> Fault:
        """States a length that is off by `by`: Content-Length on GET, and X-Linked-Size too on HEAD."""
        return self._arm(Fault(target, method, times, during, length_error=by))

    def replace(
        self,
        target: str,
        change: Callable[[bytes], bytes],
        *,
        times: int | None = None,
        during: str | None = None,
    ) -> Fault:
        """Serves other bytes under the true hash, with lengths that agree with what is served, on HEAD and GET.

        The client checks lengths only, so this is the damage that it does not notice: `flip_bit` below, or
        `lambda data: data[:100]` for a file truncated on the server, or `lambda data: b""`.
        """
        return self._arm(Fault(target, "*", times, during, change=change))

    @staticmethod
    def flip_bit(data: bytes) -> bytes:
        """The same bytes but for one bit of the last byte: in safetensors, the last tensor's last value."""
        return data[:-1] + bytes([data[-1] ^ 0x40])

    def _arm(self, fault: Fault) -> Fault:
        with self.lock:
            self.faults.append(fault)
        return fault


def _is_lfs(path: str, size: int, sample: bytes) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size >= LFS_SIZE or b"\0" in sample)


def check_card(content: str) -> list[str]:
    """Errors of a model card, by one of the Hub's rules (hub-docs, modelcard.md): `license` is a known identifier."""
    match = FRONT_MATTER.match(content)
    licence = (yaml.safe_load(match[1]) or {}).get("license", "unknown") if match else "unknown"
    return [] if licence in LICENSES else [f'"license" must be one of [{", ".join(LICENSES)}]']


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: Hub
    host: str

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up (a killed subprocess, a cut connection) is no error of ours."""


@dataclass
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _json(data: Any, status: int = 200, **headers: str) -> _Answer:
    return _Answer(status, json.dumps(data).encode(), {"Content-Type": "application/json; charset=utf-8", **headers})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_request(self) -> None:
        hub = self.server.hub
        body = self._read_body()
        url = urlsplit(self.path)
        if url.path.startswith("/_check/"):
            hub.during = unquote(url.path.removeprefix("/_check/")) or None
            self._send(_Answer(204))
            return
        headers = {key.lower(): value for key, value in self.headers.items()}
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, unquote(url.path), query, headers, self.server.host, hub.during)
        request.target = _target(url.path, query)
        with hub.lock:
            hub.requests.append(request)
            fault = next((fault for fault in hub.faults if fault.takes(request)), None)
            if fault is not None and fault.status is not None:
                answer = _error(HubError(fault.status, f"injected {fault.status}"))
            else:
                try:
                    route = _storage if self.server.host == "storage" else _hub
                    answer = route(hub, request, url.path, body)
                except HubError as error:
                    answer = _error(error)
        self._send(answer, request, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_request  # noqa: N815

    def _read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, answer: _Answer, request: Request | None = None, fault: Fault | None = None) -> None:
        body, headers = answer.body, dict(answer.headers)
        good = answer.status < 400
        if fault is not None and good and fault.change is not None:
            body, headers = self._changed(body, headers, fault.change)
        if request is not None and request.method == "GET" and answer.status == 200 and "ETag" in headers:
            answer.status, body = self._range(body, headers)
        length = int(headers.pop("Content-Length", len(body)))
        if fault is not None and good:
            length = max(0, length + fault.length_error)
            if fault.length_error and "X-Linked-Size" in headers:
                headers["X-Linked-Size"] = str(int(headers["X-Linked-Size"]) + fault.length_error)
        headers["Content-Length"] = str(length)
        if request is not None:
            request.status = answer.status

        self.send_response(answer.status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            if fault is not None and fault.cut_after is not None:
                self._hang_up(fault.reset)
            return
        if fault is not None and good and fault.cut_after is not None:
            self.wfile.write(body[: fault.cut_after])
            self._hang_up(fault.reset)
            return
        self.wfile.write(body)
        if fault is not None and fault.length_error:
            self._hang_up(False)

    def _changed(
        self, body: bytes, headers: dict[str, str], change: Callable[[bytes], bytes]
    ) -> tuple[bytes, dict[str, str]]:
        """The body of a GET changed; for a redirect, the size that it states for the bytes elsewhere."""
        if "X-Linked-Size" in headers:
            blob = self.server.hub.objects[headers["X-Linked-ETag"].strip('"')]
            return body, {**headers, "X-Linked-Size": str(len(change(blob)))}
        return (change(body), headers) if "ETag" in headers else (body, headers)

    def _range(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 200, body
        first, last = int(match[1]), min(int(match[2] or len(body)), len(body) - 1)
        if first >= len(body):
            headers["Content-Range"] = f"bytes */{len(body)}"
            return 416, b""
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        return 206, body[first : last + 1]

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _error(error: HubError) -> _Answer:
    return _json({"error": error.message}, error.status, **error.headers)


RESOLVE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
LFS = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/(?P<verb>batch|verify)")
MODEL_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>[a-z-]+)(?:/(?P<rest>.*))?)?")


def _target(path: str, query: dict[str, list[str]]) -> str:
    """`repo/file` for requests of a file, on either host; the path otherwise."""
    if match := RESOLVE.fullmatch(path):
        return f"{unquote(match['repo'])}/{unquote(match['file'])}"
    return query["file"][0] if "file" in query else unquote(path)


def _user(hub: Hub, request: Request) -> User | None:
    if "authorization" not in request.headers:
        return None
    user = hub.users.get(request.token or "")
    if user is None:
        raise HubError(401, "Invalid credentials in Authorization header")
    return user


def _repo(hub: Hub, request: Request, repo_id: str, *, write: bool = False) -> Repo:
    """The repo, if this user may see it (and write to it).

    A private repo is to others as if it did not exist. The Hub's 401 for anonymous users carries no error code that
    the client needs, but the client only reads such a 401 as "repository not found" over https, so it is stated here.
    """
    user, repo = _user(hub, request), hub.repos.get(repo_id)
    if repo is None or (repo.private and (user is None or not user.owns(repo_id))):
        if user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    if write and user is None:
        raise HubError(401, "Invalid username or password.")
    if write and not (user and user.owns(repo_id)):
        raise HubError(403, "Forbidden: pass the `create_pr=1` query parameter or use a token with write access")
    return repo


def _commit(repo: Repo, revision: str) -> Commit:
    commit = repo.resolve(unquote(revision))
    if commit is None:
        raise HubError(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
    return commit


def _storage(hub: Hub, request: Request, path: str, body: bytes) -> _Answer:
    """The host of LFS bytes: signed addresses, no tokens."""
    if request.query.get("signature") != [hub.signature]:
        raise HubError(403, "Access denied: the address is not signed")
    oid = path.rsplit("/", 1)[-1]
    if request.method == "PUT":
        if hashlib.sha256(body).hexdigest() != oid:
            raise HubError(400, "The content does not have the hash of its address")
        hub.objects[oid] = body
        return _Answer(200, b"", {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})
    if oid not in hub.objects:
        raise HubError(404, "No such object")
    return _Answer(200, hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def _hub(hub: Hub, request: Request, path: str, body: bytes) -> _Answer:
    """The Hub itself."""
    if match := RESOLVE.fullmatch(path):
        return _resolve(hub, request, unquote(match["repo"]), match["revision"], unquote(match["file"]))
    if match := LFS.fullmatch(path):
        return _lfs(hub, request, match["repo"], match["verb"], json.loads(body))
    if match := MODEL_API.fullmatch(path):
        return _model_api(hub, request, match["repo"], match["verb"] or "revision", match["rest"], body)
    if path == "/api/validate-yaml":
        errors = check_card(json.loads(body)["content"])
        messages = {"errors": [{"message": m} for m in errors], "warnings": []}
        return _json(messages, 400 if errors else 200)
    if path == "/api/repos/create":
        return _create_repo(hub, request, json.loads(body))
    raise HubError(404, f"Sorry, we can't find {request.method} {request.path}")


def _resolve(hub: Hub, request: Request, repo_id: str, revision: str, file: str) -> _Answer:
    repo = _repo(hub, request, repo_id)
    if repo.gated:
        user = _user(hub, request)
        if user is None:
            raise HubError(401, f"Access to model {repo_id} is restricted. Please log in.", "GatedRepo")
        if not user.owns(repo_id):
            raise HubError(403, f"Access to model {repo_id} is restricted: ask for access.", "GatedRepo")
    commit = _commit(repo, revision)
    blob = commit.files.get(file)
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if not blob.lfs:
        return _Answer(200, blob.data, {**headers, "ETag": f'"{blob.etag}"', "Content-Type": "text/plain"})
    hub.objects[blob.sha256] = blob.data
    linked = {
        "X-Linked-ETag": f'"{blob.sha256}"',
        "X-Linked-Size": str(len(blob.data)),
        "Location": _signed(hub, repo_id, blob.sha256, f"{repo_id}/{file}"),
    }
    return _Answer(302, b"", {**headers, **linked})


def _signed(hub: Hub, repo_id: str, oid: str, file: str) -> str:
    return f"{hub.url('storage')}/repos/{repo_id}/{oid}?file={quote(file, safe='')}&signature={hub.signature}"


def _lfs(hub: Hub, request: Request, repo_id: str, verb: str, payload: dict[str, Any]) -> _Answer:
    _repo(hub, request, repo_id, write=True)
    if verb == "verify":
        if len(hub.objects.get(payload["oid"], b"")) != payload["size"]:
            raise HubError(422, "The object was not uploaded, or not whole")
        return _json({})
    objects = []
    for item in payload["objects"]:
        entry = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in hub.objects:
            upload = _signed(hub, repo_id, item["oid"], f"{repo_id}/{item['oid']}")
            verify = f"{hub.endpoint}/{repo_id}.git/info/lfs/objects/verify"
            entry["actions"] = {"upload": {"href": upload, "header": {}}, "verify": {"href": verify, "header": {}}}
        objects.append(entry)
    return _json({"transfer": "basic", "objects": objects})


def _create_repo(hub: Hub, request: Request, payload: dict[str, Any]) -> _Answer:
    user = _user(hub, request)
    if user is None:
        raise HubError(401, "Invalid username or password.")
    repo_id = f"{payload.get('organization') or user.name}/{payload['name']}"
    if not user.owns(repo_id):
        raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{repo_id}"')
    body = {"url": f"{hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id}
    if repo_id in hub.repos:
        return _json({**body, "error": "You already created this model repo"}, 409)
    private = payload.get("visibility") == "private" or bool(payload.get("private"))
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    hub.add_repo(repo_id, {".gitattributes": attributes}, private=private)
    return _json(body)


def _model_api(hub: Hub, request: Request, repo_id: str, verb: str, rest: str | None, body: bytes) -> _Answer:
    method = request.method
    writes = verb in ("preupload", "commit", "branch")
    repo = _repo(hub, request, unquote(repo_id), write=writes)
    revision, _, path = (rest or "main").partition("/")
    if verb == "revision" and method == "GET":
        return _info(repo, _commit(repo, revision))
    if verb == "tree" and method == "GET":
        recursive = request.query.get("recursive", ["false"])[0].lower() in ("1", "true")
        return _json(_tree(_commit(repo, revision), unquote(path), recursive))
    if verb == "preupload" and method == "POST":
        return _preupload(_commit(repo, revision), json.loads(body))
    if verb == "commit" and method == "POST":
        return _apply_commit(hub, repo, unquote(revision), request, body)
    if verb == "branch" and method == "POST":
        return _add_branch(repo, unquote(revision), json.loads(body or b"{}"))
    raise HubError(404, f"Sorry, we can't find {method} {request.path}")


def _info(repo: Repo, commit: Commit) -> _Answer:
    info = {
        "_id": hashlib.sha1(repo.repo_id.encode()).hexdigest()[:24],
        "id": repo.repo_id,
        "sha": commit.oid,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
    }
    return _json(info)


def _tree(commit: Commit, under: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{under.rstrip('/')}/" if under else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folder = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(f"{commit.oid}{folder}".encode()).hexdigest()
            entries.setdefault(folder, {"type": "directory", "path": folder, "oid": oid, "size": 0})
        if recursive or len(parts) == 1:
            entries[path] = blob.entry(path)
    if under and not entries:
        raise HubError(404, f"{under} does not exist on this revision", "EntryNotFound")
    return list(entries.values())


def _preupload(commit: Commit, payload: dict[str, Any]) -> _Answer:
    files = []
    for file in payload["files"]:
        lfs = _is_lfs(file["path"], file["size"], base64.b64decode(file["sample"]))
        entry = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if file["path"] in commit.files:
            entry["oid"] = commit.files[file["path"]].etag
        files.append(entry)
    return _json({"files": files, "commitOid": commit.oid})


def _apply_commit(hub: Hub, repo: Repo, revision: str, request: Request, body: bytes) -> _Answer:
    """One commit from the ndjson of operations; nothing changes unless all of them are good."""
    base = _commit(repo, revision)
    files = dict(base.files)
    title = ""
    for line in body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            title = value["summary"]
            expected = value.get("parentCommit")
            if expected is not None and not base.oid.startswith(expected):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            content = value["content"]
            data = base64.b64decode(content) if value.get("encoding") == "base64" else content.encode()
            files[value["path"]] = Blob(data, lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in hub.objects:
                raise HubError(400, f"LFS pointer of {value['path']} points to a file that does not exist")
            files[value["path"]] = Blob(hub.objects[value["oid"]], lfs=True)
        else:
            raise HubError(400, f"Unknown commit operation {key}")
    if "README.md" in files:
        errors = check_card(files["README.md"].data.decode(errors="replace"))
        if errors:
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors)[:500])

    commit = repo.add(files, base.oid, title)
    url = f"{hub.endpoint}/{repo.repo_id}"
    answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
    if revision not in repo.branches:
        raise HubError(400, f"{revision} is not a branch")
    repo.branches[revision] = commit.oid
    return _json(answer)


def _add_branch(repo: Repo, name: str, payload: dict[str, Any]) -> _Answer:
    if name in repo.branches:
        raise HubError(409, f"Reference already exists: {name}")
    repo.branches[name] = _commit(repo, payload.get("startingPoint", "main")).oid
    return _json({})
