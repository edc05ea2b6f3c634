"""Downloads through the Hugging Face cache, against a hub made of two local servers: the hub itself and the store it redirects large files to. More than 400
lines: the servers and every case that drives them share one set of fixtures."""
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import conftest
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = bytes(range(256)) * 4096  # 1 MiB
FILES = {
    "config.json": b'{"model_type": "qwen3"}\n',
    "tokenizer.json": b'{"version": "1.0"}\n',
    "model.safetensors": LARGE,
    "pytorch_model.bin": b"never",
    "sub folder/extra.json": b"{}",
}


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name):
    return name.endswith(".safetensors")


def etag(name, content):
    return hashlib.sha256(content).hexdigest() if is_large(name) else git_id(content)


class Server:
    """Records requests; `rules` change what is answered."""

    def __init__(self, handler):
        outer = self
        self.requests = []
        self.lock = threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def handle_one(self, body):
                with outer.lock:
                    outer.requests.append((self.command, self.path, dict(self.headers)))
                handler(self, body)

            def do_GET(self):
                self.handle_one(True)

            def do_HEAD(self):
                self.handle_one(False)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def answer(request, status, content=b"", headers=(), body=True, cut=None):
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if body:
        request.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(2)


class Hub:
    def __init__(self):
        self.files = dict(FILES)
        self.commit = COMMIT
        self.hold = None           # set: the store stops in the middle of the large file until the event
        self.token = None          # required when set
        self.cut_after = []        # bytes of the large file sent before the line breaks, per request
        self.resume = True         # whether the store honours Range
        self.corrupt = False
        self.lists_blobs = True
        self.loop = False
        self.status = None         # (status, X-Error-Code) for everything
        self.errors = 0            # 503 answers before the first good one
        self.store = Server(self.serve_store)
        self.hub = Server(self.serve_hub)

    def close(self):
        self.hub.close()
        self.store.close()

    def serve_hub(self, request, body):
        path = request.path.split("?")[0]
        if self.errors > 0:
            self.errors -= 1
            return answer(request, 503)
        if self.status:
            return answer(request, self.status[0], headers=[("X-Error-Code", self.status[1])])
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return answer(request, 401, b'{"error":"Invalid credentials"}')
        for prefix in ("/api/models/org/name", "/api/datasets/org/name"):
            if path in (prefix + "/revision/main", prefix + "/revision/" + self.commit, prefix + "/revision/v1", prefix):
                siblings = []
                for name, content in self.files.items():
                    entry = {"rfilename": name}
                    if self.lists_blobs:
                        entry |= {"size": len(content), "blobId": git_id(content)}
                        if is_large(name):
                            entry["lfs"] = {"sha256": etag(name, content), "size": len(content), "pointerSize": 1}
                    siblings.append(entry)
                info = {"id": "org/name", "sha": self.commit, "private": False, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
                return answer(request, 200, json.dumps(info).encode(), [("Content-Type", "application/json")], body)
        if path == "/api/models/org/name/tree/" + self.commit:  # asked by newer huggingface_hub
            tree = [{"type": "file", "path": name, "oid": git_id(content), "size": len(content)} |
                    ({"lfs": {"oid": etag(name, content), "size": len(content), "pointerSize": 1}} if is_large(name) else {})
                    for name, content in self.files.items()]
            return answer(request, 200, json.dumps(tree).encode(), [("Content-Type", "application/json")], body)
        if path.startswith("/api/"):
            return answer(request, 404, headers=[("X-Error-Code", "RevisionNotFound" if "org/name" in path else "RepoNotFound")])
        return self.serve_file(request, path, body)

    def serve_file(self, request, path, body):
        for prefix in ("/org/name/resolve/", "/datasets/org/name/resolve/"):
            if path.startswith(prefix):
                revision, _, name = path[len(prefix):].partition("/")
                name = name.replace("%20", " ")
                break
        else:
            return answer(request, 404, headers=[("X-Error-Code", "RepoNotFound")])
        if name not in self.files:
            return answer(request, 404, headers=[("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", self.commit)])
        content = self.files[name]
        headers = [("X-Repo-Commit", self.commit), ("ETag", f'"{etag(name, content)}"'), ("Accept-Ranges", "bytes")]
        if self.loop:
            return answer(request, 302, headers=[("Location", path)])
        if is_large(name):
            headers += [("X-Linked-Etag", f'"{etag(name, content)}"'), ("X-Linked-Size", str(len(content)))]
            return answer(request, 302, headers=headers + [("Location", self.store.url.replace("127.0.0.1", "localhost") + "/" + name)])
        return answer(request, 200, content, headers, body)

    def serve_store(self, request, body):
        content = self.files[request.path[1:].replace("%20", " ")]
        if self.corrupt:
            content = b"!" + content[1:]
        begin, status = 0, 200
        wanted = request.headers.get("Range")
        if wanted and self.resume:
            begin, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
        if self.hold:
            request.send_response(status)
            request.send_header("Content-Length", str(len(content) - begin))
            request.end_headers()
            half = begin + (len(content) - begin) // 2
            request.wfile.write(content[begin:half])
            request.wfile.flush()
            self.hold.wait(600)
            try:
                request.wfile.write(content[half:])
            except OSError:
                pass  # the client is gone
            return
        cut = self.cut_after.pop(0) if self.cut_after else None
        answer(request, status, content[begin:], [("ETag", '"store"')], body, cut)

    def ranges(self):
        return [headers.get("Range") for method, _, headers in self.store.requests if method == "GET"]


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def fetch(hub, ponte, tmp_path):
    def run(*arguments, code=0, **environment):
        env = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.hub.url + "/", "HF_TOKEN": "", "HF_HUB_OFFLINE": "", "HF_HUB_CACHE": "", **environment}
        return ponte("fetch", *arguments, code=code, env=env, timeout=60)

    run.cache = tmp_path / "hf" / "hub"
    return run


