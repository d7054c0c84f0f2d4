"""Predictions of rows that arrive at the same time, in batches of a few fixed sizes."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc.config.restore import Run
from nnfunc.data.dataset import count_examples


class QueueFull(Exception):
    """So many rows wait for their predictions that no more are accepted, or the server is stopping."""


class _Request(NamedTuple):
    x: Any
    count: int
    outputs: "Future[Any]"


def batch_widths(most: int) -> tuple[int, ...]:
    """The sizes of batches, each compiled once: 1, 8, 64, ... and `most`, the largest.

    >>> batch_widths(32)
    (1, 8, 32)
    """
    return (*(8**i for i in range(10) if 8**i < most), most)


class Batcher:
    """One thread that predicts the rows of all waiting requests together.

    While a batch is computed, requests gather; the next batch takes as many of them as fit. Nothing waits for a batch
    to fill, so a single request is answered at once.
    run: a trained run.
    widths: the sizes of batches, ascending.
    limit: the most rows that may wait.
    """

    def __init__(self, run: Run, widths: Sequence[int], limit: int):
        self.run, self.widths, self.limit = run, tuple(widths), limit
        self.waiting: deque[_Request] = deque()
        self.rows = 0
        self.batches = 0
        self.stopping = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self, example: Any) -> None:
        """Compile the program of each size of batch, and begin. example: prepared inputs with leading axis 1."""
        for width in self.widths:
            for _ in self.run.predict_batches(example, batch_size=width, width=width):
                pass
        self.thread.start()

    def submit(self, x: Any) -> "Future[Any]":
        """The future outputs of prepared inputs. x: with leading axis n. Raises: QueueFull."""
        request = _Request(x, count_examples(x), Future())
        with self.changed:
            if self.stopping or self.rows + request.count > max(self.limit, request.count):
                raise QueueFull
            self.waiting.append(request)
            self.rows += request.count
            self.changed.notify()
        return request.outputs

    def stop(self) -> None:
        """Accept no more rows, and return when all accepted ones are predicted."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        if self.thread.is_alive():
            self.thread.join()

    def _work(self) -> None:
        while requests := self._next_requests():
            running = [request for request in requests if request.outputs.set_running_or_notify_cancel()]
            if not running:
                continue
            try:
                x = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(request.x for request in running))
                width = next((w for w in self.widths if w >= count_examples(x)), self.widths[-1])
                parts = list(self.run.predict_batches(x, batch_size=width, width=width))
                outputs = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
            except Exception as error:
                for request in running:
                    request.outputs.set_exception(error)
                continue
            self.batches += len(parts)
            start = 0
            for request in running:
                rows = slice(start, start + request.count)
                request.outputs.set_result(jax.tree.map(lambda leaf, rows=rows: leaf[rows], outputs))
                start += request.count

    def _next_requests(self) -> list[_Request]:
        """The next waiting requests that fit one batch, at least one; [] when all are done and none will come."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.stopping)
            requests: list[_Request] = []
            total = 0
            while self.waiting and (not requests or total + self.waiting[0].count <= self.widths[-1]):
                if requests and _shapes(self.waiting[0].x) != _shapes(requests[0].x):
                    break
                requests.append(self.waiting.popleft())
                total += requests[-1].count
            self.rows -= total
            return requests


def _shapes(x: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape[1:], x)
