"""Which function of ``csrc`` a line belongs to: machine code tells lines of source, and no names."""

import re
from functools import cache
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
_COMMENT, _STRING, _DIRECTIVE = r"//[^\n]*|/\*.*?\*/", r'"(?:\\.|[^"\\\n])*"', r"^#[^\n]*"
_IGNORED = re.compile(f"{_COMMENT}|{_STRING}|{_DIRECTIVE}", re.DOTALL | re.MULTILINE)
_ATTRIBUTE = re.compile(r"\b(?:__launch_bounds__|alignas)\s*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
_NAME = re.compile(r"(operator\s*(?:\(\)|[^\s\w(]+)|~?\w+)\s*\(")


@cache
def _functions(file: str) -> list[tuple[int, int, str]]:
    """First line, last line and name of the functions that a file defines outside others."""
    path = next(CSRC.rglob(file), None)
    if path is None:
        return []
    text = _IGNORED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), path.read_text())
    functions = []
    scopes: list[tuple[int, str] | None] = []  # those that are open: where a function begins, and its name
    begin = 0  # of the declaration at hand
    for found in re.finditer(r"[{};]", text):
        inside = any(scopes)
        if found[0] == "{":
            declaration = _ATTRIBUTE.sub(lambda each: " " * len(each[0]), text[begin : found.start()])
            name = None if inside else _NAME.search(declaration)
            first = text.count("\n", 0, begin + len(declaration) - len(declaration.lstrip())) + 1
            scopes.append((first, name[1]) if name else None)
        elif found[0] == "}" and scopes and (scope := scopes.pop()):
            functions.append((scope[0], text.count("\n", 0, found.start()) + 1, scope[1]))
        if not inside or not any(scopes):
            begin = found.end()
    return functions


@cache
def function_at(file: str, line: int) -> str:
    """Its name, or the file's for lines outside functions and files of others."""
    return next((name for first, last, name in _functions(file) if first <= line <= last), file)
