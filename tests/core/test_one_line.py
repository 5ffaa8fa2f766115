import json

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import in_order, one_line, to_json, to_line, to_row


def test_no_control_character_breaks_a_row():
    assert to_line("а\nб\r\tв\u2028г\x85д") == "а б  в г д"


def test_the_messages_of_libraries_are_folded_and_cut():
    assert one_line(ValueError("first\n   second")) == "first second"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt", "an error without a message gives its name"
    assert len(one_line(ValueError("a " * 1000))) == 300 and one_line(ValueError("a " * 1000)).endswith("...")


def test_our_own_messages_cannot_steer_a_terminal():
    assert str(RequestError("file\x1b[31m\nname")) == "file [31m name"


def test_a_row_keeps_what_a_line_to_look_at_does_not():
    text = "\u05d0\u200f\u202e a\tb\x9b"
    assert to_row(text) == "\u05d0\u200f\u202e a b " and to_line(text) == "\u05d0 a b " and in_order("a\tb\u202e") == "a\tb"


def test_json_loses_nothing_and_steers_nothing():
    text = "".join(map(chr, (*range(1, 0x2100), 0xFFF9, 0x1F600)))
    line = to_json({"text": text})
    assert json.loads(line) == {"text": text} and to_line(line) == line and "é" in line and "\U0001f600" in line