def contents(folder):
    return {os.path.relpath(os.path.join(base, name), folder): open(os.path.join(base, name), "rb").read() for base, _, names in os.walk(folder) for name in names}


@pytest.mark.fast
def test_layout_is_the_hubs(fetch):
    folder = fetch("org/name").out.strip()
    root = fetch.cache / "models--org--name"
    assert folder == str(root / "snapshots" / COMMIT)
    assert contents(folder) == {name: FILES[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}
    assert (root / "refs" / "main").read_text() == COMMIT
    blobs = sorted(path.name for path in (root / "blobs").iterdir())
    assert blobs == sorted(etag(name, FILES[name]) for name in ("config.json", "tokenizer.json", "model.safetensors"))
    assert os.readlink(root / "snapshots" / COMMIT / "config.json") == f"../../blobs/{etag('config.json', FILES['config.json'])}"


@pytest.mark.fast
def test_second_call_needs_no_network(fetch, hub):
    folder = fetch("org/name").out
    count = len(hub.hub.requests) + len(hub.store.requests)
    assert fetch("org/name").out == folder
    assert fetch("org/name", HF_HUB_OFFLINE="1").out == folder
    assert len(hub.hub.requests) + len(hub.store.requests) == count


@pytest.mark.fast
def test_tokenizer_only_then_the_rest(fetch, hub):
    folder = fetch("org/name", "--tokenizer-only").out.strip()
    assert set(contents(folder)) == {"config.json", "tokenizer.json"}
    assert not hub.store.requests
    assert set(contents(fetch("org/name").out.strip())) == {"config.json", "tokenizer.json", "model.safetensors"}
    gets = [path for method, path, _ in hub.hub.requests if "/resolve/" in path]
    assert len([path for path in gets if path.endswith("config.json")]) == 1


@pytest.mark.fast
def test_interrupted_download_goes_on(fetch, hub):
    hub.cut_after = [1000, 5000]
    fetch("org/name")
    assert hub.ranges() == [None, "bytes=1000-", "bytes=6000-"]
    assert contents(fetch("org/name").out.strip())["model.safetensors"] == LARGE


@pytest.mark.fast
def test_next_call_goes_on_from_a_partial_blob(fetch, hub):
    blobs = fetch.cache / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / (etag("model.safetensors", LARGE) + ".incomplete")
    part.write_bytes(LARGE[:300_000])
    folder = fetch("org/name").out.strip()
    assert hub.ranges() == ["bytes=300000-"]
    assert contents(folder)["model.safetensors"] == LARGE
    assert not part.exists()


@pytest.mark.fast
def test_server_without_ranges_starts_over(fetch, hub):
    hub.resume = False
    hub.cut_after = [1000]
    assert contents(fetch("org/name").out.strip())["model.safetensors"] == LARGE
    assert hub.ranges() == [None, "bytes=1000-"]


@pytest.mark.fast
def test_wrong_content_is_refused_and_not_kept(fetch, hub):
    hub.corrupt = True
    result = fetch("org/name", code=1)
    assert "model.safetensors: the content's hash is" in result.err and etag("model.safetensors", LARGE) in result.err
    root = fetch.cache / "models--org--name"
    assert not [path for path in (root / "blobs").iterdir() if path.name.startswith(etag("model.safetensors", LARGE))]
    assert not (root / "refs" / "main").exists()
    hub.corrupt = False
    assert contents(fetch("org/name").out.strip())["model.safetensors"] == LARGE


@pytest.mark.fast
def test_damaged_partial_blob_is_refused_then_fetched_anew(fetch, hub):
    blobs = fetch.cache / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / (etag("model.safetensors", LARGE) + ".incomplete")).write_bytes(b"?" * 1000)
    assert "hash" in fetch("org/name", code=1).err
    assert contents(fetch("org/name").out.strip())["model.safetensors"] == LARGE


