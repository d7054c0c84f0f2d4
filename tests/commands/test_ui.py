"""`nnfunc ui`: its pages and data, what it refuses, and that unchanged runs are read once."""

import json
import os
import socket
import time

import pytest
from helpers import sample_runs
from helpers.command_line import main
from helpers.html_page import charts_of

from nnfunc.commands.list_runs.collect_runs import read_run
from nnfunc.commands.ui import live_runs
from nnfunc.commands.ui.live_runs import LiveRuns
from nnfunc.reports import run as run_report
from nnfunc.runs.lock import FolderLock

pytest.importorskip("starlette")
pytest.importorskip("httpx")
pytestmark = [pytest.mark.usefixtures("no_compilation_cache"), pytest.mark.filterwarnings("ignore:.*httpx")]


@pytest.fixture
def folder(tmp_path):
    """A complete run with its report, one that trains, and a folder without a run."""
    rows = sample_runs.metrics(100, watch_every=1000)
    run_report.write_report(sample_runs.make(tmp_path / "done", rows, result=sample_runs.RESULT))
    sample_runs.make(tmp_path / "group" / "<now>", rows)
    (tmp_path / "notes").mkdir()
    return tmp_path


@pytest.fixture
def client(folder):
    from starlette.testclient import TestClient

    from nnfunc.commands.listener import LOOPBACK
    from nnfunc.commands.ui.serve_ui import create_application

    return TestClient(create_application(folder, [*LOOPBACK]), base_url="http://127.0.0.1")


def test_the_list_has_every_run_with_a_link(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert 'href="run/group/%3Cnow%3E/"' in answer.text
    assert 'href="run/done/"' in answer.text
    assert 'href="run/notes' not in answer.text
    assert set(charts_of(answer.text)) == {"curve-loss", "curve-accuracy"}
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy.replace("'", "")


def test_chosen_runs_are_compared(client):
    charts = charts_of(client.get("/?run=done").text)
    assert set(charts["curve-loss"]["data"]["series"]) == {"done"}
    news = client.get("/data.json?run=done").json()
    assert set(news["charts"]["curve-loss"]["data"]["series"]) == {"done"}


def test_data_is_sent_once_until_it_changes(client, folder):
    first = client.get("/run/group/%3Cnow%3E/data.json")
    again = client.get("/run/group/%3Cnow%3E/data.json", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code) == (200, 304)
    with (folder / "group" / "<now>" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"split": "train", "step": 110, "seconds": 2.0, "loss": 0.25}) + "\n")
    later = client.get("/run/group/%3Cnow%3E/data.json", headers={"if-none-match": first.headers["etag"]})
    assert later.status_code == 200
    assert max(later.json()["charts"]["curve-loss"]["data"]["step"]) == 110
    assert max(first.json()["charts"]["curve-loss"]["data"]["step"]) == 100


def test_a_complete_run_has_its_report_and_another_a_live_page(client, folder):
    assert client.get("/run/done/").text == (folder / "done" / "report.html").read_text()
    (folder / "done" / "result.json").unlink()
    with FolderLock(folder / "done"):  # it trains again
        assert 'data-live="data.json"' in client.get("/run/done/").text
    live = client.get("/run/group/%3Cnow%3E/").text
    assert 'data-live="data.json"' in live
    assert "<h1>&lt;now&gt;</h1>" in live


@pytest.mark.parametrize("path", ["/run/other/", "/run/notes/", "/run/..%2F..%2Fetc/", "/run/done/../../x/", "/x"])
def test_what_is_no_run_is_not_found(client, path):
    assert client.get(path).status_code == 404


def test_another_host_name_is_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_unchanged_runs_are_read_once(folder, monkeypatch):
    count = []
    monkeypatch.setattr(live_runs, "read_run", lambda path, *more: count.append(path.name) or read_run(path, *more))
    runs = LiveRuns(folder)
    names = [entry.name for entry in runs.entries()]
    assert names == ["done", os.path.join("group", "<now>"), "notes"]
    assert runs.entries()[0].last == runs.entries()[0].last
    assert count.count("done") == 1
    os.utime(folder / "done" / "metrics.jsonl", ns=(time.time_ns(), time.time_ns()))
    runs.entries()
    assert count.count("done") == 2


def test_mistakes_have_one_line(tmp_path, capsys):
    assert main("ui", tmp_path / "nowhere") == 2
    assert "is not a folder" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main("ui", tmp_path, "--port", taken.getsockname()[1]) == 2
    said = capsys.readouterr().err
    assert "it cannot listen on 127.0.0.1, port" in said
    assert "--port" in said
    assert said.count("\n") == 1
