"""Names of pictures and classes as text formats can hold them."""

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def all_names(names: Mapping[int, str]) -> list[str]:
    """List classes without gaps, each name on one line.

    Args:
        names: class index → name, of those that are known.

    Returns:
        A name for each index from 0 to the highest: white space made single spaces, numbers for those unknown.
    """
    return [" ".join(names.get(index, "").split()) or str(index) for index in range(max(names, default=-1) + 1)]


def printable(text: str) -> str:
    """Replace what XML 1.0 cannot hold, such as most control characters.

    Args:
        text: any.

    Returns:
        The same with U+FFFD in their place.
    """
    return _NOT_XML.sub("\ufffd", text)


def xml_text(text: str) -> str:
    """Escape text for an element of XML so that it is read back to the letter.

    Args:
        text: that is `printable`.

    Returns:
        With entities and references.
    """
    return escape(text, {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"})


def yaml_text(text: str) -> str:
    """Quote text as a scalar of YAML.

    Args:
        text: any.

    Returns:
        In double quotes; all that is not printable, and quotes and backslashes, as escapes of eight digits.
    """
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text) + '"'
