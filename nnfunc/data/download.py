"""Files of data sets: in the folder that NNFUNC_DATA names, in the user's cache, or downloaded.

A downloaded file is saved in the user's cache once its checksum is verified.
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
RATIO = 250  # above SMALL, the largest ratio of the unpacked to the packed size
SMALL = 1 << 28  # bytes that any file may unpack to


class Source(NamedTuple):
    """Where to download a file.

    urls: mirrors, tried in order. checksum: "md5:..." or "sha256:...".
    """

    urls: tuple[str, ...]
    checksum: str


def cache_folder() -> Path | None:
    """The folder of downloaded data in the user's cache, or None for a user without a home.

    nnfunc/data inside of $XDG_CACHE_HOME or ~/.cache; ~/Library/Caches on macOS; %LOCALAPPDATA% on Windows.
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
    """The folders that are searched for data sets, in this order."""
    named = os.environ.get("NNFUNC_DATA")
    return [*([Path(named).expanduser()] if named else []), *filter(None, [cache_folder()])]


def find(where: str, names: Sequence[str], source: Source | None = None) -> Path:
    """The first file with one of the names in any of `data_folders()`; downloaded when there is none.

    where: begins the message of an error. names: paths inside of those folders; a download is saved under
    the first. source: where to download it, or None.
    Raises: FileNotFoundError with every folder searched and where to get the file.
    """
    folders, cache = data_folders(), cache_folder()
    for folder in folders:
        if file := first_existing(folder, names):
            return file
    searched = dict.fromkeys(str((folder / name).parent) for folder in folders for name in names)
    problem = f"{Path(names[0]).name} was not found"
    problem += f"; looked in {', '.join(searched)}." if searched else "; there is no cache folder."
    named = os.environ.get("NNFUNC_DATA")
    if named and not Path(named).expanduser().is_dir():
        problem += f" NNFUNC_DATA names {named}, which is no folder."
    if source is None:
        hint = "Put it into the first, or name a folder that holds it: NNFUNC_DATA=FOLDER."
        check.fail(where, problem, hint=hint, exc_type=FileNotFoundError)
    failures = ["there is no cache folder to put it in"]
    if cache is not None:
        failures = fetch(source, cache / names[0])
        if not failures:
            return cache / names[0]
    problem += f" It could not be fetched: {'; '.join(failures)}."
    target = (folders or [Path("FOLDER")])[0] / names[0]
    hint = f"Get it from {source.urls[0]} and put it at {target}."
    check.fail(where, problem, hint=hint, exc_type=FileNotFoundError)


def resolve(where: str, path: str | Path, names: Iterable[str] = ()) -> Path:
    """The file or folder at the path that a user passed: as it is, or inside of one of `data_folders()`.

    where: begins the message of an error. names: other valid values, for the hint.
    Raises: FileNotFoundError with every path tried.
    """
    if not str(path):
        check.fail(where, expected="path should name a file or folder", actual="''")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        check.fail(where, f"{path} names the folder of a user who is not known here.")
    tried = [expanded, *(folder / expanded for folder in data_folders())]
    for candidate in tried:
        if os.path.exists(candidate):
            return candidate
    names = [*names]
    with contextlib.suppress(OSError, ValueError):
        names += sorted(os.listdir(expanded.parent))[:200]
    near = check.nearest(expanded.name, names)
    near = near if near.startswith("; did") else "."
    paths = ", ".join(dict.fromkeys(str(candidate.absolute()) for candidate in tried))
    check.fail(where, f"{path} was not found; looked for {paths}{near}", exc_type=FileNotFoundError)


def read_bytes(where: str, path: Path) -> bytes:
    """The bytes of a file, unzipped if it is a gzip file, within the limits of `check_unpacked_size`.

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
        data = _unzipped(data, int(min(max(SMALL, RATIO * size), _free_memory())))
    except (EOFError, zlib.error, MemoryError) as error:
        fail_unreadable(where, path, "it is a gzip file that cannot be unzipped", error)
    check_unpacked_size(where, path, size, len(data))
    return data


def _unzipped(data: bytes, limit: int) -> bytes:
    """The unzipped data; its first limit + 1 bytes if it is longer."""
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
    """The size of a file in bytes. Anything else is refused: reading a pipe or a device might never end.

    Raises: OSError.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        check.fail(where, f"{path} cannot be read: {_to_line(error)}.", exc_type=OSError)
    if description := describe_non_file(status):
        check.fail(where, f"{path} cannot be read: {description}.", exc_type=OSError)
    return status.st_size


