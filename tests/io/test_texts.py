import gzip
import io

import pytest

from v2t_cli.core.errors import RequestError
from v2t_cli.io import texts


def test_lines_end_at_newline_alone(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffодин\u2028два\r\n\n\x0bтри\x85\nпоследняя".encode())
    assert list(texts.read_lines(str(path))) == ["один\u2028два", "", "\x0bтри\x85", "последняя"]


def test_gz_and_stdin_read_alike(tmp_path, monkeypatch):
    data = "Привет!\nПока.\n".encode()
    with gzip.open(tmp_path / "t.txt.gz", "wb") as stream:
        stream.write(data)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert list(texts.read_lines(str(tmp_path / "t.txt.gz"))) == list(texts.read_lines("-")) == ["Привет!", "Пока."]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "ok\nплохо".encode("cp1251"), "a.txt, line 2: not UTF-8"),
        ("a.txt.gz", gzip.compress("строка\n".encode() * 1000)[:-20], "damaged .gz"),
        ("b.txt.gz", b"not gzip\n", "damaged .gz"),
        ("absent.txt", None, "no such text file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RequestError, match=message):
        list(texts.read_lines(str(tmp_path / name)))


def test_order_changes_the_fingerprint():
    one, other = texts.fingerprint(["а", "б"]), texts.fingerprint(iter(["б", "а"]))
    assert one.lines == other.lines == 2 and one.sha256 != other.sha256
    assert texts.fingerprint(["а б"]).sha256 != one.sha256 == texts.fingerprint(iter(["а", "б"])).sha256


def test_blocks_are_the_lines_with_these_numbers(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("".join(f"{i}\n" for i in range(10)))
    assert list(texts.read_blocks(str(path), [range(1, 3), range(6, 9)])) == [["1", "2"], ["6", "7", "8"]]
    assert list(texts.read_blocks(str(path), [range(8, 12), range(12, 14)])) == [["8", "9"], []], "the file became shorter"
