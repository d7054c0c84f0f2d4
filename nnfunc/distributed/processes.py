"""Several processes that train one run: how they start, agree, hear of each other's errors, and end together.

Process 0 writes, prints and draws. The others compute, and report their errors to it. They talk through the service
that `jax.distributed` starts in process 0.
"""

import atexit
import ctypes
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import jax
from jax.sharding import Mesh

from nnfunc import check

ANSWER = 30
"""Seconds in which the coordinator has to answer."""
LOST = 20
"""Seconds after which a process that says nothing counts as lost."""
HEARTBEAT = 3 * LOST
"""Seconds after which JAX aborts a run without a word of ours. It counts from the last heartbeat, one in each half."""
STALLED = 600.0
"""Seconds without a step after which a run counts as hung, unless NNFUNC_STALL_SECONDS is another number."""

_LAUNCHERS = {"srun": "SLURM_STEP_NUM_TASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
"""The environment variables in which launchers say how many processes they started together. An indexed Job of
Kubernetes does not say it: its pods may be runs of their own, so its manifest sets the variables NNFUNC_...."""

_FAILURE = "nnfunc/failure/first"
_client: Any = None
_abort_handler: Any = None
_is_stuck = False
_meetings = itertools.count()
_step, _step_time = -1, 0.0


def start(coordinator: str | None = None, process: int | None = None, processes: int | None = None) -> None:
    """Join the processes of this run, if there are several: as the arguments, NNFUNC_... or a launcher say.

    coordinator: host:port of process 0.
    process: the number of this one.
    processes: how many there are.
    Raises: ValueError when some of the three are missing or out of range, or the coordinator does not answer.
    """
    environment = (os.environ.get(f"NNFUNC_{name}") for name in ("COORDINATOR", "PROCESS", "PROCESSES"))
    values = [a if a is not None else b for a, b in zip((coordinator, process, processes), environment, strict=True)]
    if all(value is None for value in values):
        if _launcher() is not None:
            _initialize({}, "the launcher's coordinator")
        return
    names = ("coordinator", "process", "processes")
    if None in values:
        missing = names[values.index(None)]
        hint = "Pass --coordinator HOST:PORT, --process and --processes, or let nnfunc launch do it."
        check.fail("processes", expected=f"{missing} should be given with the other two", actual="none", hint=hint)
    address, number, total = str(values[0]), _integer("process", values[1]), _integer("processes", values[2])
    check.size("processes", processes=total)
    check.size("processes", 0, total - 1, process=number)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        check.fail("processes", expected="coordinator should be HOST:PORT", actual=repr(address))
    if total > 1:
        _stall_seconds()
        if number > 0:
            _wait_for_coordinator(address)
        else:
            _check_port(int(port))
        _initialize({"coordinator_address": address, "num_processes": total, "process_id": number}, address)


def join_initialized(mesh: Mesh) -> None:
    """Join the processes of a script that called `jax.distributed.initialize` itself, if a mesh has devices of several.

    They are not watched, because each may end when it likes to: JAX ends those that lose process 0.
    mesh: of a run.
    """
    global _client
    if _client is None and any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        _client = _running_client()


def _running_client() -> Any:
    from jax._src import distributed  # the client has no public name; orbax uses it in the same way

    return distributed.global_state.client


def count() -> int:
    """How many processes train this run."""
    return 1 if _client is None else jax.process_count()


def index() -> int:
    """The number of this process, 0 for the one that writes and prints."""
    return 0 if _client is None else jax.process_index()


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return index() == 0


def broadcast(name: str, value: Callable[[], str]) -> str:
    """The text that process 0 computes, in every process. name: of the text, once in a run. value: computes it."""
    if _client is None:
        return value()
    if is_main():
        text = value()
        send(name, text)
        return text
    return receive(name)


def send(name: str, text: str) -> None:
    """Let other processes `receive` a text. name: of the text, once in a run."""
    _client.key_value_set(f"nnfunc/{name}", text)


def receive(name: str) -> str:
    """The text that a process sends, once it has. name: of the text."""
    while True:
        try:
            with _process_0_answers():
                return _client.blocking_key_value_get(f"nnfunc/{name}", 1000 * LOST)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def wait_for_all() -> None:
    """Wait until every process has come here; each calls it as often as the others."""
    if _client is not None:
        with _process_0_answers():
            _client.wait_at_barrier(f"nnfunc/meeting/{next(_meetings)}", 3600 * 1000)


@contextmanager
def _process_0_answers() -> Iterator[None]:
    """Around a call of JAX's service: where process 0 is gone, this process waits until it is ended with the reason.

    It must not begin to end itself: the handler of `_explain_abort` could not run any more, and would wait for ever.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "UNAVAILABLE" in str(error):
            time.sleep(LOST)
        raise


def agree(facts: dict[str, str]) -> None:
    """Refuse to go on where processes differ; each calls it as often as the others.

    facts: equal ones, by name.

    Raises: ValueError, in every process, with the process and the names of what differs.
    """
    if _client is None:
        return
    meeting = f"nnfunc/facts/{next(_meetings)}"
    with _process_0_answers():
        _client.key_value_set(f"{meeting}/{index()}", json.dumps(facts))
    expected: dict[str, str] = {}
    for i in range(count()):
        with _process_0_answers():
            other = json.loads(_client.blocking_key_value_get(f"{meeting}/{i}", 3600 * 1000))
        expected = expected or other
        for name, value in expected.items():
            if other.get(name) != value:
                should = f"process {i} should have the same {name} as process 0, {value}"
                hint = "Start all processes with the same files and versions."
                check.fail("processes", expected=should, actual=other.get(name), hint=hint)


def report_step(step: int) -> None:
    """Note that this process has come to a step; a run without steps for a long time ends."""
    global _step, _step_time
    _step, _step_time = step, time.monotonic()


def stops_at(step: int) -> bool:
    """Whether all processes stop before this step, because one of them got a SIGTERM. step: not called before."""
    if _client is None:
        return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(step))


def report_failure(code: int, message: str) -> None:
    """End all processes of the run with an exit code; process 0 tells the message of the first that failed.

    It returns only where there are no other processes.
    code: of the exit.
    message: a line for the user, which this process has written already.
    """
    if _is_stuck:
        os._exit(code)
    if _client is None:
        return
    with suppress(Exception):  # another process was first
        _client.key_value_set(_FAILURE, json.dumps({"process": index(), "code": code, "message": message}))
    failure: dict[str, Any] = {"process": 0, "code": code, "message": message}
    with suppress(Exception):
        failure = json.loads(_client.blocking_key_value_get(_FAILURE, 1000 * LOST))
    if is_main():
        if failure["message"] != message:
            _write(_describe(failure))
        time.sleep(2)  # until the others have read it: the service ends with this process
    sys.stdout.flush()
    os._exit(failure["code"])  # without the end of JAX's service, which waits for all processes


def lost_contact(error: Exception) -> bool:
    """Whether an error says that another process is gone, which the processes then report by its number."""
    return _client is not None and isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" in str(error)


def wait_for_failure() -> None:
    """Give the process that is gone, or the search for lost ones, the time to report the reason."""
    with suppress(Exception):
        _client.blocking_key_value_get(_FAILURE, 1000 * (LOST + 5))


def finish() -> None:
    """Wait until every process has come to its end, so that none takes a missing one for lost."""
    global _step, _step_time
    if _client is None:
        return
    _step, _step_time = -1, 0.0
    with _process_0_answers():
        _client.wait_at_barrier("nnfunc/end", 24 * 3600 * 1000)


def _launcher() -> str | None:
    """The launcher that started several processes together."""
    counts = {name: os.environ.get(variable, "") for name, variable in _LAUNCHERS.items()}
    return next((name for name, text in counts.items() if text.isdigit() and int(text) > 1), None)


def _stall_seconds() -> float:
    text = os.environ.get("NNFUNC_STALL_SECONDS", "")
    try:
        return float(text or STALLED)
    except ValueError:
        check.fail("NNFUNC_STALL_SECONDS", expected="it should be a number of seconds", actual=repr(text))


def _integer(name: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        check.fail("processes", expected=f"{name} should be an integer", actual=repr(value))


def _wait_for_coordinator(address: str) -> None:
    """Refuse an address at which nothing listens: JAX would abort the process."""
    deadline = time.monotonic() + ANSWER
    while True:
        try:
            return _connect(address, max(0.1, min(5, deadline - time.monotonic())))
        except OSError as error:
            if time.monotonic() > deadline:
                _refuse_coordinator(address, str(error))
        time.sleep(0.5)


def _connect(address: str, timeout: float) -> None:
    """Raises: OSError when nothing listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout).close()


