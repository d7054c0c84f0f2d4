"""The folder of nnfunc in the cache of the user: data sets, compiled programs, measured forms, the script of charts."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path | None:
    """The folder nnfunc in $XDG_CACHE_HOME or ~/.cache; ~/Library/Caches on macOS; %LOCALAPPDATA% on Windows.

    None for a user without a home folder.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if not root and sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA")
    if root:
        return Path(root, "nnfunc")
    try:
        return Path(Path.home(), "Library/Caches" if sys.platform == "darwin" else ".cache", "nnfunc")
    except RuntimeError:
        return None
