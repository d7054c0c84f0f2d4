"""The HTTP application of a run: its paths, limits and answers."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from starlette.applications import Starlette  # pyright: ignore[reportMissingImports]
from starlette.datastructures import UploadFile  # pyright: ignore[reportMissingImports]
from starlette.exceptions import HTTPException  # pyright: ignore[reportMissingImports]
from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]
from starlette.middleware.trustedhost import TrustedHostMiddleware  # pyright: ignore[reportMissingImports]
from starlette.requests import Request  # pyright: ignore[reportMissingImports]
from starlette.responses import HTMLResponse, JSONResponse, Response  # pyright: ignore[reportMissingImports]
from starlette.routing import Route  # pyright: ignore[reportMissingImports]

from nnfunc.commands.prediction_columns import name_column, name_columns, prediction_columns
from nnfunc.commands.serve.batching import Batcher, QueueFull, batch_widths
from nnfunc.commands.serve.input_form import example_input, form_fields, input_type, load_rows, rows_of_form
from nnfunc.commands.serve.page import render_form
from nnfunc.config.restore import Run
from nnfunc.data.dataset import count_examples
from nnfunc.data.prediction_files import read_pieces
from nnfunc.data.prediction_inputs import load_inputs, sentence_lengths
from nnfunc.errors import NnfuncError

Inputs = tuple[Any, list[str] | None]
"""The inputs of a model [n, ...], and the names of the examples or None."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    bytes: of its body.
    rows: in it.
    seconds: until its answer.
    waiting: the rows of all requests that may wait.
    """

    bytes: int = 16 * 2**20
    rows: int = 1000
    seconds: float = 30.0
    waiting: int = 4096


@dataclass
class Server:
    """A run and what answers its requests.

    name: of the run, for the page.
    run: the trained run.
    limits: of a request.
    batcher: predicts.
    pool: threads that read requests and write answers.
    answered: the number of requests that have a prediction.
    closing: whether each connection ends with its next answer.
    """

    name: str
    run: Run
    limits: Limits
    batcher: Batcher
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))
    answered: int = 0
    closing: bool = False

    @staticmethod
    def of(name: str, run: Run, limits: Limits, batch_size: int | None = None) -> "Server":
        """A server whose batches have up to `batch_size` rows, by default as many as in the run's evaluations."""
        widths = batch_widths(batch_size or run.config.eval_batch_size)
        return Server(name, run, limits, Batcher(run, widths, limits.waiting))

    def start(self) -> None:
        """Compile the programs, and begin to predict."""
        self.batcher.start(example_input(self.run.config.preprocessing))

    def stop(self) -> None:
        """Predict what was accepted, and end the threads."""
        self.batcher.stop()
        self.pool.shutdown()

    async def predict(self, prepare: Callable[[], Inputs]) -> list[dict[str, Any]]:
        """The predictions of the inputs that `prepare` returns, a table for each row.

        Raises: HTTPException for inputs that do not fit the run, too many rows, a full queue, or too much time.
        """
        loop = asyncio.get_running_loop()
        try:
            if self.batcher.stopping:
                raise QueueFull
            async with asyncio.timeout(self.limits.seconds):
                x, names = await loop.run_in_executor(self.pool, prepare)
                outputs = await asyncio.wrap_future(self.batcher.submit(x))
                rows = await loop.run_in_executor(self.pool, self._rows, x, outputs, names)
        except TimeoutError:
            raise HTTPException(504, f"the prediction took longer than {self.limits.seconds:g} seconds.") from None
        except QueueFull:
            problem = "the server is stopping." if self.batcher.stopping else "too many rows are waiting; try again."
            raise HTTPException(503, problem, {"retry-after": "1"}) from None
        except (NnfuncError, ValueError, TypeError) as error:
            raise HTTPException(400, _one_line(error)) from error
        self.answered += 1
        return rows

    def prepare_json(self, body: bytes) -> Inputs:
        """The inputs of the model for the body {"rows": [...]}."""
        try:
            content = json.loads(body)
            if b"\\u" in body:  # half of a surrogate pair could not be sent back
                json.dumps(content, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is not JSON ({_one_line(error)}).") from error
        if not isinstance(content, dict) or set(content) != {"rows"}:
            raise HTTPException(400, 'the body should be {"rows": [...]}.')
        return self.prepare_rows(content["rows"])

    def prepare_rows(self, rows: Any) -> Inputs:
        """The inputs of the model for rows as JSON has them."""
        if not isinstance(rows, list) or not rows:
            raise HTTPException(400, 'rows should be a list with at least one row, such as {"rows": [...]}.')
        self._check_count(len(rows))
        return load_rows(self.run.config.preprocessing, rows)

    def prepare_files(self, files: Sequence[tuple[str, bytes]]) -> Inputs:
        """The inputs of the model for uploaded files. files: (name, content) of each."""
        preprocessing, parts, count = self.run.config.preprocessing, [], 0
        every: list[str] = []
        with TemporaryDirectory(prefix="nnfunc-") as folder:
            paths = []
            for i, (name, content) in enumerate(files):
                path = Path(folder, str(i), _file_name(name))
                if path.suffix.lower() == ".gz":
                    raise HTTPException(400, f"{path.name} should not be compressed.")
                path.parent.mkdir()
                path.write_bytes(content)
                paths.append(path)
            try:
                for piece in read_pieces(preprocessing, paths, self.limits.rows + 1):
                    x, names = load_inputs(preprocessing, piece.rows)
                    count += count_examples(x)
                    self._check_count(count)
                    parts.append(x)
                    every += names or []
            except (NnfuncError, ValueError, TypeError) as error:
                text = _one_line(error)
                for path in paths:
                    text = text.replace(str(path), path.name)
                raise HTTPException(400, text) from error
        names = [Path(name).name for name in every] if name_column(preprocessing) == "file" else every
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), names or None

    def _check_count(self, count: int) -> None:
        if count > self.limits.rows:
            raise HTTPException(413, f"a request should have at most {self.limits.rows:,} rows.")

    def _rows(self, x: Any, outputs: Any, names: list[str] | None) -> list[dict[str, Any]]:
        lengths = sentence_lengths(self.run.config.preprocessing, x)
        columns = prediction_columns(self.run, outputs, names, lengths)
        columns = name_columns(self.run.config.preprocessing, names) | columns
        lists = [column.tolist() if isinstance(column, np.ndarray) else list(column) for column in columns.values()]
        return [dict(zip(columns, map(_finite, row), strict=True)) for row in zip(*lists, strict=True)]


