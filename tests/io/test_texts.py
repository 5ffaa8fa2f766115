import gzip
import io

import numpy as np
import pytest

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import to_line
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
        ("absent.txt", None, "no such file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RequestError, match=message):
        list(texts.read_lines(str(tmp_path / name)))


def test_select_counts_what_it_drops():
    kept = texts.select(["да", "а", "", "да", "x" * 60, "нет", "   "], 2, 59)
    assert kept.texts == ["да", "нет"]
    assert kept.rows.tolist() == [0, 5]
    assert (kept.duplicates, kept.too_short, kept.too_long) == (1, 3, 1)
    assert str(kept) == "2 of 7 texts kept (dropped: 1 seen before, 3 shorter than data.min_chars 2, 1 longer than data.max_chars 59)"


def test_split_is_seeded_and_complete():
    train, held = texts.split_held_out(100, 0.05, seed=3)
    again = texts.split_held_out(100, 0.05, seed=3)
    assert len(held) == 5
    assert sorted([*train, *held]) == list(range(100))
    np.testing.assert_array_equal(held, again[1])
    assert held.tolist() != texts.split_held_out(100, 0.05, seed=4)[1].tolist()


def test_split_of_too_few_texts():
    with pytest.raises(RequestError, match="1 usable texts cannot be split"):
        texts.split_held_out(1, 0.05, seed=0)
    assert len(texts.split_held_out(3, 0.0, seed=0)[1]) == 0


def test_no_control_character_breaks_a_row():
    assert to_line("а\nб\r\tв\u2028г\x85д") == "а б  в г д"


def test_order_changes_the_fingerprint():
    assert texts.fingerprint(["а", "б"]) != texts.fingerprint(["б", "а"])
