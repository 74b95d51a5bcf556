"""User-given names, such as those of classes and files, shown safely wherever they go.

Names are kept as they are, in models, JSON and Parquet too. Whatever shows them passes them through one of these:
terminals, pages and figures through `printable` (pages also through `html.escape`, figures with ``parse_math=False``),
tables through `csv_cell`.
"""

import re
import unicodedata

# Control characters, directions and other marks without a shape, lone surrogates, separators of lines.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # belong to words of Persian and Hindi, and to emoji
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def printable(text: str) -> str:
    r"""Return a text in one line without what a terminal could obey: ``"a\x1b[2J"`` has its escape as ``\x1b``."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS
        else character
        for character in text
    )


def csv_cell(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula; `from_csv_cell` gives it back.

    As OWASP recommends, an apostrophe comes before ``=``, ``+``, ``-``, ``@``, tab and carriage return; and before
    apostrophes that precede one of these, so that it is known which to remove.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_cell(cell: str) -> str:
    """Return the text that `csv_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
