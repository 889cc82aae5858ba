"""Pages: no text becomes markup, nothing is let in, and charts add up."""

import re
from collections import Counter

from fastcam.report import write_report
from fastcam.report.page import WIDTH, bars, confused, matrix
from tests.support.reports import EVIL, Page, failed, row, write_run


def test_no_text_becomes_markup(tmp_path):
    names = tuple(EVIL)
    rows = [row(text, text, 0.5, (0, 0, 9, 9), classes=names) for text in EVIL]
    rows += [failed(f"{text}/x", f"{text}: {text}") for text in EVIL]
    run = write_run(tmp_path / "<b>run", rows, method=EVIL[0], **{EVIL[1]: EVIL[2]})
    page = Page(write_report(run, folder_labels=True).path)
    assert set(EVIL) <= set(page.cards)
    assert page.data["names"][: len(EVIL)] == list(EVIL)
    usual = write_run(tmp_path / "plain", [row("a/a", "cat", 0.5), failed("b/x", "c: d")])
    plain = Page(write_report(usual, folder_labels=True).path)
    # The same elements as in a page of plain names, only more rows of them.
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert [a for tag, a in page.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("style", "href", "src", "action") for name in attributes)
    assert "<" not in page.scripts["data"]
    words = "".join(page.words)
    for text in EVIL:
        assert text.replace("\r\n", "\n") in words  # as HTML has it


def test_the_policy_lets_nothing_in(run):
    page = Page(write_report(run).path)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["require-trusted-types-for"] == "'script'"
    assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", directives[name]) for name in ("script-src", "style-src"))
    assert "unsafe" not in policy
    assert not any(name in a for _, a in page.tags for name in ("src", "href"))
    assert "http:" not in page.text + page.scripts[None].replace("http://www.w3.org/2000/svg", "")


def test_bars_add_up_and_stay_inside():
    drawn, top = bars({"right": [3, 0, 1], "wrong": [1, 2, 0]})
    assert top == 4
    assert [(bar.kind, bar.y, bar.height) for bar in drawn] == [
        ("right", 40, 120),
        ("wrong", 0, 40),
        ("wrong", 80, 80),
        ("right", 120, 40),
    ]
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH for bar in drawn)
    assert bars({"": [0, 0]}) == ([], 0)


def test_confusion_as_matrix_or_pairs():
    confusion = Counter({(0, 0): 9, (0, 1): 1, (1, 0): 2, (2, -1): 1})
    columns, rows = matrix(confusion)
    assert columns == [0, 1, 2, -1]
    assert [(label, [cell.count for cell in cells]) for label, cells in rows] == [
        (0, [9, 1, 0, 0]),
        (1, [2, 0, 0, 0]),
        (2, [0, 0, 0, 1]),
    ]
    assert [cell.shade for cell in rows[0][1]] == [9, 1, 0, 0]
    assert confused(confusion) == [(1, 0, 2, 1.0), (0, 1, 1, 0.1), (2, -1, 1, 1.0)]
    many = Counter({(i, i): 1 for i in range(100)} | {(i, i + 1): 1 for i in range(100)})
    assert matrix(many) is None
    assert len(confused(many)) == 20


def test_many_classes_show_what_is_confused_most(tmp_path):
    names = tuple(f"class-{i:03}" for i in range(60))
    rows = [
        row(f"{names[i]}/{j}.png", names[(i + (j == 0)) % 60], 0.5, classes=names) for i in range(60) for j in (0, 1)
    ]
    page = Page(write_report(write_run(tmp_path, rows)).path)
    assert "label found pictures of the label class-000 class-001 1 50 %" in page.text