@pytest.mark.fast
def test_token_goes_to_the_hub_only(fetch, hub, tmp_path):
    hub.token = "secret"
    assert "401" in fetch("org/name", code=1).err
    fetch("org/name", HF_TOKEN="secret")
    assert all(headers.get("Authorization") == "Bearer secret" for _, _, headers in hub.hub.requests[1:])
    assert hub.store.requests and all("Authorization" not in headers for _, _, headers in hub.store.requests)


@pytest.mark.fast
def test_token_file(fetch, hub, tmp_path):
    hub.token = "from-file"
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("from-file\n")
    fetch("org/name")


@pytest.mark.fast
@pytest.mark.parametrize("status, code, wanted", [
    (401, "", "private or gated (401); no token is set"),
    (403, "GatedRepo", "ask for access at"),
    (404, "RevisionNotFound", "no such revision"),
    (404, "RepoNotFound", "no such repository"),
    (410, "", "status 410"),
])
def test_refusals_are_explained(fetch, hub, status, code, wanted):
    hub.status = (status, code)
    result = fetch("org/name", code=1)
    assert wanted in result.err
    assert len(hub.hub.requests) == 1


@pytest.mark.fast
def test_unknown_revision_and_repository(fetch):
    assert "no such revision" in fetch("org/name", "--revision", "nope", code=1).err
    assert "no such repository" in fetch("org/other", code=1).err
    assert "not have the form" in fetch("/no/such/folder", code=1).err


def test_transient_errors_are_tried_again_but_not_forever(fetch, hub):
    hub.errors = 1
    fetch("org/name", "--tokenizer-only")
    hub.errors = 1000
    fetch("org/name", code=1)
    assert 1000 - hub.errors <= 10


@pytest.mark.fast
def test_redirect_loops_end(fetch, hub):
    hub.loop = True
    result = fetch("org/name", "--tokenizer-only", code=1)
    assert "redirects" in result.err
    assert len(hub.hub.requests) < 200


@pytest.mark.fast
def test_no_connection(fetch, hub):
    folder = fetch("org/name").out
    hub.close()
    assert fetch("org/name").out == folder
    result = fetch("org/other", code=1, HF_ENDPOINT="http://127.0.0.1:1")
    assert "no connection" in result.err
    assert "not in the cache" in fetch("org/other", code=1, HF_HUB_OFFLINE="1").err


