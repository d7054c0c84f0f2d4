"""Where the files of data sets are: the folder that NNFUNC_DATA names, the user's cache, the network.

What is fetched is checked before it is kept, and goes into the user's cache.
"""

import codecs
import contextlib
import hashlib
import http.client
import math
import os
import secrets
import stat
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from nnfunc import check, device_memory
from nnfunc.errors import NnfuncError

__all__ = [
    "Source",
    "cache_folder",
    "check_unpacked_size",
    "data_folders",
    "decode_utf8",
    "describe_non_file",
    "fail_damaged",
    "fail_unreadable",
    "fetch",
    "file_size",
    "find",
    "find_text_problem",
    "first_existing",
    "read_bytes",
    "resolve",
]

TIMEOUT = 20.0  # seconds without a byte
RATIO = 250  # how many times its size a packed file may unpack to, above SMALL
SMALL = 1 << 28  # bytes that any file may unpack to


class Source(NamedTuple):
    """Where a file may be fetched, and what it must hash to: "md5:..." or "sha256:...".

    urls: mirrors, the first is tried first.
    """

    urls: tuple[str, ...]
    checksum: str


def cache_folder() -> Path | None:
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


def data_folders() -> list[Path]:
    """The folders in which data sets are looked for, the first one first."""
    named = os.environ.get("NNFUNC_DATA")
    return [*([Path(named).expanduser()] if named else []), *filter(None, [cache_folder()])]


def find(where: str, names: Sequence[str], source: Source | None = None) -> Path:
    """The first file of the given names, in any of `folders()`; fetched when it is in none.

    names: paths inside those folders; the first is the one that it is saved under.
    Raises: FileNotFoundError, with every place looked in and where to get the file.
    """
    for folder in data_folders():
        for name in names:
            if os.path.exists(folder / name):
                return folder / name
    problem, own = f"{Path(names[0]).name} was not found", cache_folder()
    looked = dict.fromkeys(str((folder / name).parent) for folder in data_folders() for name in names)
    problem += f"; looked in {', '.join(looked)}." if looked else "; there is no cache folder."
    named = os.environ.get("NNFUNC_DATA")
    if named and not Path(named).expanduser().is_dir():
        problem += f" NNFUNC_DATA names {named}, which is no folder."
    put = (data_folders() or [Path("FOLDER")])[0] / names[0]
    if source is None:
        cure = "Put it into the first, or name a folder that holds it: NNFUNC_DATA=FOLDER."
        check.fail(where, f"{problem} {cure}", exc_type=FileNotFoundError)
    troubles = ["there is no cache folder to put it in"]
    if own is not None:
        troubles = fetch(source, own / names[0])
        if not troubles:
            return own / names[0]
    problem += f" It could not be fetched: {'; '.join(troubles)}."
    cure = f"Get it from {source.urls[0]} and put it at {put}."
    check.fail(where, f"{problem} {cure}", exc_type=FileNotFoundError)


def resolve(where: str, path: str | Path, known: Iterable[str] = ()) -> Path:
    """The file or folder at a path that a user gave: as it is, or inside one of `folders()`.

    known: names that would have been taken too, for the error's hint.
    Raises: FileNotFoundError, with every place looked in.
    """
    if not str(path):
        check.fail(where, "path should name a file or folder, got ''.")
    try:
        own = Path(path).expanduser()
    except RuntimeError:
        check.fail(where, f"{path} names the folder of a user who is not known here.")
    tried = [own, *(folder / own for folder in data_folders())]
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
    check.fail(where, f"{path} was not found; looked for {looked}{near}", exc_type=FileNotFoundError)


def read_bytes(where: str, path: Path) -> bytes:
    """The bytes of a file, unzipped when they are gzip's, as far as `bounded` lets them be.

    Raises: OSError, ValueError.
    """
    size = file_size(where, path)
    check_unpacked_size(where, path, size, size)
    try:
        data = path.read_bytes()
    except OSError as error:
        check.fail(where, f"{path} cannot be read: {error.strerror}.", exc_type=OSError)
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        data = _unzipped(data, int(min(max(SMALL, RATIO * size), _memory())))
    except (EOFError, zlib.error, MemoryError) as error:
        fail_unreadable(where, path, "it is a gzip file that cannot be unzipped", error)
    check_unpacked_size(where, path, size, len(data))
    return data


