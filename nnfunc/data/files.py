"""Where the files of data sets are: the folder that NNFUNC_DATA names, the user's cache, the network.

What is fetched is checked before it is kept, and goes into the user's cache.
"""

import contextlib
import gzip
import hashlib
import http.client
import os
import secrets
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from nnfunc import check

__all__ = ["Source", "below", "cache", "damaged", "fetch", "find", "folders", "given", "read"]

TIMEOUT = 20.0  # seconds without a byte


class Source(NamedTuple):
    """Where a file may be fetched, and what it must hash to: "md5:..." or "sha256:...".

    urls: mirrors, the first is tried first.
    """

    urls: tuple[str, ...]
    checksum: str


def cache() -> Path | None:
    """The folder of fetched data in the user's cache, or None for a user without a home.

    $XDG_CACHE_HOME or ~/.cache; ~/Library/Caches on macOS; %LOCALAPPDATA% on Windows; in it
    nnfunc/data.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    if not named and sys.platform == "win32":
        named = os.environ.get("LOCALAPPDATA")
    if named:
        return Path(named, "nnfunc", "data")
    try:
        home = Path.home()
    except RuntimeError:
        return None
    parts = ("Library", "Caches") if sys.platform == "darwin" else (".cache",)
    return Path(home, *parts, "nnfunc", "data")


def folders() -> list[Path]:
    """The folders in which data sets are looked for, the first one first."""
    named = os.environ.get("NNFUNC_DATA")
    return [*([Path(named).expanduser()] if named else []), *filter(None, [cache()])]


def find(where: str, names: Sequence[str], source: Source | None = None) -> Path:
    """The first file of the given names, in any of `folders()`; fetched when it is in none.

    names: paths inside those folders; the first is the one that it is saved under.
    Raises: FileNotFoundError, with every place looked in and where to get the file.
    """
    for folder in folders():
        for name in names:
            if os.path.exists(folder / name):
                return folder / name
    problem, own = f"{Path(names[0]).name} was not found", cache()
    looked = dict.fromkeys(str((folder / name).parent) for folder in folders() for name in names)
    problem += f"; looked in {', '.join(looked)}." if looked else "; there is no cache folder."
    named = os.environ.get("NNFUNC_DATA")
    if named and not Path(named).expanduser().is_dir():
        problem += f" NNFUNC_DATA names {named}, which is no folder."
    put = (folders() or [Path("FOLDER")])[0] / names[0]
    if source is None:
        cure = "Put it into the first, or name a folder that holds it: NNFUNC_DATA=FOLDER."
        check.fail(where, f"{problem} {cure}", kind=FileNotFoundError)
    troubles = ["there is no cache folder to put it in"]
    if own is not None:
        troubles = fetch(source, own / names[0])
        if not troubles:
            return own / names[0]
    problem += f" It could not be fetched: {'; '.join(troubles)}."
    cure = f"Get it from {source.urls[0]} and put it at {put}."
    check.fail(where, f"{problem} {cure}", kind=FileNotFoundError)


def given(where: str, path: str | Path, known: Iterable[str] = ()) -> Path:
    """The file or folder at a path that a user gave: as it is, or inside one of `folders()`.

    known: names that would have been taken too, for the error's hint.
    Raises: FileNotFoundError, with every place looked in.
    """
    if not str(path):
        check.fail(where, "path should name a file or folder, got ''.")
    own = Path(path).expanduser()
    tried = [own, *(folder / own for folder in folders())]
    for place in tried:
        if os.path.exists(place):
            return place
    try:
        names = [*known, *sorted(os.listdir(own.parent))[:200]]
    except (OSError, ValueError):
        names = [*known]
    near = check.nearest(own.name, names)
    near = near if near.startswith("; did") else "."
    looked = ", ".join(dict.fromkeys(str(place.absolute()) for place in tried))
    check.fail(where, f"{path} was not found; looked for {looked}{near}", kind=FileNotFoundError)


def read(where: str, path: Path) -> bytes:
    """The bytes of a file, unzipped when they are gzip's. Raises: OSError, ValueError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        check.fail(where, f"{path} cannot be read: {error.strerror}.", kind=OSError)
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        damaged(where, path, f"it is a gzip file that cannot be unzipped ({error})")


def damaged(where: str, path: Path | str, problem: str, cure: str = "") -> NoReturn:
    """Raise ValueError: the file does not hold what it should."""
    cure = cure or "It is damaged or cut short: delete it and get it again."
    check.fail(where, f"{path}: {problem}. {cure}")


def fetch(source: Source, target: Path) -> list[str]:
    """Fetch a file to `target`; what went wrong with each mirror, and nothing when it is there.

    It is written beside the target and moved there in one step, once its checksum is right.
    """
    troubles = []
    for url in source.urls:
        problem = _fetch(url, source.checksum, target)
        if problem is None:
            return []
        troubles.append(f"{url}: {problem}")
    return troubles


def _fetch(url: str, checksum: str, target: Path) -> str | None:
    """One mirror: what went wrong, or None."""
    kind, _, wanted = checksum.partition(":")
    digest, size = hashlib.new(kind, usedforsecurity=False), 0
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(url, headers={"User-Agent": "nnfunc"})
        with (
            temporary.open("xb") as file,
            urllib.request.urlopen(request, timeout=TIMEOUT) as reply,
        ):
            length = reply.headers.get("Content-Length")
            while chunk := reply.read(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        if length is not None and length.isdigit() and size != int(length):
            return f"the connection was cut after {size} of {length} bytes"
        if digest.hexdigest() != wanted.lower():
            return f"its {kind} is {digest.hexdigest()}, and should be {wanted}; it was not kept"
        temporary.replace(target)
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answers {error.code} ({error.reason})"
    except urllib.error.URLError as error:
        return f"no connection ({_words(error.reason)})"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _words(error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return None


def _words(reason: object) -> str:
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())


def below(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of the names that is there, in a folder."""
    return next((folder / name for name in names if os.path.exists(folder / name)), None)
