"""What compute-sanitizer found, judged: ``python -m benchmarks.sanitizers FOLDER``, whose logs are named as its tools.

Of what it reports these are no findings:

- by racecheck, between two accesses that are both meant to race: `load_relaxed` and `store_relaxed` of block.cuh, and
  atomics (the union-find and the merge tree go on whatever they read). They are known by their lines: the extension is
  built with -lineinfo;
- by initcheck, what kernels of torch read. It has to watch them all, or it would not see what they write.

Exit code 0 if the four tools got to the end and found nothing else.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
SOURCES = Path(__file__).resolve().parents[1] / "csrc" / "cuda"
NO_REPORT = ("COMPUTE-SANITIZER", "ERROR SUMMARY", "RACECHECK SUMMARY", "Target application")


class Verdict(NamedTuple):
    """What is left of a tool's log."""

    ended: bool  # the program came to its end and found its results right
    findings: Counter[str]  # by kind and place
    intended: int  # reports that are no findings

    @property
    def good(self) -> bool:
        """Whether there is nothing to mend."""
        return self.ended and not self.findings


def judge(tool: str, log: str) -> Verdict:
    """Count what a tool reports."""
    findings: Counter[str] = Counter()
    intended = 0
    for report in reports(log):
        if passes(tool, report):
            intended += 1
        else:
            findings[" ".join(_short(line) for line in report[:2])] += 1
    return Verdict("cases agree" in log, findings, intended)


def reports(log: str) -> Iterator[list[str]]:
    """The reports, each as its lines, the first of which is not indented."""
    found: list[str] = []
    for line in log.splitlines():
        text = line.removeprefix("========= ")
        if text == line or not text.strip():  # of the program itself, or empty
            continue
        if text.startswith(" "):
            found.append(text.strip())
            continue
        if found and not found[0].startswith(NO_REPORT):
            yield found
        found = [text]
    if found and not found[0].startswith(NO_REPORT):
        yield found


def passes(tool: str, report: list[str]) -> bool:
    """Whether a report is of what is meant to be."""
    if tool == "initcheck":
        return report[0].startswith("Uninitialized") and not any("fastcam::" in line for line in report)
    if tool != "racecheck" or "Race reported" not in report[0]:
        return False
    places = [re.search(r" in (?:\S*/)?([\w.]+):(\d+)", line) for line in report if " access at " in line]
    return len(places) > 1 and all(place and _meant(place[1], int(place[2])) for place in places)


def _meant(file: str, line: int) -> bool:
    return (file, line) in meant_to_race() or "atomic" in file  # CUDA's own headers have atomics by name


@cache
def meant_to_race() -> frozenset[tuple[str, int]]:
    """Lines, by file and number, of relaxed loads and stores and of atomics."""
    found = set()
    for path in SOURCES.iterdir():
        relaxed = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            relaxed = (relaxed or re.search(r"__device__ .*\b(load|store)_relaxed\(", line) is not None) and line != "}"
            if relaxed or re.search(r"\batomic[A-Z]\w*\(", line):
                found.add((path.name, number))
    return frozenset(found)


def _short(line: str) -> str:
    """Without what differs between reports of one kind."""
    return re.sub(r"\(.*?\)\+0x\w+|<.*>| \[\d+ hazards\]", "", line)


def main(folder: str) -> int:
    good = 0
    for tool in TOOLS:
        path = Path(folder, f"{tool}.log")
        log = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        verdict = judge(tool, log)
        good += verdict.good
        own = [line for line in log.splitlines() if line.strip() and not line.startswith("=")]
        end = (
            "to the end" if verdict.ended else f"not to the end, where the program last said: {own[-1] if own else ''}"
        )
        count = f"{sum(verdict.findings.values())} findings, {verdict.intended} reports of what is meant"
        print(f"- {tool}: {count}; {end}")
        for place, times in verdict.findings.most_common(12):
            print(f"  - {times} × {place}")
    return 0 if good == len(TOOLS) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
