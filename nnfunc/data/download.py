"""Files of data sets, in the folder NNFUNC_DATA or the user's cache, or downloaded to the cache.

A download is saved once its checksum is verified.
"""

import codecs
import contextlib
import hashlib
import http.client
import math
import os
import secrets
import stat
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from nnfunc import check, device_memory, documents, user_cache
from nnfunc.errors import NnfuncError

TIMEOUT = 20.0  # seconds without a byte
MAX_RATIO = 250  # of the unpacked to the packed size
SMALL = 1 << 28  # unpacked bytes up to which the ratio is not checked


class Source(NamedTuple):
    """The source of a download. urls: mirrors, tried in order. checksum: "md5:..." or "sha256:..."."""

    urls: tuple[str, ...]
    checksum: str


def cache_folder() -> Path | None:
    """The folder of downloaded data in the user's cache; None for a user without a home folder."""
    folder = user_cache.cache_folder()
    return None if folder is None else folder / "data"


def data_folders() -> list[Path]:
    """The folders that are searched for data sets, in this order."""
    folder = os.environ.get("NNFUNC_DATA")
    return [*([Path(folder).expanduser()] if folder else []), *filter(None, [cache_folder()])]


def find(where: str, names: Sequence[str], source: Source | None = None) -> Path:
    """The first file with one of the names in any of `data_folders()`; downloaded if there is none.

    where: begins the message of an error.
    names: paths inside those folders; a download is saved under the first.
    source: of the download, or None.
    Raises: FileNotFoundError, with the folders that were searched and the URL of the file.
    """
    folders, cache = data_folders(), cache_folder()
    for folder in folders:
        if file := first_existing(folder, names):
            return file
    searched = dict.fromkeys(str((folder / name).parent) for folder in folders for name in names)
    problem = f"{Path(names[0]).name} was not found"
    problem += f" in {', '.join(searched)}." if searched else "; there is no cache folder."
    data = os.environ.get("NNFUNC_DATA")
    if data and not Path(data).expanduser().is_dir():
        problem += f" NNFUNC_DATA is {data}, which is not a folder."
    if source is None:
        hint = "Put it into the first folder, or set NNFUNC_DATA to the folder that contains it."
        check.fail(where, problem, hint=hint, exc_type=FileNotFoundError)
    failures = ["there is no cache folder to save it in"] if cache is None else fetch(source, cache / names[0])
    if cache is not None and not failures:
        return cache / names[0]
    problem += f" The download failed: {'; '.join(failures)}."
    target = (folders or [Path("FOLDER")])[0] / names[0]
    hint = f"Download {source.urls[0]} and save it as {target}."
    check.fail(where, problem, hint=hint, exc_type=FileNotFoundError)


def resolve(where: str, path: str | Path, names: Iterable[str] = ()) -> Path:
    """The file or folder at a path, which may be relative to one of `data_folders()`.

    where: begins the message of an error.
    path: as the user wrote it.
    names: other valid values, for the hint.
    Raises: FileNotFoundError, with the paths that were tried.
    """
    if not str(path):
        check.fail(where, expected="path should name a file or folder", actual="''")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        check.fail(where, f"{path} is in the home folder of a user who does not exist.")
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
    check.fail(where, f"{path} was not found; tried {paths}{near}", exc_type=FileNotFoundError)


def read_bytes(where: str, path: Path) -> bytes:
    """The bytes of a file, unzipped if it is a gzip file, within the limits of `check_unpacked_size`.

    where: begins the message of an error.
    path: of the file.
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
        data = _unzipped(data, int(min(max(SMALL, MAX_RATIO * size), _free_memory())))
    except (EOFError, zlib.error, MemoryError) as error:
        fail_unreadable(where, path, "it is a gzip file that cannot be unzipped", error)
    check_unpacked_size(where, path, size, len(data))
    return data


def file_ending(path: str | Path) -> str:
    """The ending of a file's name in lower case, such as ".csv" of train.CSV and of train.csv.gz. path: of the file."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def _unzipped(data: bytes, limit: int) -> bytes:
    """The unzipped data; only its first limit + 1 bytes if it is longer."""
    parts, rest = [], limit + 1
    while data and rest:
        stream = zlib.decompressobj(wbits=31)  # a file may have several streams
        parts.append(stream.decompress(data, rest))
        rest -= len(parts[-1])
        if rest and not stream.eof:
            raise EOFError("it is cut short")
        data = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)


