"""The command `nnfunc launch`: starts several processes of a command on this machine, and ends them together."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from nnfunc import check
from nnfunc.commands.interrupts import write_message
from nnfunc.distributed.processes import LOST

MOST = 1024  # processes, and devices of each: a number with a digit too many would end the machine


def launch(command: Sequence[str], *, processes: int, devices: int | None = None) -> int:
    """Run a command of nnfunc in several processes, and return the exit code.

    When one of them fails, the others end within a minute. Signals go to all of them.
    command: the arguments of nnfunc, such as ["train", "config.toml"].
    processes: how many, 1 to 1024.
    devices: the simulated CPU devices of each, to try a mesh without accelerators; None for the devices that there
        are, of which each process gets its part.
    """
    check.size("launch", 1, MOST, processes=processes)
    if not command:
        hint = "Write nnfunc launch --processes 2 -- train CONFIG."
        check.fail("launch", expected="there should be a command after --", actual="none", hint=hint)
    if devices is not None:
        check.size("launch", 1, MOST, devices=devices)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    children = [_start(command, address, i, processes, devices) for i in range(processes)]
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, _: _send(children, signal.SIGTERM))
    for i, child in enumerate(children[1:], 1):
        threading.Thread(target=_copy_errors, args=(i, child), daemon=True).start()
    code = _wait(children)
    return 128 - code if code < 0 else code


def _start(
    command: Sequence[str], address: str, number: int, processes: int, devices: int | None
) -> "subprocess.Popen[str]":
    environment = {"NNFUNC_COORDINATOR": address, "NNFUNC_PROCESS": str(number), "NNFUNC_PROCESSES": str(processes)}
    environment = os.environ | environment
    if devices is not None:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    elif visible := [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[number::processes])
    errors = None if number == 0 else subprocess.PIPE
    # in a session of their own, so that Ctrl-C reaches them once, from here
    return subprocess.Popen(
        [sys.executable, "-m", "nnfunc", *command], env=environment, stderr=errors, text=True, start_new_session=True
    )


def _send(children: Sequence["subprocess.Popen[str]"], signum: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(signum)


def _copy_errors(number: int, child: "subprocess.Popen[str]") -> None:
    """Write what a process says in errors, each line with its number."""
    for line in child.stderr or ():
        os.write(2, f"[{number}] {line}".encode())


def _wait(children: Sequence["subprocess.Popen[str]"]) -> int:
    """The first exit code that is not 0, after all have ended; those that go on after a failure are killed."""
    first = deadline = 0
    while any(child.poll() is None for child in children):
        codes = {i: child.returncode for i, child in enumerate(children) if child.returncode}
        if codes and not deadline:
            number, first = next(iter(codes.items()))
            deadline = time.monotonic() + 2 * LOST
            if first < 0:
                write_message(f"process {number} was ended by {signal.Signals(-first).name}, so the others end.")
        if deadline and time.monotonic() > deadline:
            _send(children, signal.SIGKILL)
        time.sleep(0.1)
    return first or next((child.returncode for child in children if child.returncode), 0)
