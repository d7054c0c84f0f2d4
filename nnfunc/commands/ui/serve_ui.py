"""Serves the pages of the runs below a folder to a browser on this machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.commands.list_runs.collect_runs import RunEntry
from nnfunc.commands.list_runs.runs_page import build_runs_page, runs_charts, runs_header, table_rows
from nnfunc.commands.list_runs.runs_table import sort_runs
from nnfunc.commands.listener import address_of, allowed_hosts, bind
from nnfunc.commands.ui.live_runs import LiveRuns
from nnfunc.reports import html_page
from nnfunc.reports.charts import Chart
from nnfunc.reports.run.run_page import build_page, live_charts, run_cards
from nnfunc.runs import metrics_log, status

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Pages load nothing from elsewhere. Vega compiles its expressions, which needs 'unsafe-eval'."""


def serve_ui(folder: Path, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve the pages of the runs below a folder until Ctrl-C.

    folder: that contains runs, at any depth.
    host, port: to listen on; port 0 is any free one.
    Raises: FileNotFoundError without such a folder; ModuleNotFoundError without the extra serve; OSError when the
    port is in use.
    """
    if not folder.is_dir():
        hint = "Name the folder that contains runs: nnfunc ui DIR."
        check.fail("ui", f"{folder} is not a folder.", hint=hint, exc_type=FileNotFoundError)
    for package in ("starlette", "uvicorn"):
        check.package("ui", package, "nnfunc[serve]")
    import uvicorn  # pyright: ignore[reportMissingImports]

    with bind("ui", host, port) as listener:
        listener.listen()
        application = create_application(folder, allowed_hosts(host, "read the runs"))
        settings = uvicorn.Config(application, log_level="warning", access_log=False, server_header=False)
        print(f"runs of {folder} at {address_of(listener, host)}  (Ctrl-C stops)", flush=True)
        uvicorn.Server(settings).run(sockets=[listener])


def create_application(folder: Path, hosts: list[str]) -> Any:
    """The pages as an ASGI application. folder: of the runs. hosts: the names by which it may be called."""
    from starlette.applications import Starlette  # pyright: ignore[reportMissingImports]
    from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]
    from starlette.middleware.trustedhost import TrustedHostMiddleware  # pyright: ignore[reportMissingImports]
    from starlette.responses import HTMLResponse, Response  # pyright: ignore[reportMissingImports]
    from starlette.routing import Route  # pyright: ignore[reportMissingImports]

    runs = LiveRuns(folder)

    def page(text: str, code: int = 200) -> Any:
        return HTMLResponse(text.encode("utf-8", "backslashreplace"), code, {"content-security-policy": POLICY})

    def missing(name: str) -> Any:
        return page(html_page.render_page("Not found", html_page.render_note(f"There is no run {name}.")), 404)

    def data(request: Any, news: dict[str, Any]) -> Any:
        body = json.dumps(news, separators=(",", ":")).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return Response(body, media_type="application/json", headers={"etag": tag, "cache-control": "no-cache"})

    def chosen(request: Any) -> list[RunEntry]:
        names = request.query_params.getlist("run")
        entries = sort_runs(runs.entries(), None)
        return [entry for entry in entries if entry.name in names] if names else entries

    def list_page(request: Any) -> Any:
        query = f"?{request.url.query}" if request.url.query else ""
        title = f"Runs of {folder.resolve().name}" + (": comparison" if query else "")
        return page(build_runs_page(chosen(request), title=title, live=f"data.json{query}", links=True))

    def list_data(request: Any) -> Any:
        entries = chosen(request)
        parts = {"table-runs": html_page.sorted_rows(table_rows(entries, links=True))}
        return data(request, _news(runs_charts(entries), parts, "|".join(runs_header(entries, links=True))))

    def run_page(request: Any) -> Any:
        match = runs.find(name := request.path_params["name"])
        if match is None:
            return missing(name)
        path, entry = match
        if entry.state != "running" and (path / "report.html").is_file():
            return page((path / "report.html").read_text("utf-8", "replace"))
        rows = metrics_log.read_rows(path / "metrics.jsonl")
        return page(build_page(path, rows, status.read_json_table(path / "result.json"), live="data.json"))

    def run_data(request: Any) -> Any:
        match = runs.find(name := request.path_params["name"])
        if match is None:
            return missing(name)
        entry, result = match[1], status.read_json_table(match[0] / "result.json")
        charts = [chart for group in live_charts(entry.rows, result) for chart in group]
        parts = {"cards": html_page.card_texts(run_cards(entry.rows, result))}
        return data(request, _news(charts, parts, entry.state))

    routes = [
        Route("/", list_page),
        Route("/data.json", list_data),
        Route("/favicon.ico", lambda request: Response(status_code=204)),
        Route("/run/{name:path}/data.json", run_data),
        Route("/run/{name:path}/", run_page),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


def _news(charts: list[Chart], parts: dict[str, str], key: str) -> dict[str, Any]:
    """The new data of a page. parts: {id: HTML}. key: the page is loaded again when it changes."""
    described = {c.name: {"data": c.data} | ({"spec": c.spec} if c.is_vega else {}) for c in charts}
    return {"charts": described, "parts": parts, "key": key}