def _unzipped(data: bytes, limit: int) -> bytes:
    """What gzip packed, or the beginning of it, longer than the limit."""
    parts, rest = [], limit + 1
    while data and rest:
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(data, rest))
        rest -= len(parts[-1])
        if rest and not member.eof:
            raise EOFError("it is cut short")
        data = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def file_size(where: str, path: Path) -> int:
    """The size in bytes of what has to be a file: to read a pipe or a device might never end.

    Raises: OSError.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        check.fail(where, f"{path} cannot be read: {_words(error)}.", exc_type=OSError)
    if what := describe_non_file(found):
        check.fail(where, f"{path} cannot be read: {what}.", exc_type=OSError)
    return found.st_size


def describe_non_file(found: os.stat_result) -> str:
    """What a path leads to when it is no file, in words; "" for a file."""
    forms = {stat.S_IFREG: "", stat.S_IFDIR: "Is a directory", stat.S_IFIFO: "it is a pipe, not a file"}
    return forms.get(stat.S_IFMT(found.st_mode), "it is a device or a socket, not a file")


def check_unpacked_size(where: str, path: Path | str, packed: int, unpacked: int) -> None:
    """Refuse what is larger unpacked than memory, or than 250 times what it was; 256 MiB may be.

    packed, unpacked: bytes; equal for a file that is read as it is. Raises: ValueError.
    """
    free = _memory()
    if unpacked > free:
        problem = f"{path}: it holds {unpacked / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory"
        check.fail(where, f"{problem} are free. Cut it into parts.")
    if unpacked > max(SMALL, RATIO * packed):
        problem = f"it unpacks to more than {RATIO} times its {packed} bytes, as no data set does"
        fail_damaged(where, path, problem, "If it is sound, unpack it first and give what was packed.")


def _memory() -> float:
    """Bytes of memory that a program may still take, as far as the system says."""
    free = device_memory.host_free()
    return math.inf if free is None else free


def decode_utf8(where: str, path: Path, data: bytes, cure: str = "") -> str:
    """The text of bytes in UTF-8, without a byte order mark. Raises: ValueError.

    cure: what else may be done about another encoding than to convert it.
    """
    if trouble := find_text_problem(data):
        fail_damaged(where, path, trouble[0], f"{trouble[1]}{cure}")
    return data.decode("utf-8-sig")


def find_text_problem(data: bytes) -> tuple[str, str] | None:
    """Why bytes are no text in UTF-8 and what to do about it; None when they are."""
    convert = "Convert it: iconv -f {} -t UTF-8 FILE > NEW_FILE."
    for mark, name in MARKS.items():
        if data.startswith(mark):
            return f"it is text in {name}, and should be in UTF-8", convert.format(name)
    other = next((what for magic, what in MAGIC.items() if data.startswith(magic)), None)
    zeros = data[:4096].count(0)
    if zeros > len(data[:4096]) // 4 and not other:
        name = next((name for name in WIDE if _is_text(data[:4096], name)), None)
        if name is None:
            return "it is no text: many of its bytes are zero", "Was it the right file?"
        problem = f"it seems to be text in {name[:6]}, and should be in UTF-8"
        return problem, convert.format(name)
    if data.isascii() and not zeros:
        return None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if other:
            return f"it is {other}, and should be text", "Was it the right file?"
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"it is not text in UTF-8 (at byte {error.start}): line {line} has the byte"
        problem += f" 0x{data[error.start]:02x}, as text in Latin-1 or Windows-1252 may"
        return problem, convert.format("WINDOWS-1252")
    return None


def _is_text(head: bytes, encoding: str) -> bool:
    """Whether bytes, which may end inside of a character, are characters of such an encoding."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    characters = all(c.isprintable() or c in "\t\r\n\f" for c in text)
    return characters and 2 * sum(map(str.isascii, text)) > len(text)


WIDE = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
MAGIC = {
    b"PK\x03\x04": "a zip archive, such as an Excel workbook or an .npz file",
    b"PAR1": "Parquet",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"\x1f\x8b": "packed by gzip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x93NUMPY": "an array of NumPy's",
}


def fail_damaged(where: str, path: Path | str, problem: str, cure: str = "") -> NoReturn:
    """Raise ValueError: the file does not hold what it should."""
    cure = cure or "It is damaged or cut short: delete it and get it again."
    check.fail(where, f"{path}: {problem}. {cure}")


def fail_unreadable(where: str, path: Path | str, problem: str, error: Exception) -> NoReturn:
    """Raise what came while a file was read: as it is when it is ours, or as damage to the file.

    problem: in words, such as "it cannot be read as Parquet". A lack of memory is no damage.
    """
    if isinstance(error, NnfuncError):
        raise error
    if isinstance(error, MemoryError):
        problem = f"{path}: reading it takes more memory than is free"
        check.fail(where, f"{problem}. Make it smaller, or cut it into parts.", exc_type=MemoryError)
    words = " ".join(str(error).split())[:200]
    fail_damaged(where, path, f"{problem} ({type(error).__name__}: {words})")


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
        with temporary.open("xb") as file, urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
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


def first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of the names that is there, in a folder."""
    return next((folder / name for name in names if os.path.exists(folder / name)), None)
