"""Every command and every line of Python on the documentation's pages, run in order, and what they print.

A page runs from top to bottom in a folder of its own, which is empty at first; with the line
`<!-- goes on from: start.md -->` it begins with what that page has left. Blocks are

- ```python: run as they stand, in one namespace a page; with `>>>` they are doctests;
- ```sh: run by bash, and all must succeed;
- ```console: lines that begin with `$ ` are run by bash, and those below them are what they print, on both streams.
  Blanks and decimals may differ (of other processors the last digits do), `...` is whatever there is, or nothing.
  Without lines below, what they print is not looked at.

What is no code says so: ```text and other languages of `NO_CODE` are not run. What cannot run here is marked above:
`<!-- skip: next "needs a GPU" -->`, always with the reason.
"""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import SkipTest

import pytest

sybil = pytest.importorskip("sybil", reason="needs sybil, which reads the blocks of pages")
from sybil import Example, Sybil  # noqa: E402
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser  # noqa: E402

from tests.support.commands import run  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
GOES_ON = re.compile(r"<!-- goes on from: (\S+) -->")
FENCE = re.compile(r"^ *(```+|~~~+)(.*)$", re.MULTILINE)
NO_CODE = ("text", "toml", "json", "csv", "yaml", "html", "bibtex", "cpp")  # shown, not run
PLAIN = re.compile(r"""fastcam (?P<words>[^|&;<>$`*#]*)( \|\| echo "(?P<otherwise>[^"]*)")?""")
SKIPPED = re.compile(r"<!--+\s*skip:? *(next|start)(?P<reason>.*?)--+>")
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DECIMALS = re.compile(r"\d+\.\d+(e[-+]\d+)?")

pytestmark = pytest.mark.long  # commands of many pages, some of which train


def _shell(block: str) -> str:
    """What a block of commands prints, on both streams; one that fails ends it, and raises."""
    # A process of its own takes seconds to load torch, so that plain commands of fastcam run in this one.
    lines = [line for line in re.sub(r"\\\n\s*", " ", block).splitlines() if line.strip()]
    plain = [PLAIN.fullmatch(line) for line in lines]
    if all(plain):
        printed = ""
        for found in filter(None, plain):
            with warnings.catch_warnings():
                warnings.resetwarnings()  # as on a command line: shown, and no errors
                for unseen in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                    warnings.simplefilter("ignore", unseen)
                result = run(*shlex.split(found["words"]))
            printed += result.output
            if result.exit_code and found["otherwise"]:
                printed += found["otherwise"].replace("$?", str(result.exit_code)) + "\n"
            else:
                assert result.exit_code == 0, f"$ {found[0]}\nended with exit code {result.exit_code}:\n{printed}"
        return printed
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"$ {block}\nended with exit code {done.returncode}:\n{done.stdout}"
    return done.stdout


def _sh(example: Example) -> None:
    _shell(example.parsed)


def _console(example: Example) -> None:
    commands: list[tuple[str, list[str]]] = []
    for line in example.parsed.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif commands and commands[-1][0].endswith("\\"):
            commands[-1] = f"{commands[-1][0]}\n{line}", []
        elif commands:
            commands[-1][1].append(line)
        else:
            raise AssertionError(f"a console block begins with a command, `$ …`, got {line!r}")
    for command, expected in commands:
        printed = _shell(command)
        if any(line.strip() for line in expected):
            same = re.fullmatch(_pattern("\n".join(expected)), _comparable(printed))
            assert same, "\n".join([f"$ {command}", "expected:", *expected, "got:", printed])


def _comparable(text: str) -> str:
    return " ".join(DECIMALS.sub("0.0", text).split())


def _pattern(expected: str) -> str:
    """Of what is comparable with what was expected."""
    parts = _comparable(expected.replace("…", "...")).split("...")
    return ".*".join(re.escape(part.strip()) for part in parts)


READER = Sybil(
    [
        PythonCodeBlockParser(doctest_optionflags=LOOSELY),
        CodeBlockParser("sh", _sh),
        CodeBlockParser("console", _console),
        SkipParser(),
    ]
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Folder of the pages' folders."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def done() -> dict[Path, list[str] | None]:
    """Of pages that have run, the reasons of what was skipped; None of those that failed."""
    return {}


@pytest.fixture
def shell(tmp_path, monkeypatch) -> None:
    """`fastcam` and `python` of this checkout on the PATH of commands, which see no terminal."""
    for name, words in (("python", ""), ("fastcam", "-m fastcam")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # keeps the order of the two streams
    monkeypatch.setenv("COLUMNS", "100")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _run(page: Path, base: Path, done: dict[Path, list[str] | None]) -> Path:
    """Run a page in its folder, which is given, and before it the one that it goes on from."""
    folder = base / _name(page).replace("/", "-")
    if page not in done:
        done[page] = None
        document = READER.parse(page)
        before = GOES_ON.search(document.text)
        if before is not None:
            assert f"]({before[1]})" in document.text, f"{_name(page)} does not tell that it goes on from {before[1]}"
        begins = None if before is None else _run((page.parent / before[1]).resolve(), base, done)
        folder.mkdir() if begins is None else shutil.copytree(begins, folder)
        os.chdir(folder)
        skipped = []
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                skipped.append(str(reason))
        done[page] = skipped
    assert done[page] is not None, f"{_name(page)} has failed, on its own or for a page that goes on from it"
    return folder


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_blocks_of_a_page_run_in_order(page, base, done, monkeypatch):
    monkeypatch.chdir(base)
    _run(page, base, done)
    blocks = [example for example in READER.parse(page).examples() if not isinstance(example.parsed, tuple)]
    if blocks and len(blocks) == len(done[page]):
        pytest.skip("; ".join(dict.fromkeys(done[page])))


def test_what_is_skipped_has_a_reason():
    for page in PAGES:
        for found in SKIPPED.finditer(page.read_text(encoding="utf-8")):
            assert re.search(r'"[^"]{5,}"', found["reason"]), f"{_name(page)}: {found[0]} gives no reason"


def test_every_block_is_run_or_says_what_it_is():
    for page in PAGES:
        opened = ""
        for fence, language in FENCE.findall(page.read_text(encoding="utf-8")):
            if not opened:
                known = language.strip() in ("python", "sh", "console", *NO_CODE) or language.startswith("{")
                assert known, f"{_name(page)}: a block in {language!r}; see {Path(__file__).name}"
                opened = fence
            elif fence.startswith(opened):
                opened = ""
