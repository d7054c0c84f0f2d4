"""The Hugging Face hub, by a server on this machine that has what the package huggingface_hub asks for."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.project import ROOT

import nnfunc as nf

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
READ = """
import sys
import nnfunc as nf
try:
    result = nf.pretrained("hf://owner/small", revision=sys.argv[1] or None)
    print(result.revision, result.family, sorted(file.name for file in result.folder.iterdir()))
except nf.errors.NnfuncError as error:
    print(type(error).__name__, str(error))
"""


@pytest.fixture
def hub(tmp_path, key):
    """(the address, the paths that were asked for) of a hub with one model, in which there is a program too."""
    model = nf.gpt(9, block_size=4, layers=1, heads=1, dim=4)
    folder = nf.to_pretrained(model, model.init(key), tmp_path / "small")
    (folder / "modeling.py").write_text("raise SystemExit('it was run')")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.extend([self.path] * ("owner" in self.path))
            name = self.path.rsplit("/", 1)[-1]
            if self.path in (f"/api/models/owner/small{end}" for end in ("", "/revision/v1", f"/revision/{COMMIT}")):
                table = {"id": "owner/small", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                self.answer(json.dumps(table).encode())
            elif self.path.startswith(f"/api/models/owner/small/tree/{COMMIT}"):
                tree = [{"type": "file", "path": file, "size": len(x), "oid": file} for file, x in files.items()]
                self.answer(json.dumps(tree).encode())
            elif self.path.startswith(f"/owner/small/resolve/{COMMIT}/") and name in files:
                self.answer(files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name}-1"'})
            else:
                self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, status=404)

        do_HEAD = do_GET  # noqa: N815

        def answer(self, content, headers={}, status=200):  # noqa: B006
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_a_model_of_the_hub_has_its_commit(hub, tmp_path):
    address, asked = hub

    def read(revision, **environment):
        settings = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), **environment}
        command = [sys.executable, "-W", "ignore", "-c", READ, revision]
        return subprocess.run(command, capture_output=True, text=True, env=settings, cwd=ROOT).stdout

    expected = f"{COMMIT} gpt2 ['config.json', 'model.safetensors']\n"
    assert read("v1") == expected
    assert not any("modeling.py" in path for path in asked)
    count = len(asked)
    assert read(COMMIT, HF_HUB_OFFLINE="1") == expected  # from the cache
    assert len(asked) == count
    assert "hf://owner/small: the model cannot be fetched (RevisionNotFoundError" in read("v2")
    elsewhere = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    assert read("v1", **elsewhere).startswith("FileAccessError hf://owner/small: the model cannot be fetched")
    assert len(asked) == count + 1  # for v2