def file_size(where: str, path: Path) -> int:
    """The size of a file in bytes. Pipes and devices are refused, because reading them might never end.

    where: begins the message of an error.
    path: of the file.
    Raises: OSError.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        check.fail(where, f"{path} cannot be read: {_to_line(error)}.", exc_type=OSError)
    if not stat.S_ISREG(status.st_mode):
        problem = f"{path} cannot be read: it is {documents.file_type(status.st_mode)}, not a file."
        check.fail(where, problem, exc_type=OSError)
    return status.st_size


def check_unpacked_size(where: str, path: Path | str, packed: int, unpacked: int) -> None:
    """Refuse a file that unpacks to more than the free memory, or to over 256 MiB and 250 times its size.

    where: begins the message of an error.
    path: of the file.
    packed, unpacked: bytes; equal for a file that is not packed.
    Raises: ValueError.
    """
    free = _free_memory()
    if unpacked > free:
        size, memory = device_memory.format_bytes(unpacked), device_memory.format_bytes(free)
        check.fail(where, f"{path}: it has {size}, but only {memory} of memory is free.", hint="Split the file.")
    if unpacked > max(SMALL, MAX_RATIO * packed):
        problem = f"it unpacks to more than {MAX_RATIO} times its {packed} bytes, which no data set does"
        fail_damaged(where, path, problem, "If it is not damaged, unpack it first and use the unpacked file.")


def _free_memory() -> float:
    """Free bytes of memory; infinity if the system does not report it."""
    free = device_memory.host_free_bytes()
    return math.inf if free is None else free


def decode_utf8(where: str, path: Path, data: bytes, hint: str = "") -> str:
    """The text of bytes in UTF-8, without a byte order mark.

    where: begins the message of an error.
    path: of the file, for the message.
    data: its bytes.
    hint: is appended to the hint to convert a file of another encoding.
    Raises: ValueError when data is not in UTF-8.
    """
    if trouble := find_text_problem(data):
        fail_damaged(where, path, trouble[0], f"{trouble[1]}{hint}")
    return data.decode("utf-8-sig")


def find_text_problem(data: bytes) -> tuple[str, str] | None:
    """(why the bytes of `data` are not text in UTF-8, a hint); None if they are."""
    convert = "Convert it: iconv -f {} -t UTF-8 FILE > NEW_FILE."
    for mark, name in MARKS.items():
        if data.startswith(mark):
            return f"it should be text in UTF-8, but is in {name}", convert.format(name)
    other = next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)
    zeros = data[:4096].count(0)
    if zeros > len(data[:4096]) // 4 and not other:
        name = next((name for name in WIDE if _is_text(data[:4096], name)), None)
        if name is None:
            return "it should be text, but many of its bytes are zero", WRONG_FILE
        return f"it should be text in UTF-8, but seems to be in {name[:6]}", convert.format(name)
    if data.isascii() and not zeros:
        return None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if other:
            return f"it should be text, but is {other}", WRONG_FILE
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"it should be text in UTF-8, but line {line} has the byte 0x{data[error.start]:02x} (byte"
        problem += f" {error.start} of the file); it may be in Latin-1 or Windows-1252"
        return problem, convert.format("WINDOWS-1252")
    return None


def _is_text(head: bytes, encoding: str) -> bool:
    """Whether the bytes, which may end within a character, are text in this encoding."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    characters = all(c.isprintable() or c in "\t\r\n\f" for c in text)
    return characters and 2 * sum(map(str.isascii, text)) > len(text)


WRONG_FILE = "Check that it is the right file."
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
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF": "HDF5",
    b"ARROW1": "Arrow or Feather",
    b"\x80\x04\x95": "a pickle of Python",
    b"\x80\x05\x95": "a pickle of Python",
}


def fail_damaged(where: str, path: Path | str, problem: str, hint: str = "") -> NoReturn:
    """Raise a ValueError about the content of a file.

    where: begins the message.
    path: of the file.
    problem: a clause without a full stop.
    hint: a sentence, by default to replace the file.
    """
    hint = hint or "It is damaged or cut short: replace it."
    check.fail(where, f"{path}: {problem}.", hint=hint)


def fail_unreadable(where: str, path: Path | str, problem: str, error: Exception) -> NoReturn:
    """Raise `error`, which reading a file has raised, as a ValueError that says that the file is damaged.

    where: begins the message.
    path: of the file.
    problem: such as "it cannot be read as Parquet".
    error: an error of nnfunc is raised unchanged, a MemoryError stays a MemoryError.
    """
    if isinstance(error, NnfuncError):
        raise error
    if isinstance(error, MemoryError):
        problem = f"{path}: reading it needs more memory than is free."
        check.fail(where, problem, hint="Make it smaller, or split it.", exc_type=MemoryError)
    fail_damaged(where, path, f"{problem} ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def fetch(source: Source, target: Path) -> list[str]:
    """Download a file to `target`; returns the failure of each mirror of the source, [] on success."""
    failures = []
    for url in source.urls:
        failure = _download(url, source.checksum, target)
        if failure is None:
            return []
        failures.append(f"{url}: {failure}")
    return failures


def _download(url: str, checksum: str, target: Path) -> str | None:
    """Download to a temporary file and rename it once its checksum is verified; returns the failure, or None."""
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
            return f"its {algorithm} should be {expected}, got {digest.hexdigest()}; it was not saved"
        temporary.replace(target)
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answered {error.code} ({error.reason})"
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
    """The first path `folder / name` that exists, for a name of `names`; None if none does."""
    return next((folder / name for name in names if os.path.exists(folder / name)), None)
