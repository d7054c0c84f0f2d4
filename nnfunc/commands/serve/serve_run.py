"""Loads a run and serves it until a signal: what was accepted is finished first, and the exit code is 0."""

import asyncio
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from nnfunc import check
from nnfunc.commands.interrupts import write_message
from nnfunc.commands.listener import address_of, allowed_hosts, bind
from nnfunc.config.restore import load_run


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    checkpoint: str = "best",
    batch_size: int | None = None,
    megabytes: float = 16.0,
    rows: int = 1000,
    seconds: float = 30.0,
    waiting: int = 4096,
) -> None:
    """Serve the predictions of a run over HTTP, until SIGTERM or Ctrl-C.

    folder: of the run.
    host, port: to listen on; port 0 is any free one.
    checkpoint: "best" or "last".
    batch_size: the most rows in a batch, by default as in the run's evaluations.
    megabytes, rows, seconds: the most that a request may have, and take.
    waiting: the most rows that may wait for their batch.
    Raises: ModuleNotFoundError without the extra serve; OSError when the port is in use.
    """
    for package in ("starlette", "uvicorn", "python_multipart"):
        check.package("serve", package, "nnfunc[serve]")
    check.size("serve", rows=rows, waiting=waiting, batch_size=1 if batch_size is None else batch_size)
    check.number("serve", 0, open_low=True, megabytes=megabytes, seconds=seconds)
    # scikit-learn's column transformers warn so in several threads at once, of a setting that they do not need
    warnings.filterwarnings("ignore", message=r"`sklearn\.utils\.parallel\.delayed` should be used")
    import uvicorn  # pyright: ignore[reportMissingImports]

    from nnfunc.commands.serve.http_application import Limits, Server, create_application

    class HttpServer(uvicorn.Server):
        """uvicorn, which tells when it listens, and ends with exit code 0 after a signal."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"serving {folder} at {address_of(listener, host)}  (Ctrl-C stops)", flush=True)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await self._stop_listening()
            server.closing = True
            await asyncio.sleep(0.3)  # requests that have arrived are read, before idle connections are closed
            for _ in range(10):  # and where the loop is late, those of the last connections too
                await asyncio.sleep(0)
            await super().shutdown(sockets)

        async def _stop_listening(self) -> None:
            """Accept the connections that clients have opened, which closing the socket alone would reset."""
            connections: list[socket.socket] = []
            with listener.dup() as queue, suppress(BlockingIOError):  # it listens until each copy is closed
                for accepting in self.servers:
                    accepting.close()
                queue.setblocking(False)
                while True:
                    connections.append(queue.accept()[0])
            loop, state = asyncio.get_running_loop(), self.server_state
            protocol = partial(
                self.config.http_protocol_class, config=self.config, server_state=state, app_state=self.lifespan.state
            )
            for connection in connections:
                connection.setblocking(False)
                await loop.connect_accepted_socket(protocol, connection)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            def stop(signum: int, frame: object) -> None:
                if self.should_exit:
                    os._exit(128 + signum)
                write_message("stopping: requests that were accepted are finished, new ones are refused")
                self.should_exit = True

            handlers = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for signum, handler in handlers.items():
                    signal.signal(signum, handler)

    limits = Limits(int(megabytes * 2**20), rows, seconds, waiting)
    with bind("serve", host, port) as listener:
        run = load_run(folder, checkpoint)
        server = Server.of(folder.resolve().name, run, limits, batch_size)
        print(f"compile batches of {', '.join(map(str, server.batcher.widths))} rows", flush=True)
        server.start()
        settings = uvicorn.Config(
            create_application(server, allowed_hosts(host, "ask for predictions")),
            log_level="warning",
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(seconds) + 5,
        )
        HttpServer(settings).run(sockets=[listener])