def _file_name(name: str) -> str:
    """A name that any file may have, from that of an uploaded file."""
    name = Path(name).name.replace("\0", "")[-60:]
    return "file" if name in ("", ".", "..") else name


def _finite(value: Any) -> Any:
    """A value that JSON has: None for NaN and infinities."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def create_application(server: Server, hosts: Sequence[str] = ("*",)) -> Any:
    """The ASGI application of a server. hosts: the names by which browsers may call it; "*" is any."""

    @asynccontextmanager
    async def lifespan(application: Any):
        yield
        await asyncio.to_thread(server.stop)

    routes = [
        Route("/", partial(_page, server), methods=["GET", "POST"]),
        Route("/predict", partial(_predict, server), methods=["POST"]),
        Route("/health", partial(_health, server)),
        Route("/schema", partial(_schema, server)),
    ]
    middleware = [
        Middleware(_EndConnections, server=server),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
        Middleware(_LimitBody, limits=server.limits),
    ]
    handlers: dict[Any, Any] = {HTTPException: _error, Exception: _defect}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


class _EndConnections:
    """Tells clients by `connection: close`, once the server is closing, to send nothing more over their connection."""

    def __init__(self, application: Callable[..., Awaitable[None]], server: Server):
        self.application, self.server = application, server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def answer(message: Any) -> None:
            if self.server.closing and message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        await self.application(scope, receive, answer)


class _LimitBody:
    """Refuses requests whose body is too large, or takes too long to arrive."""

    def __init__(self, application: Callable[..., Awaitable[None]], limits: Limits):
        self.application, self.limits = application, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        limit, total = self.limits.bytes, 0
        problem = f"a request should have at most {limit:,} bytes."
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            await JSONResponse({"error": problem}, 413, {"connection": "close"})(scope, receive, send)
            return

        deadline = asyncio.get_running_loop().time() + self.limits.seconds

        async def limited() -> Any:
            nonlocal total
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request took too long to arrive.", {"connection": "close"}) from None
            total += len(message.get("body", b""))
            if total > limit:
                raise HTTPException(413, problem, {"connection": "close"})
            return message

        await self.application(scope, limited, send)


async def _predict(server: Server, request: Request) -> Response:
    """Predict the rows of a JSON body {"rows": [...]}, or of uploaded files."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        _, files = await _read_form(request)
        if not files:
            raise HTTPException(400, "the form should have at least one file.")
        rows = await server.predict(lambda: server.prepare_files(files))
        return JSONResponse({"predictions": rows})
    if content_type not in ("application/json", ""):
        raise HTTPException(415, f"send application/json or multipart/form-data, not {content_type}.")
    body = await request.body()
    return JSONResponse({"predictions": await server.predict(lambda: server.prepare_json(body))})