def _check_port(port: int) -> None:
    """Refuse a port that is in use: JAX would crash."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            expected = f"port {port} of coordinator should be free on process 0"
            check.fail("processes", expected=expected, actual=error.strerror, hint="Choose another port.")


def _refuse_coordinator(address: str, reason: str) -> NoReturn:
    hint = (
        "Are all processes running, and is the port of process 0 open? Or pass --coordinator, --process, --processes."
    )
    check.fail("processes", f"{address} did not answer within {ANSWER} s ({reason}).", hint=hint)


def _initialize(arguments: dict[str, Any], address: str) -> None:
    global _client, _is_stuck
    errors: list[Exception] = []

    def join() -> None:
        try:
            jax.distributed.initialize(
                **arguments, initialization_timeout=10 * ANSWER, heartbeat_timeout_seconds=HEARTBEAT
            )
        except Exception as error:  # JAX and its detection of clusters raise several types
            errors.append(error)

    thread = threading.Thread(target=join, daemon=True)  # JAX aborts the process at the end of its own timeout
    thread.start()
    thread.join(ANSWER)
    if thread.is_alive():
        _is_stuck = True
        _refuse_coordinator(address, "or not all processes joined")
    for error in errors:
        _refuse_coordinator(address, next(iter(str(error).splitlines()), type(error).__name__)[:200])
    if jax.process_count() == 1:
        return
    _client = _running_client()
    if not is_main():
        from jax._src import distributed

        _explain_abort(str(distributed.global_state.coordinator_address))
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(ended,), name="nnfunc-processes", daemon=True)
    thread.start()

    def stop_watching() -> None:  # a thread inside JAX's client when Python ends would abort the process
        ended.set()
        thread.join(timeout=10)
        if _abort_handler is not None:  # which cannot run while Python ends
            ctypes.CDLL(None).signal(signal.SIGABRT, None)

    atexit.register(stop_watching)


def _explain_abort(address: str) -> None:
    """Say why this process ends when JAX aborts it, as it does in a thread of its own when process 0 is gone.

    address: of process 0.
    """
    global _abort_handler
    if os.name != "posix":
        return
    libc = ctypes.CDLL(None)

    def explain(signum: int) -> None:
        try:
            _connect(address, 5)
        except OSError:
            _write(f"process 0 at {address} does not answer any more, so process {index()} ends.")
            os._exit(1)
        libc.signal(signum, None)  # another reason: abort() goes on

    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)
    libc.signal(signal.SIGABRT, _abort_handler)  # Python's handlers run in its main thread, which may be waiting


def _watch(ended: threading.Event) -> None:
    """Say that this process lives, and end it when another one has failed or, in process 0, is lost."""
    heard: dict[int, tuple[str, float]] = {}
    failures = 0
    while not ended.wait(1):
        try:
            for _, failure in _client.key_value_dir_get("nnfunc/failure/"):
                _end(json.loads(failure))
            state = {"host": socket.gethostname(), "step": _step, "time": time.time()}
            _client.key_value_set(f"nnfunc/alive/{index()}", json.dumps(state), allow_overwrite=True)
            if is_main():
                _find_lost(heard)
            failures = 0
        except Exception as error:
            failures += 1
            if failures > 5:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                _write(f"process 0 does not answer any more ({reason[:100]}), so process {index()} ends.")
                os._exit(1)


def _find_lost(heard: dict[int, tuple[str, float]]) -> None:
    """Report the first process that has said nothing for a while, or that keeps all others from going on."""
    now, steps = time.monotonic(), {}
    for key, text in _client.key_value_dir_get("nnfunc/alive/"):
        number = int(key.rpartition("/")[2])
        if heard.get(number, ("", 0.0))[0] != text:
            heard[number] = text, now
        state = json.loads(text)
        steps[number] = state["step"]
        if now - heard[number][1] > LOST:
            _fail(f"process {number} on {state['host']} has not answered for {LOST} s, so the run ends.")
    stalled = _stall_seconds()
    if _step >= 0 and now - _step_time > stalled and steps:
        slowest = min(steps, key=lambda number: steps[number])
        _fail(f"no step for {stalled:g} s, so the run ends; process {slowest} is at step {steps[slowest]}.")


def _fail(message: str) -> None:
    with suppress(Exception):
        _client.key_value_set(_FAILURE, json.dumps({"process": 0, "code": 1, "message": message}))


def _end(failure: dict[str, Any]) -> None:
    """End this process because of a failure, unless it ends by itself; process 0 tells the message, and is the last."""
    time.sleep(4 if is_main() else 1)
    if is_main():
        _write(_describe(failure))
    os._exit(failure["code"])


def _describe(failure: dict[str, Any]) -> str:
    return f"process {failure['process']}: {failure['message']}" if failure["process"] else failure["message"]


def _write(message: str) -> None:
    os.write(2, f"nnfunc: {message}\n".encode())
