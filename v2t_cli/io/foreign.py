"""Files that are neither .npy nor a store: what they are, and how to make a .npy of them."""

from __future__ import annotations

import shlex

from v2t_cli.core.errors import RequestError

SNIFFED = 512  # bytes from the beginning of a file that tell its format
_SAVE = "numpy.save('vecs.npy', {})"

# Beginning of the file, its format, and Python (or else what to do) that makes a .npy of a file named FILE.
_KINDS: list[tuple[bytes, str, str]] = [
    (b"SQLite format 3\0", "an SQLite database", "if it is Chroma's, name its folder"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "import numpy, h5py; " + _SAVE.format("h5py.File(FILE)['NAME'][:]")),
    (b"MATLAB 5.0", "a MATLAB file", "import numpy, scipy.io; " + _SAVE.format("scipy.io.loadmat(FILE)['NAME']")),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: unzstd FILE"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it first: unxz FILE"),
]
_PICKLE = "it can run code, so v2t never loads it; if you trust its author, save the vectors from Python with numpy.save"
_TORCH = "import numpy; from torch import load; " + _SAVE.format("load(FILE, weights_only=True).float().numpy()")
_NUMBERS = "import numpy; " + _SAVE.format("numpy.loadtxt(FILE, delimiter=',', ndmin=2)")


def refuse_foreign(begin: bytes, name: str) -> None:
    """Raise RequestError, naming the format and the way to a .npy, if a file that begins so is known not to be a .npy.

    begin: its first SNIFFED bytes, or all.
    """
    if begin.startswith(b"\x93NUMPY"):
        return
    if not begin:
        raise RequestError(f"{name} is empty, not a .npy file")
    if kind := _kind(begin):
        what, way = kind
        if name != "stdin":
            way = way.replace("FILE", repr(name) if way.startswith("import ") else shlex.quote(name))
        raise RequestError(f"{name}: is {what}, not a .npy file; {'in Python: ' if way.startswith('import ') else ''}{way}")


def _kind(begin: bytes) -> tuple[str, str] | None:
    if begin.startswith(b"PK\x03\x04"):
        return _zip_kind(begin)
    for magic, what, way in _KINDS:
        if begin.startswith(magic):
            return what, way
    if begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05" and len(begin) > 2:
        return "a Python pickle (an old .pt is one too)", _PICKLE
    return _text_kind(begin)


def _zip_kind(begin: bytes) -> tuple[str, str]:
    """By the name of the archive's first file: `torch.save` writes zip archives."""
    first = begin[30 : 30 + int.from_bytes(begin[26:28], "little")]
    if first.endswith((b"/data.pkl", b".format_version", b"/.data/serialization_id")):
        return "a PyTorch file", _TORCH
    return "a zip archive", "unpack it first: unzip FILE"


def _text_kind(begin: bytes) -> tuple[str, str] | None:
    try:
        text = begin.decode()
    except UnicodeDecodeError as error:
        if len(begin) < SNIFFED or error.start < len(begin) - 3:  # not only a letter that was cut
            return None
        text = begin[: error.start].decode()
    if any(letter < " " and letter not in "\t\n\r\f" for letter in text):
        return None
    words = text.replace(",", " ").replace(";", " ").split()
    if words and all(set(word) <= set("0123456789+-.eE") for word in words):
        return "text with numbers", _NUMBERS
    if text.lstrip().startswith(("{", "[")):
        return "JSON", "read it in Python, and save its vectors with numpy.save"
    return "text", "decode reads vectors; v2t embed makes vectors of texts"
