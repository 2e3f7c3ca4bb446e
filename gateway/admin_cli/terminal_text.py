"""Texts from elsewhere, made safe for a terminal: names are chosen by whoever makes calls."""


def one_line(text: str) -> str:
    """Return `text` with each character that is not printable written as its escape.

    Escape sequences, line breaks, bidirectional marks and lone surrogates reach no terminal.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def lines(text: str) -> str:
    """Return `text` in lines, each as `one_line` has it; a tab is four blanks."""
    return "\n".join(one_line(line) for line in text.expandtabs(4).split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
