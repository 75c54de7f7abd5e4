"""`toolhone export --push`, with huggingface_hub's own client and a hub on loopback that records the requests."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from toolhone.cli import main
from toolhone.errors import UserError
from toolhone.export import folder as exporting
from toolhone.export.hub import check_push, push_folder
from toolhone.export.merge import NotEqualError
from toolhone.hub import hub_fault
from toolhone.run_folder import RunFolder

# huggingface_hub's own call of its HTTP client
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

NAME = "acme/order-bot"
SHA = "d" * 40


class Hub(ThreadingHTTPServer):
    """A model hub. `files` has the texts of the repository's files, `private` says whether it exists and is private,
    `refused` maps a part of a path to the status with which requests to it end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.refused: dict[str, int] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        self.large: dict[str, bytes] = {}  # content of large files by their SHA-256

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def writes(self) -> list[str]:
        """The paths of the requests that change something."""
        return [path for _, path, _ in self.requests if any(word in path for word in ("create", "commit", "lfs"))]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self) -> None:
        hub = self.server
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0]
        hub.requests.append((self.command, path, body))
        status = next((status for part, status in hub.refused.items() if part in path), None)
        if status is not None:
            self._send(status, {"error": "refused"})
        elif path == "/api/whoami-v2":
            self._send(200, {"name": "acme", "type": "user"})
        elif path == "/api/repos/create":
            hub.private = json.loads(body)["visibility"] == "private" if hub.private is None else hub.private
            self._send(200, {"url": f"{hub.url}/{NAME}", "name": NAME, "id": NAME})
        elif path.startswith("/api/models/") and hub.private is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            named = [(one["path"], modes[one["path"].endswith(".safetensors")]) for one in files]
            self._send(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in named]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            made = [{**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}} for one in objects]
            self._send(200, {"transfer": "basic", "objects": made})
        elif path.startswith("/lfs/"):
            hub.large[path.rpartition("/")[2]] = body
            self._send(200, {})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del hub.files[value["path"]]
            self._send(200, {"commitUrl": f"{hub.url}/{NAME}/commit/{SHA}", "commitOid": SHA})
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in hub.files]
            facts = {"id": NAME, "modelId": NAME, "sha": SHA, "private": hub.private, "siblings": siblings}
            tree = [{"type": "file", "path": name, "size": 1, "oid": SHA} for name in hub.files]
            self._send(200, tree if "/tree/" in path else facts)
        elif "/resolve/" in path:
            content = hub.files[path.rpartition("/")[2]]
            self._send(200, content, {"ETag": '"1"', "X-Repo-Commit": SHA})
        else:
            self._send(200, {})

    do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815  # the names of http.server

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    made = Hub()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    template = f"{made.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    hub_fault.cache_clear()
    yield made
    hub_fault.cache_clear()
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "launch").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Order bot\n", encoding="utf-8")
    (folder / "toolhone.json").write_text('{"run": "shop"}', encoding="utf-8")
    (folder / "launch" / "vllm.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_repository_is_private_and_gets_every_file_in_one_commit(hub: Hub, export: Path) -> None:
    check_push(NAME, "shop", public=False)
    assert hub.writes() == []
    assert push_folder(export, NAME, public=False) == f"{hub.url}/{NAME}"
    assert hub.private is True
    assert hub.files == content(export)
    assert len([path for path in hub.writes() if "/commit/" in path]) == 1


def test_a_public_repository_must_be_asked_for(hub: Hub, export: Path) -> None:
    push_folder(export, NAME, public=True)
    assert hub.private is False
    with pytest.raises(UserError, match=r"--push: acme/order-bot is public; add --public"):
        check_push(NAME, "shop", public=False)
    check_push(NAME, "shop", public=True)


def test_files_of_an_earlier_export_of_the_run_are_deleted(hub: Hub, export: Path) -> None:
    hub.private = True
    kept = {".gitattributes": b"* filter=lfs"}
    hub.files = {**kept, "toolhone.json": b'{"run": "shop"}', "adapter_model.safetensors": b"old"}
    check_push(NAME, "shop", public=False)
    push_folder(export, NAME, public=False)
    assert hub.files == {**kept, **content(export)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}"}, "has files that are no export; choose another name"),
        ({"toolhone.json": b'{"run": "other"}'}, "has an export of the run other; choose another name"),
    ],
)
def test_a_repository_with_anything_else_is_refused(hub: Hub, files: dict[str, bytes], message: str) -> None:
    hub.private, hub.files = True, files
    with pytest.raises(UserError, match=rf"--push: {NAME} {message}"):
        check_push(NAME, "shop", public=False)
    assert hub.writes() == []


def test_missing_rights_are_one_error(hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refused = {"/api/repos/create": 403}
    with pytest.raises(UserError, match=r"--push: the token may not write to acme/order-bot"):
        push_folder(export, NAME, public=False)
    hub.refused = {"/lfs/": 400}
    with pytest.raises(UserError, match=r"--push: acme/order-bot: the hub refused it or broke off \(.*400"):
        push_folder(export, NAME, public=False)
    assert hub.files == {}
    hub.refused = {"/api/whoami-v2": 401}
    with pytest.raises(UserError, match=r"--push: the hub does not accept the token; run `hf auth login`"):
        check_push(NAME, "shop", public=False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/no/such/file")
    with pytest.raises(UserError, match=r"--push: you are not logged in to the hub; run `hf auth login`"):
        check_push(NAME, "shop", public=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"--push: HF_HUB_OFFLINE is set; unset it"):
        check_push(NAME, "shop", public=False)
    for name in ("order-bot", "a/b/c", "acme/ order"):
        with pytest.raises(UserError, match=r"--push: expected OWNER/NAME"):
            check_push(name, "shop", public=False)


def test_a_hub_that_does_not_answer_is_reported_before_any_work(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refused = {"": 503}
    assert main(["export", str(run.path), "--merge", "f32", "--push", NAME]) == 2
    assert "--push: cannot reach the hub" in capsys.readouterr().err
    assert not (run.path / "export").exists()


def test_an_adapter_of_a_local_model_is_not_pushed(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.path), "--push", NAME]) == 2
    assert "--push: the adapter's base model is the folder model" in capsys.readouterr().err
    assert hub.requests == []


def test_a_merged_model_is_pushed_with_licence_data_hash_and_figures(
    hub: Hub, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import metadata_load

    def different(*_: Any) -> None:
        raise NotEqualError("the merged model answers 1 of 3 prompts differently")

    arguments = ["export", str(run.path), "--merge", "f32", "--prompts", "1", "--push", NAME]
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "prove_merge", different)
        assert main(arguments) == 1
    assert hub.writes() == []
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"pushed to {hub.url}/{NAME}" in printed
    assert "licence" not in printed
    assert hub.files == content(run.path / "export" / "merged-f32")
    (tmp_path / "README.md").write_bytes(hub.files["README.md"])
    card = metadata_load(tmp_path / "README.md")
    assert card["license"] == "apache-2.0"
    result = card["model-index"][0]["results"][0]
    assert result["dataset"]["revision"] == run.read_manifest()["data"]["test"]["sha256"]
    assert {"low", "high", "numerator", "denominator"} <= set(result["metrics"][0]["args"])


def test_an_unknown_licence_is_left_out_with_a_warning(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model/README.md").unlink()
    assert main(["export", str(run.path), "--merge", "bf16", "--prompts", "1", "--push", NAME]) == 0
    assert "warning: the base model's card names no licence" in capsys.readouterr().out
    assert b"license:" not in hub.files["README.md"]