def describe_non_file(status: os.stat_result) -> str:
    """What a path leads to if it is not a file; "" for a file."""
    descriptions = {stat.S_IFREG: "", stat.S_IFDIR: "Is a directory", stat.S_IFIFO: "it is a pipe, not a file"}
    return descriptions.get(stat.S_IFMT(status.st_mode), "it is a device or a socket, not a file")


def check_unpacked_size(where: str, path: Path | str, packed: int, unpacked: int) -> None:
    """Refuse a file that unpacks to more than the free memory, or to over 256 MiB and 250 times its size.

    packed, unpacked: bytes; equal for a file that is read as it is. Raises: ValueError.
    """
    free = _free_memory()
    if unpacked > free:
        problem = f"{path}: it holds {unpacked / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory are free."
        check.fail(where, problem, hint="Cut it into parts.")
    if unpacked > max(SMALL, RATIO * packed):
        problem = f"it unpacks to more than {RATIO} times its {packed} bytes, as no data set does"
        fail_damaged(where, path, problem, "If it is sound, unpack it first and give what was packed.")


def _free_memory() -> float:
    """Free bytes of memory, infinite where the system does not say."""
    free = device_memory.host_free_bytes()
    return math.inf if free is None else free


def decode_utf8(where: str, path: Path, data: bytes, hint: str = "") -> str:
    """The text of bytes in UTF-8, without a byte order mark. Raises: ValueError.

    hint: follows the hint to convert a file of another encoding.
    """
    if trouble := find_text_problem(data):
        fail_damaged(where, path, trouble[0], f"{trouble[1]}{hint}")
    return data.decode("utf-8-sig")


def find_text_problem(data: bytes) -> tuple[str, str] | None:
    """(why the bytes are not text in UTF-8, a hint), or None."""
    convert = "Convert it: iconv -f {} -t UTF-8 FILE > NEW_FILE."
    for mark, name in MARKS.items():
        if data.startswith(mark):
            return f"it is text in {name}, and should be in UTF-8", convert.format(name)
    other = next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)
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
    """Whether the bytes, which may end inside of a character, are text in this encoding."""
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


def fail_damaged(where: str, path: Path | str, problem: str, hint: str = "") -> NoReturn:
    """Raise ValueError: the content of the file is wrong. problem: without a full stop."""
    hint = hint or "It is damaged or cut short: delete it and get it again."
    check.fail(where, f"{path}: {problem}.", hint=hint)


def fail_unreadable(where: str, path: Path | str, problem: str, error: Exception) -> NoReturn:
    """Raise an error of reading a file as damage to the file; an error of nnfunc is raised unchanged.

    problem: such as "it cannot be read as Parquet". A lack of memory becomes a MemoryError.
    """
    if isinstance(error, NnfuncError):
        raise error
    if isinstance(error, MemoryError):
        problem = f"{path}: reading it takes more memory than is free."
        check.fail(where, problem, hint="Make it smaller, or cut it into parts.", exc_type=MemoryError)
    fail_damaged(where, path, f"{problem} ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def fetch(source: Source, target: Path) -> list[str]:
    """Download a file to `target`; returns the failure of each mirror, [] on success.

    The download is written to a temporary file, and renamed once its checksum is verified.
    """
    failures = []
    for url in source.urls:
        problem = _fetch(url, source.checksum, target)
        if problem is None:
            return []
        failures.append(f"{url}: {problem}")
    return failures


def _fetch(url: str, checksum: str, target: Path) -> str | None:
    """Download from one mirror; returns the failure, or None."""
    algorithm, _, expected = checksum.partition(":")
    digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
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
        if digest.hexdigest() != expected.lower():
            return f"its {algorithm} is {digest.hexdigest()}, and should be {expected}; it was not saved"
        temporary.replace(target)
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answers {error.code} ({error.reason})"
    except urllib.error.URLError as error:
        return f"no connection ({_to_line(error.reason)})"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _to_line(error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return None


def _to_line(reason: object) -> str:
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())


def first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of the paths inside of a folder that exists, or None."""
    return next((folder / name for name in names if os.path.exists(folder / name)), None)