async def _read_form(request: Request) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    """(the texts by field, (name, content) of the files) of a form."""
    async with request.form(max_files=1000, max_fields=10_000) as form:
        items = form.multi_items()
        files = [value for _, value in items if isinstance(value, UploadFile) and value.filename]
        return {name: value for name, value in items if isinstance(value, str)}, [
            (file.filename or "", await file.read()) for file in files
        ]


async def _page(server: Server, request: Request) -> Response:
    """The page with the form and, after it was sent, the predictions or what is wrong."""
    preprocessing = server.run.config.preprocessing
    rows, files, problem, status = [], [], "", 200
    values = {field.name: field.value for field in form_fields(preprocessing)}
    if request.method == "POST":
        try:
            texts, files = await _read_form(request)
            values |= texts
            if files:
                rows = await server.predict(lambda: server.prepare_files(files))
            elif input_type(preprocessing) in ("images", "series"):
                raise HTTPException(400, "choose at least one file.")
            else:
                rows = await server.predict(lambda: server.prepare_rows(rows_of_form(preprocessing, values)))
        except HTTPException as error:
            problem, status = str(error.detail), error.status_code
    page = render_form(server.name, form_fields(preprocessing), values, rows, files, problem)
    return HTMLResponse(page, status, PAGE_HEADERS)


async def _health(server: Server, request: Request) -> Response:
    batcher = server.batcher
    state = {"status": "stopping" if batcher.stopping else "ok", "run": server.name}
    state |= {"answered": server.answered, "waiting": batcher.rows, "batches": batcher.batches}
    return JSONResponse(state, 503 if batcher.stopping else 200)


async def _schema(server: Server, request: Request) -> Response:
    """What a row is, what a prediction has, and the limits of a request."""
    run, preprocessing = server.run, server.run.config.preprocessing
    fields = [field for field in form_fields(preprocessing) if field.type != "files"]
    schema: dict[str, Any] = {"run": server.name, "rows": input_type(preprocessing), "output_type": run.output_type}
    if input_type(preprocessing) == "table":
        schema["columns"] = {
            field.label: {"type": field.type} | ({"options": field.options} if field.options else {})
            for field in fields
        }
    else:
        schema["shape"] = preprocessing.facts.get("image", preprocessing.facts.get("shape"))
    schema |= {"names": run.names, "batches": server.batcher.widths}
    return JSONResponse(schema | {"limits": asdict(server.limits)})


async def _error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; the log of the server has the details."}, 500)
