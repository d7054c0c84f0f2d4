"""`nnfunc serve`: answers under load, limits, mistakes, the page, and the end after SIGTERM."""

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from helpers.command_line import main
from helpers.project import ROOT
from helpers.served import Served

import nnfunc as nf
from nnfunc.commands.serve.batching import Batcher, QueueFull
from nnfunc.data.prediction_inputs import load_inputs

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

CONFIG = """
data = { name = "table", source = "pets.csv", label = "kind", batch_size = 16 }
model = { name = "mlp", widths = [2, 4, 2] }
objective = { name = "classification" }
optimizer = { name = "sgd", learning_rate = 0.1 }
train = { steps = 4, loop = "step" }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    rows = [f"{i % 9},{i % 7},{'cat' if i % 2 else '<dog>'}" for i in range(80)]
    (folder / "pets.csv").write_text("\n".join(["weight,height & size,kind", *rows]) + "\n")
    (folder / "pets.toml").write_text(CONFIG)
    assert main("train", folder / "pets.toml", "--run", folder / "table") == 0
    return folder


@pytest.fixture(scope="module")
def run(place):
    return nf.load_run(place / "table")


class Process:
    """`nnfunc serve` in a process of its own, with its address."""

    def __init__(self, folder, *options):
        command = [sys.executable, "-m", "nnfunc", "serve", str(folder), "--port", "0", *options]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if match := re.search(r"serving \S+ at (http://127\.0\.0\.1:(\d+))", line):
                self.address, self.port = match[1], int(match[2])
                return
        raise AssertionError("".join(lines) + self.process.stderr.read())

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def process(place):
    server = Process(place / "table", "--rows", "2000", "--waiting", "100000")
    yield server
    server.end()


def ask(port, bodies, clients, *, after_sending=None):
    """(status, answer) of all bodies in their order, of so many clients at once, each with one connection."""
    answers, todo, lock = [None] * len(bodies), iter(range(len(bodies))), threading.Lock()
    sent = None if after_sending is None else threading.Barrier(clients, after_sending)

    def next_body():
        with lock:
            return next(todo, None)

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while (i := next_body()) is not None:
            body = json.dumps({"rows": bodies[i]})
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            if sent is not None:
                sent.wait()
            response = connection.getresponse()
            answers[i] = response.status, json.loads(response.read())
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(work) for _ in range(clients)]:
            future.result()
    return answers


def probabilities(answer):
    return [[row["p_<dog>"], row["p_cat"]] for row in answer["predictions"]]


def test_a_thousand_requests_of_64_clients_then_sigterm(process, run):
    rows = [{"weight": i / 50, "height & size": (i * 13) % 40 / 4} for i in range(1000)]
    answers = ask(process.port, [[row] for row in rows], 64)
    assert [status for status, _ in answers] == [200] * 1000
    expected = jax.nn.softmax(run.predict(rows))
    np.testing.assert_allclose(np.concatenate([probabilities(answer) for _, answer in answers]), expected, rtol=1e-5)
    health = httpx.get(f"{process.address}/health").json()
    assert (health["answered"], health["waiting"]) == (1000, 0)
    assert health["batches"] < 1000  # requests share batches

    def stop():
        answered.append(httpx.get(f"{process.address}/health").json()["answered"])
        process.process.send_signal(signal.SIGTERM)

    answered = []
    answers = ask(process.port, [rows * 2] * 24, 24, after_sending=stop)
    assert 1000 <= answered[0] < 1024, "all were answered before the signal"
    assert [status for status, _ in answers] == [200] * 24
    np.testing.assert_allclose(probabilities(answers[-1][1]), np.tile(expected, (2, 1)), rtol=1e-5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.address}/health")
    assert process.process.wait(20) == 0
    _, err = process.process.communicate()
    assert err == "nnfunc: stopping: requests that were accepted are finished, new ones are refused\n"


def ask_until_refused(port, keep):
    """What becomes of requests that follow each other until a connection is refused: statuses, and errors.

    keep: whether a connection takes further requests until an answer ends it. A request over a connection that was
    opened, and whose last answer did not end it, should have an answer.
    """
    outcomes, connection = [], None
    headers = {"content-type": "application/json"} | ({} if keep else {"connection": "close"})
    while True:
        try:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                connection.connect()
            connection.request("POST", "/predict", '{"rows": [[1, 2]]}', headers)
            response = connection.getresponse()
            response.read()
            outcomes.append(response.status)
            if response.will_close:
                connection = None
        except ConnectionRefusedError:
            return outcomes
        except (OSError, http.client.HTTPException) as error:
            outcomes.append(f"{type(error).__name__}, keep={keep}")
            connection = None


def test_a_stop_in_the_middle_of_requests_loses_none(process):
    with ThreadPoolExecutor(48) as pool:
        clients = [pool.submit(ask_until_refused, process.port, i % 2 == 0) for i in range(48)]
        end = time.monotonic() + 30
        while httpx.get(f"{process.address}/health", timeout=30).json()["answered"] < 200:
            assert time.monotonic() < end
        process.process.send_signal(signal.SIGTERM)
        outcomes = Counter(outcome for client in clients for outcome in client.result())
    assert set(outcomes) == {200}, outcomes
    assert process.process.wait(20) == 0


def test_a_port_that_is_in_use(place, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main("serve", place / "table", "--port", other.getsockname()[1]) == 2
    assert re.search(r"it cannot listen on 127\.0\.0\.1, port \d+ \(.*in use.*Choose another", capsys.readouterr().err)
    wrong = {("--port", 70000): "port should be from 0 to 65535", ("--rows", 0): "rows should be at least 1"}
    for options, message in wrong.items():
        assert main("serve", place / "table", *options) == 2
        assert message in capsys.readouterr().err


# in this process, without a socket


@pytest.fixture(scope="module")
def served(run):
    served = Served(run, rows=20, bytes=5000)
    yield served
    served.server.stop()


ROW = {"weight": 1, "height & size": 2}
MISTAKES = {
    "no JSON": ({"content": "{"}, 400, "the body is not JSON"),
    "no rows": ({"json": {}}, 400, 'the body should be {"rows": [...]}'),
    "a list": ({"json": [ROW]}, 400, 'the body should be {"rows": [...]}'),
    "empty rows": ({"json": {"rows": []}}, 400, "rows should be a list with at least one row"),
    "names of files": (
        {"json": {"rows": ["pets.csv"]}},
        400,
        "row 0 should be a table of columns, or a list of numbers, got 'pets.csv'",
    ),
    "no column": ({"json": {"rows": [{"weight": 1}]}}, 400, "has no column 'height & size'"),
    "a word": ({"json": {"rows": [ROW, ROW | {"weight": "x"}]}}, 400, "row 1 of column 'weight' should hold a number"),
    "a list of the wrong size": ({"json": {"rows": [[1, 2, 3]]}}, 400, "should have shape (examples, 2)"),
    "NaN": ({"content": '{"rows": [[1, NaN]]}'}, 400, "should be finite"),
    "too many rows": ({"json": {"rows": [[1, 2]] * 21}}, 413, "at most 20 rows"),
    "too many bytes": ({"content": "x" * 5001}, 413, "at most 5,000 bytes"),
    "another type": ({"content": "x", "headers": {"content-type": "text/csv"}}, 415, "not text/csv"),
    "a form without files": ({"files": {"a": (None, "b")}}, 400, "at least one file"),
    "a wrong file": ({"files": {"a": ("new.csv", "weight,height & size\n1,x")}}, 400, "predict: new.csv: line 2 of"),
    "a packed file": ({"files": {"a": ("new.csv.gz", b"x")}}, 400, "new.csv.gz should not be compressed"),
    "a long file": ({"files": {"a": ("new.csv", "weight,height & size\n" + "1,2\n" * 21)}}, 413, "at most 20 rows"),
    "a file of another type": ({"files": {"a": ("../../x.txt", "x")}}, 400, "should be a .csv, .jsonl, .npy or"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_have_a_message(served, case):
    arguments, status, message = MISTAKES[case]
    if "content" in arguments:
        arguments = {"headers": {"content-type": "application/json"}} | arguments
    answer = served.post("/predict", **arguments)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    error = answer.json()["error"]
    assert message in error
    assert "/tmp" not in error


def test_paths_methods_and_hosts(served):
    assert served.get("/predict").status_code == 405
    assert served.get("/other").status_code == 404
    assert served.get("/health", headers={"host": "elsewhere.example"}).status_code == 400
    assert served.get("/health").json()["status"] == "ok"


def test_a_body_without_a_length_is_limited_too(served):
    async def content():
        for _ in range(100):
            yield b"x" * 100

    answer = served.post("/predict", content=content(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (413, "a request should have at most 5,000 bytes.")


def test_a_body_that_drips_in_is_given_up(run):
    async def content():
        for _ in range(100):
            await asyncio.sleep(0.05)
            yield b" "

    served = Served(run, seconds=0.2)
    answer = served.post("/predict", content=content(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (408, "the request took too long to arrive.")
    served.server.stop()


def test_uploaded_files(served, run):
    text = "id,height & size,weight\n" + "".join(f"n{i},{i},{i / 2}\n" for i in range(9))
    array = io.BytesIO()
    np.save(array, [[3.0, 4.0]])
    files = [("a", ("new.csv", text)), ("a", ("x.npy", array.getvalue()))]
    answer = served.post("/predict", files=files)
    assert answer.status_code == 200, answer.text
    rows = [[i / 2, i] for i in range(9)] + [[3.0, 4.0]]
    np.testing.assert_allclose(probabilities(answer.json()), jax.nn.softmax(run.predict(rows)), rtol=1e-5)


@pytest.mark.parametrize("name", ["..", ".", "a/..", "x" * 300 + ".csv", "x\0.csv"])
def test_any_name_of_an_uploaded_file_is_answered(served, name):
    answer = served.post("/predict", files={"f": (name, b"height & size,weight\n1,2\n")})
    assert answer.status_code == (200 if name.endswith(".csv") else 400), answer.text
    assert "defect" not in answer.text


def test_half_characters_in_rows_are_refused(served):
    answer = served.post("/predict", content=rb'{"rows": [{"weight": "\ud800"}]}')
    assert answer.status_code == 400
    assert "the body is not JSON ('utf-8' codec can't encode character" in answer.json()["error"]


def test_the_schema_tells_columns_and_limits(served):
    schema = served.get("/schema").json()
    assert schema["columns"] == {"weight": {"type": "number"}, "height & size": {"type": "number"}}
    assert schema["names"] == ["<dog>", "cat"]
    assert schema["limits"] == {"bytes": 5000, "rows": 20, "seconds": 30.0, "waiting": 4096}


def test_the_page_has_a_form_and_the_prediction(served):
    page = served.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "height &amp; size" in page.text
    assert not re.search(r"<script|src=[\"']?http|<link", page.text)
    answer = served.post("/", files={"column0": (None, "3"), "column1": (None, "1")})
    assert answer.status_code == 200
    expected = served.post("/predict", json={"rows": [[3, 1]]}).json()["predictions"][0]
    shown = expected["class"].replace("<", "&lt;").replace(">", "&gt;")
    assert f"<b>{shown}</b>" in answer.text
    assert f"<em>{100 * expected['p_cat']:.1f} %</em>" in answer.text
    assert 'value="3"' in answer.text
    answer = served.post("/", files={"column0": (None, "3"), "column1": (None, "<i>")})
    assert answer.status_code == 400
    assert "got &#x27;&lt;i&gt;&#x27;" in answer.text


def test_images_are_uploaded_and_shown(tmp_path):
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(8):
            pixels = draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    data = 'data = { name = "images", path = "pets", layout = "flat", batch_size = 4 }'
    (tmp_path / "pets.toml").write_text(CONFIG.replace(CONFIG.splitlines()[1], data).replace("[2, 4, 2]", "[48, 4, 2]"))
    assert main("train", tmp_path / "pets.toml", "--run", tmp_path / "run") == 0
    run = nf.load_run(tmp_path / "run")
    served, files = Served(run), [tmp_path / "pets/cat/1.png", tmp_path / "pets/dog/1.png"]
    answer = served.post("/predict", files=[("f", (file.name, file.read_bytes())) for file in files])
    shown = [[row["p_cat"], row["p_dog"]] for row in answer.json()["predictions"]]
    np.testing.assert_allclose(shown, jax.nn.softmax(run.predict(files)), rtol=1e-5)
    page = served.post("/", files=[("files", (file.name, file.read_bytes())) for file in files])
    assert page.text.count("data:image/png;base64,") == 2
    assert served.post("/", files={"files": ("", b"")}).status_code == 400
    problem = served.post("/predict", files={"f": ("a.png", b"no image")})
    assert problem.status_code == 400
    assert "a.png: it should be one of PNG" in problem.json()["error"]
    assert (
        "row 0 should be a list of numbers" in served.post("/predict", json={"rows": [str(files[0])]}).json()["error"]
    )
    assert served.get("/schema").json()["shape"] == [4, 4, 3]
    served.server.stop()


@pytest.fixture
def blocked(run, monkeypatch):
    """A run whose predictions wait for an event."""
    event, predict = threading.Event(), type(run).predict_batches

    def predict_batches(self, x, **arguments):
        if threading.current_thread().name == "batches":
            assert event.wait(20)
        return predict(self, x, **arguments)

    monkeypatch.setattr(type(run), "predict_batches", predict_batches)
    yield event
    event.set()


def test_time_limits_and_full_queues(run, blocked):
    served = Served(run, seconds=0.2, waiting=3)
    answer = served.post("/predict", json={"rows": [[1, 2]]})
    assert (answer.status_code, answer.json()["error"]) == (504, "the prediction took longer than 0.2 seconds.")
    assert served.post("/predict", json={"rows": [[1, 2]] * 3}).status_code == 504
    answer = served.post("/predict", json={"rows": [[1, 2]]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "too many rows are waiting" in answer.json()["error"]
    blocked.set()
    served.server.stop()
    assert served.get("/health").status_code == 503
    assert "the server is stopping" in served.post("/predict", json={"rows": [[1, 2]]}).json()["error"]


def test_what_waits_together_shares_a_batch(run, blocked):
    batcher = Batcher(run, (1, 8, 16), 100)
    inputs = [load_inputs(run.config.preprocessing, [[i, i]] * n)[0] for i, n in enumerate((1, 4, 3, 9, 20, 2))]
    batcher.start(inputs[0])
    programs = run._apply._cache_size()
    futures = [batcher.submit(x) for x in inputs[:1]]
    end = time.monotonic() + 20
    while not futures[0].running():
        assert time.monotonic() < end
        time.sleep(0.001)
    futures += [batcher.submit(x) for x in inputs[1:]]
    assert futures[2].cancel()
    blocked.set()
    batcher.stop()
    for x, future in zip(inputs, futures, strict=True):
        if not future.cancelled():
            expected = np.concatenate(list(run.predict_batches(x, batch_size=16, width=16)))
            np.testing.assert_allclose(future.result(20), expected, rtol=1e-6)
    assert batcher.batches == 1 + 1 + 2 + 1  # 1 | 4 and 9, the 3 were cancelled | 20 in two | 2
    assert run._apply._cache_size() == programs
    with pytest.raises(QueueFull):
        batcher.submit(inputs[0])


def test_a_failing_batch_fails_its_requests_alone(run, monkeypatch):
    batcher = Batcher(run, (1, 8), 100)
    x, _ = load_inputs(run.config.preprocessing, [[1, 2]])
    batcher.start(x)
    with monkeypatch.context() as patch:
        patch.setattr(type(run), "predict_batches", lambda *_, **__: json.loads("{"))
        with pytest.raises(ValueError, match="Expecting"):
            batcher.submit(x).result(20)
    np.testing.assert_allclose(batcher.submit(x).result(20), run.predict([[1, 2]]), rtol=1e-6)
    batcher.stop()
