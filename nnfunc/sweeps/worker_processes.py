"""A sweep over several processes that were started together: process 0 conducts it, and all of them run its trials.

No program spans two processes; they exchange the indices of trials, and share the folder of the sweep.
"""

import base64
import itertools
import json
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nnfunc import check
from nnfunc.distributed import processes
from nnfunc.sweeps.executors import Jobs, run_part

END = "end"


def worker_processes(*, trials: int = 16) -> Jobs:
    """Jobs in the processes of `nnfunc launch`, srun and the like, this one included; called in process 0.

    trials: the number in one job, at least 1. In the other processes `work` runs, until the jobs are closed.
    """
    check.size("worker_processes", trials=trials)
    count = processes.count()
    pool, free = ThreadPoolExecutor(count), queue.SimpleQueue[int]()
    numbers = [itertools.count() for _ in range(count)]
    for i in range(count):
        free.put(i)

    def run(*arguments: Any) -> None:
        worker = free.get()
        try:
            if worker == 0:
                run_part(*arguments)
            else:
                _run_in(worker, next(numbers[worker]), arguments)
        finally:
            free.put(worker)

    def close() -> None:
        pool.shutdown(cancel_futures=True)
        for worker in range(1, count):
            processes.send(f"sweep/{worker}/{next(numbers[worker])}", END)

    # a process that is lost ends all others, so no job is submitted again
    return Jobs(lambda function, *arguments: pool.submit(run, *arguments), trials, 0, close)


def work() -> None:
    """Run the jobs that process 0 sends, until it has none left."""
    cloudpickle = check.package("sweep", "cloudpickle", "nnfunc[jobs]")
    for number in itertools.count():
        name = f"sweep/{processes.index()}/{number}"
        text = processes.receive(name)
        if text == END:
            return
        error = None
        try:
            run_part(*json.loads(text))
        except Exception as exception:
            error = exception
        processes.send(f"{name}/done", base64.b64encode(cloudpickle.dumps(error)).decode())


def _run_in(worker: int, number: int, arguments: tuple[Any, ...]) -> None:
    """Run a job in another process. Raises: its error."""
    cloudpickle = check.package("sweep", "cloudpickle", "nnfunc[jobs]")
    name = f"sweep/{worker}/{number}"
    processes.send(name, json.dumps(arguments))
    error = cloudpickle.loads(base64.b64decode(processes.receive(f"{name}/done")))
    if error is not None:
        raise error
