from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line, to_line


def test_no_control_character_breaks_a_row():
    assert to_line("а\nб\r\tв\u2028г\x85д") == "а б  в г д"


def test_the_messages_of_libraries_are_folded_and_cut():
    assert one_line(ValueError("first\n   second")) == "first second"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt", "an error without a message gives its name"
    assert len(one_line(ValueError("a " * 1000))) == 300 and one_line(ValueError("a " * 1000)).endswith("...")


def test_our_own_messages_cannot_steer_a_terminal():
    assert str(RequestError("file\x1b[31m\nname")) == "file [31m name"
