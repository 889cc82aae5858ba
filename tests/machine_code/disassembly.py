"""Reads cubins: instructions as nvdisasm prints them, and what else a kernel needs, from the ELF file itself."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

SHARED_BEGIN = 0x400  # of a block's shared memory; what lies before belongs to the system


class Line(NamedTuple):
    """A line of source."""

    file: str
    number: int


@dataclass
class Instruction:
    """One instruction as it is printed, with its control code and the lines it comes from, innermost first."""

    address: int
    text: str
    encoding: int
    labels: list[str]
    lines: list[Line]

    def __post_init__(self) -> None:
        guard, text = re.fullmatch(r"(?:@(!?U?P\w+)\s+)?(.*)", self.text).groups()
        self.guard: str = guard or "PT"
        name, _, rest = text.partition(" ")
        self.name, *modifiers = name.split(".")
        self.modifiers = set(modifiers)
        self.operands = list(_split(rest.replace(".reuse", "").strip()))

    @property
    def control(self) -> tuple[int, int, int, int]:
        """Cycles until the next may follow; scoreboards set after writing and reading (7: none); those waited for."""
        code = self.encoding >> 105
        return code & 15, code >> 5 & 7, code >> 8 & 7, code >> 11 & 63


def _split(text: str) -> Iterator[str]:
    depth, part = 0, ""
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += character
    if part.strip():
        yield part.strip()


@dataclass
class Function:
    """A kernel."""

    name: str
    code: list[Instruction] = field(default_factory=list)
    registers: int = 0
    shared: int = 0  # bytes, declared statically
    constants: dict[int, bytes] = field(default_factory=dict)

    @cached_property
    def labels(self) -> dict[str, int]:
        """Places in the code by name."""
        return {label: place for place, each in enumerate(self.code) for label in each.labels}


_FUNCTION = re.compile(r"\s*\.section\s+\.text\.([^\s,]+),")
_LABEL = re.compile(r"([.$\w]+):$")
_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;\s*/\* 0x([0-9a-f]{16}) \*/")
_UPPER_HALF = re.compile(r"\s*/\* 0x([0-9a-f]{16}) \*/")
_SOURCE = re.compile(r'\s*//## File "([^"]+)", line (\d+)(?: inlined at "([^"]+)", line (\d+))?')


def instructions(printed: str) -> dict[str, list[Instruction]]:
    """The instructions of all kernels in what ``nvdisasm -c -hex -gi`` printed."""
    kernels: dict[str, list[Instruction]] = {}
    code: list[Instruction] | None = None
    labels: list[str] = []
    lines: list[Line] = []
    begun = None
    fresh = True  # the next line of source begins another chain of inlined calls
    for text in printed.splitlines():
        if found := _INSTRUCTION.match(text):
            begun, fresh = found, True
        elif begun and (found := _UPPER_HALF.match(text)):
            encoding = int(found[1], 16) << 64 | int(begun[3], 16)
            code.append(Instruction(int(begun[1], 16), begun[2], encoding, labels, lines))
            labels, begun = [], None
        elif found := _FUNCTION.match(text):
            code = kernels.setdefault(found[1], [])
            labels, lines = [], []
        elif found := _SOURCE.match(text):
            lines = [] if fresh else list(lines)
            fresh = False
            for file, number in (found.group(1, 2), found.group(3, 4)):
                line = file and Line(Path(file).name, int(number))
                if line and lines[-1:] != [line]:
                    lines.append(line)
        elif code is not None and (found := _LABEL.match(text)):
            labels.append(found[1])
    return kernels


class Cubin:
    """A cubin's kernels. Its variables get memory of their own, filled with zeros, which lives as long as this."""

    def __init__(self, binary: bytes, printed: str):
        self._binary = binary
        self._sections = self._read_sections()
        self.variables = bytearray(max(1, self._sections.get(".nv.global", (0, 0, 0))[1]))
        if ".nv.global.init" in self._sections:
            raise NotImplementedError("variables that are not zero at first")
        self._printed = instructions(printed)
        self._registers = dict(self._read_registers())

    @property
    def names(self) -> list[str]:
        """Of its kernels."""
        return list(self._printed)

    def function(self, name: str) -> Function:
        """A kernel by its mangled name."""
        shared = self._sections.get(f".nv.shared.{name}", (0, SHARED_BEGIN, 0))[1] - SHARED_BEGIN
        return Function(name, self._printed[name], self._registers[name], shared, self._constants(name))

    def _read_sections(self) -> dict[str, tuple[int, int, int]]:
        """Offset, size and index by name."""
        (table,) = struct.unpack_from("<Q", self._binary, 40)
        size, count, names = struct.unpack_from("<HHH", self._binary, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", self._binary, table + i * size) for i in range(count)]
        return {self._text(headers[names][4] + h[0]): (h[4], h[5], i) for i, h in enumerate(headers)}

    def _text(self, offset: int) -> str:
        return self._binary[offset : self._binary.index(b"\0", offset)].decode()

    def _bytes(self, section: str) -> bytes:
        offset, size, _ = self._sections[section]
        return self._binary[offset : offset + size]

    def _symbols(self) -> list[tuple[str, int, int]]:
        """Name, section and value."""
        names = self._sections[".strtab"][0]
        symbols = struct.iter_unpack("<IBBHQQ", self._bytes(".symtab"))
        return [(self._text(names + s[0]), s[3], s[4]) for s in symbols]

    def _read_registers(self) -> Iterator[tuple[str, int]]:
        """Kernels and their registers: attribute 0x2f of .nv.info."""
        symbols, attributes, at = self._symbols(), self._bytes(".nv.info"), 0
        while at < len(attributes):
            kind, attribute, size = struct.unpack_from("<BBH", attributes, at)
            if attribute == 0x2F:
                symbol, count = struct.unpack_from("<II", attributes, at + 4)
                yield symbols[symbol][0], count
            at += 4 + (size if kind == 4 else 0)

    def _constants(self, name: str) -> dict[int, bytes]:
        """The banks that are the compiler's own; the fourth holds addresses of variables."""
        banks = {}
        for section in self._sections:
            found = re.fullmatch(r"\.nv\.constant(\d+)(?:\.(.+))?", section)
            if found and found[1] != "0" and found[2] in (None, name):
                banks[int(found[1])] = self._bytes(section)
        if 4 in banks:
            addresses, symbols = bytearray(banks[4]), self._symbols()
            memory = (struct.calcsize("P") * b"\0", self.variables)[1]
            base = _address_of(memory)
            for offset, info, addend in struct.iter_unpack("<QQq", self._bytes(".rela.nv.constant4")):
                _, section, value = symbols[info >> 32]
                if section == self._sections[".nv.global"][2]:
                    struct.pack_into("<Q", addresses, offset, base + value + addend)
            banks[4] = bytes(addresses)
        return banks


def _address_of(memory: bytearray) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
