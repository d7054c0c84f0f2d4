"""The address at which `nnfunc serve` and `nnfunc ui` listen."""

import socket
import sys

from nnfunc import check

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def bind(command: str, host: str, port: int) -> socket.socket:
    """A socket that is bound to the host and port, and does not listen yet.

    command: for the error.

    Raises: OSError when the port is in use, or the host is not of this machine.
    """
    check.within(command, 0, 65535, port=port)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        problem = f"it cannot listen on {host}, port {port} ({error.strerror or error})."
        check.fail(command, problem, hint="Choose another with --port; 0 is any free one.", exc_type=OSError)
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """The URL of a listener. host: as given."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def allowed_hosts(host: str, what: str) -> list[str]:
    """The names by which browsers may call the server; "*" for any, with a warning.

    host: that it listens on.
    what: others may do then, for the warning.
    """
    if host in LOOPBACK:
        return [*LOOPBACK[:2], "[::1]", host]
    print(f"warning anyone who reaches this address may {what}", file=sys.stderr, flush=True)
    return ["*"]