@pytest.mark.fast
def test_mirror_that_lists_names_only(fetch, hub):
    hub.lists_blobs = False
    assert contents(fetch("org/name").out.strip()) == {name: FILES[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}


@pytest.mark.fast
def test_hostile_file_names(fetch, hub, tmp_path):
    hub.files["../../../escape.json"] = b"x"
    assert "does not stay inside" in fetch("org/name", code=1).err
    assert not list(tmp_path.rglob("escape.json"))


@pytest.mark.fast
def test_data_sets(fetch):
    folder = fetch("org/name", "--dataset").out.strip()
    assert folder == str(fetch.cache / "datasets--org--name" / "snapshots" / COMMIT)
    assert set(contents(folder)) == {"config.json", "tokenizer.json", "model.safetensors", "sub folder/extra.json"}


@pytest.mark.fast
def test_commit_as_revision(fetch):
    folder = fetch("org/name", "--revision", COMMIT).out.strip()
    assert folder.endswith(COMMIT)
    assert not (fetch.cache / "models--org--name" / "refs").exists()


@pytest.mark.fast
def test_refresh_follows_a_branch(fetch, hub):
    fetch("org/name")
    hub.commit = "f" * 40
    hub.files["config.json"] = b'{"model_type": "qwen2"}'
    assert fetch("org/name").out.strip().endswith(COMMIT)
    folder = fetch("org/name", "--refresh").out.strip()
    assert folder.endswith("f" * 40)
    assert contents(folder)["config.json"] == hub.files["config.json"]
    assert len(hub.ranges()) == 1  # the weights are the same blob
    assert fetch("org/name").out.strip() == folder


def start(hub, fetch, *arguments):
    env = {**os.environ, "HF_HOME": str(fetch.cache.parent), "HF_ENDPOINT": hub.hub.url, "HF_TOKEN": "", "HF_HUB_OFFLINE": "", "HF_HUB_CACHE": ""}
    binary = os.path.join(conftest.BIN, "ponte")
    return subprocess.Popen([binary, "fetch", *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_partial_blob(fetch, processes):
    part = fetch.cache / "models--org--name" / "blobs" / (etag("model.safetensors", LARGE) + ".incomplete")
    while not (part.exists() and part.stat().st_size > 0):
        assert all(process.poll() is None for process in processes), "ended without a partial blob"
        time.sleep(0.02)
    return part


@pytest.mark.fast
def test_killed_download_goes_on(fetch, hub):
    hub.hold = threading.Event()
    process = start(hub, fetch, "org/name")
    part = wait_for_partial_blob(fetch, [process])
    process.kill()
    process.wait()
    hub.hold.set()
    hub.hold = None
    size = part.stat().st_size
    assert 0 < size < len(LARGE)
    assert not (fetch.cache / "models--org--name" / "refs").exists()
    assert "not in the cache" in fetch("org/name", code=1, HF_HUB_OFFLINE="1").err
    assert contents(fetch("org/name").out.strip())["model.safetensors"] == LARGE
    assert hub.ranges()[-1] == f"bytes={size}-"


@pytest.mark.fast
def test_two_at_once_fetch_a_file_once(fetch, hub):
    hub.hold = threading.Event()
    processes = [start(hub, fetch, "org/name") for _ in range(3)]
    wait_for_partial_blob(fetch, processes)
    hub.hold.set()
    results = [process.communicate(timeout=600) for process in processes]
    assert all(process.returncode == 0 for process in processes), results
    assert len({out for out, _ in results}) == 1
    assert hub.ranges() == [None]
    assert contents(results[0][0].strip())["model.safetensors"] == LARGE


@pytest.mark.fast
def test_cache_that_cannot_be_written(fetch, hub):
    result = fetch("org/name", code=1, HF_HUB_CACHE="/proc/nowhere")
    assert "/proc/nowhere" in result.err


def test_huggingface_hub_finds_what_ponte_fetched(fetch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    folder = fetch("org/name").out.strip()
    assert huggingface_hub.snapshot_download("org/name", cache_dir=fetch.cache, local_files_only=True) == folder
    found = huggingface_hub.try_to_load_from_cache("org/name", "config.json", cache_dir=fetch.cache)
    assert found == os.path.join(folder, "config.json")
    scan = huggingface_hub.scan_cache_dir(fetch.cache)
    assert not scan.warnings and [repo.repo_id for repo in scan.repos] == ["org/name"]


def test_ponte_finds_what_huggingface_hub_fetched(fetch, hub):
    pytest.importorskip("huggingface_hub")
    program = "import huggingface_hub, sys; print(huggingface_hub.snapshot_download('org/name', cache_dir=sys.argv[1], allow_patterns=['*.json', '*.safetensors']))"
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {"HF_ENDPOINT": hub.hub.url, "HF_HOME": str(fetch.cache.parent)}
    process = subprocess.run([sys.executable, "-c", program, str(fetch.cache)], env=env, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert fetch("org/name", HF_HUB_OFFLINE="1").out.strip() == process.stdout.strip()
