"""What each instruction does: the handler of instructions.cpp, operands in its order, parameters, and what it costs.

Every modifier that an instruction may have is named here; one that is not known is an error, not a guess.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.machine_code.disassembly import Function, Instruction

NONE, REGISTER, UNIFORM, PREDICATE, UNIFORM_PREDICATE, IMMEDIATE, CONSTANT, ADDRESS = range(8)
ZERO_REGISTER, ZERO_UNIFORM, TRUE_PREDICATE = 255, 63, 7


class UnknownInstructionError(Exception):
    """An instruction, or a form of one, whose meaning is not written down here."""


class Operand(NamedTuple):
    """As machine.h has it."""

    kind: int = NONE
    negative: bool = False
    inverted: bool = False
    absolute: bool = False
    index: int = ZERO_REGISTER
    uniform: int = ZERO_UNIFORM
    pair: bool = False
    scale: int = 1
    value: int = 0
    bank: int = 0


ABSENT = Operand()


class Meaning(NamedTuple):
    """A handler with its operands, as printed or ready, and parameters."""

    handler: str
    operands: list[str | Operand]
    parameters: list[int] = []  # noqa: RUF012


# ---- operands --------------------------------------------------------------------------------------------------------


def _number(text: str, zero: int) -> int:
    return zero if text == "Z" else int(text)


def _signed(sign: str, digits: str) -> int:
    return -int(digits, 16) if sign else int(digits, 16)


_NANS = {"e": 0x7FFF, "f": 0x7FFFFFFF, "d": 0x7FFFFFFFFFFFFFFF}


def _float_bits(text: str, kind: str) -> int:
    """Bits, as a signed number, of one that is printed in decimals: half ("e"), float ("f") or double ("d")."""
    if text.endswith("QNAN"):
        return -1 if text[0] == "-" else _NANS[kind]
    return int.from_bytes(struct.pack(f"<{kind}", float(text)), "little", signed=True)


def operand(text: str, real: str = "f") -> Operand:
    """An operand as it is printed; `real` is the kind of numbers in decimals."""
    text = text.strip()
    if found := re.fullmatch(r"(!?)(U?)P(\d|T)", text):
        kind = UNIFORM_PREDICATE if found[2] else PREDICATE
        return Operand(kind, inverted=bool(found[1]), index=TRUE_PREDICATE if found[3] == "T" else int(found[3]))
    if found := re.fullmatch(r"(-?)0x([0-9a-f]+)", text):
        return Operand(IMMEDIATE, value=_signed(*found.groups()))
    if text.startswith(("[", "desc[")):
        return _address(text)
    sign = re.fullmatch(r"([-~]?)(\|?)(.*?)\|?", text)
    flags = {"negative": sign[1] == "-", "inverted": sign[1] == "~", "absolute": bool(sign[2])}
    if found := re.fullmatch(r"(U?)R(\d+|Z)(?:\.(?:H([01])_H[01]|B([0-3])|64))?", sign[3]):
        part = int(found[3] or found[4] or 0)
        if found[1]:
            return Operand(UNIFORM, **flags, index=_number(found[2], ZERO_UNIFORM), value=part)
        return Operand(REGISTER, **flags, index=_number(found[2], ZERO_REGISTER), value=part)
    if sign[3].startswith("c["):
        return _constant(sign[3])._replace(**flags)
    try:
        return Operand(IMMEDIATE, value=_float_bits(text, real))
    except ValueError:
        raise UnknownInstructionError(f"operand {text}") from None


def _constant(text: str) -> Operand:
    found = re.fullmatch(r"c\[0x(\w+)\]\[(.*)\]", text)
    if found is None:
        raise UnknownInstructionError(f"constant {text}")
    result = Operand(CONSTANT, bank=int(found[1], 16))
    return _sum(result, found[2], text)


def _address(text: str) -> Operand:
    """``[R1+UR2+0x10]``, or ``desc[UR4][R2.64+0x10]``, whose descriptor says nothing that matters here."""
    found = re.fullmatch(r"(?:desc\[UR\d+\])?\[(.*)\]", text)
    if found is None:
        raise UnknownInstructionError(f"address {text}")
    return _sum(Operand(ADDRESS, pair=text.startswith("desc")), found[1], text)


def _sum(result: Operand, terms: str, text: str) -> Operand:
    for term in terms.split("+"):
        if found := re.fullmatch(r"(-?)0x([0-9a-f]+)", term):
            result = result._replace(value=result.value + _signed(*found.groups()))
        elif found := re.fullmatch(r"R(\d+|Z)(?:\.(64|U32|X4|X8|X16))?", term):
            scale = int(found[2][1:]) if found[2] and found[2][0] == "X" else 1
            result = result._replace(
                index=_number(found[1], ZERO_REGISTER),
                scale=scale,
                pair=(result.pair and found[2] != "U32") or found[2] == "64",
            )
        elif found := re.fullmatch(r"UR(\d+|Z)", term):
            result = result._replace(uniform=_number(found[1], ZERO_UNIFORM))
        else:
            raise UnknownInstructionError(f"address {text}")
    return result


def _is_predicate(text: str) -> bool:
    return re.fullmatch(r"!?U?P(\d|T)", text) is not None


# ---- instructions ----------------------------------------------------------------------------------------------------

Decoder = Callable[[Instruction, Function], Meaning]
_DECODERS: dict[str, tuple[Decoder, frozenset[str]]] = {}


def _decodes(names: str, modifiers: str = "") -> Callable[[Decoder], Decoder]:
    """The function below decodes these instructions, which may have these modifiers."""

    def register(decoder: Decoder) -> Decoder:
        for name in names.split():
            _DECODERS[name] = decoder, frozenset(modifiers.split())
        return decoder

    return register


def _one_of(i: Instruction, names: str, default: int | None = None) -> int:
    """Which of the names is among the modifiers."""
    found = [index for index, name in enumerate(names.split()) if name in i.modifiers]
    if len(found) > 1 or (not found and default is None):
        raise UnknownInstructionError(f"needs one of {names}")
    return found[0] if found else default


def _carries(operands: list[str], most: int) -> tuple[list[str | Operand], list[str]]:
    """The destination and predicates after it, filled up, and the rest."""
    count = 1
    while count < len(operands) and _is_predicate(operands[count]):
        count += 1
    return [*operands[:count], *[ABSENT._replace(index=TRUE_PREDICATE)] * (most + 1 - count)], operands[count:]


def _filled(operands: list[str], count: int) -> list[str | Operand]:
    return [*operands, *[ABSENT] * (count - len(operands))]


@_decodes(
    "NOP YIELD MEMBAR ERRBAR CGAERRBAR CCTL ENDCOLLECTIVE NANOSLEEP PREEXIT ACQBULK FENCE",
    "SC GPU CTA SYS IVALL ALL VIEW ASYNC",
)
def _nothing(i: Instruction, f: Function) -> Meaning:
    return Meaning("nothing", [])


@_decodes("IMAD UIMAD", "WIDE HI U32 X MOV IADD SHL")
def _multiply_add(i: Instruction, f: Function) -> Meaning:
    results, (a, b, c, *carry) = _carries(i.operands, 1)
    part = 1 if "WIDE" in i.modifiers else 2 if "HI" in i.modifiers else 0
    if carry and "X" not in i.modifiers:
        raise UnknownInstructionError("a carry without X")
    return Meaning("multiply_add", [*results, a, b, c, *_filled(carry, 1)], [part, "U32" in i.modifiers])


@_decodes("IADD3 UIADD3", "X")
def _add3(i: Instruction, f: Function) -> Meaning:
    results, (a, b, c, *carries) = _carries(i.operands, 2)
    return Meaning("add3", [*results, a, b, c, *_filled(carries if "X" in i.modifiers else [], 2)])


@_decodes("VIADD")
def _add(i: Instruction, f: Function) -> Meaning:
    d, a, b = i.operands
    return Meaning("add3", [d, *[ABSENT._replace(index=TRUE_PREDICATE)] * 2, a, b, *[ABSENT] * 3])


@_decodes("LEA ULEA", "HI X SX32")
def _scaled_add(i: Instruction, f: Function) -> Meaning:
    results, rest = _carries(i.operands, 1)
    carry = [rest.pop()] if "X" in i.modifiers else []
    shift = int(rest.pop(), 16)
    part = 2 if "SX32" in i.modifiers else 1 if "HI" in i.modifiers else 0
    if len(rest) != (3 if part == 1 else 2):
        raise UnknownInstructionError("operands")
    return Meaning("scaled_add", [*results, *_filled(rest, 3), *_filled(carry, 1)], [shift, part])


@_decodes("LOP3 ULOP3", "LUT")
def _logic3(i: Instruction, f: Function) -> Meaning:
    operands = i.operands if _is_predicate(i.operands[0]) else ["PT", *i.operands]
    p, d, a, b, c, table, other = operands
    return Meaning("logic3", [p, d, a, b, c, other], [int(table, 16)])


@_decodes("PLOP3 UPLOP3", "LUT")
def _predicate_logic(i: Instruction, f: Function) -> Meaning:
    *operands, first, second = i.operands
    return Meaning("predicate_logic", operands, [int(first, 16), int(second, 16)])


@_decodes("ISETP UISETP", "LT LE GT GE EQ NE AND OR XOR U32 EX")
def _compare_integers(i: Instruction, f: Function) -> Meaning:
    how, join = _one_of(i, "LT LE GT GE EQ NE"), _one_of(i, "AND OR XOR")
    return Meaning("compare_integers", _filled(i.operands, 6), [how, "U32" in i.modifiers, join, "EX" in i.modifiers])


@_decodes("IABS")
def _absolute(i: Instruction, f: Function) -> Meaning:
    return Meaning("absolute", i.operands)


@_decodes("VIMNMX", "U32 U16x2")
def _extreme(i: Instruction, f: Function) -> Meaning:
    d, a, b, smaller = i.operands
    return Meaning("extreme_integer", [d, a, b, ABSENT, smaller], ["U32" in i.modifiers, 0, 0, "U16x2" in i.modifiers])


@_decodes("VIMNMX3", "U32")
def _extreme3(i: Instruction, f: Function) -> Meaning:
    return Meaning("extreme_integer", i.operands, ["U32" in i.modifiers, 0, 1, 0])


@_decodes("VIADDMNMX", "U32")
def _extreme_of_sum(i: Instruction, f: Function) -> Meaning:
    return Meaning("extreme_integer", i.operands, ["U32" in i.modifiers, 1, 1, 0])


@_decodes("SEL USEL")
def _select(i: Instruction, f: Function) -> Meaning:
    return Meaning("select", i.operands)


@_decodes("SHF USHF", "L R U32 S32 U64 S64 HI W")
def _shift(i: Instruction, f: Function) -> Meaning:
    m = i.modifiers
    far = bool(m & {"U64", "S64"})
    return Meaning("shift", i.operands, ["L" in m, "HI" in m, bool(m & {"S32", "S64"}), far, "W" in m])


@_decodes("PRMT UPRMT")
def _permute(i: Instruction, f: Function) -> Meaning:
    return Meaning("permute", i.operands)


@_decodes("MOV UMOV")
def _move(i: Instruction, f: Function) -> Meaning:
    if found := re.fullmatch(r"32@(lo|hi)\(\(?(\S+?)(?: \+ (\S+)@srel\)?)?\)", i.operands[1]):
        raise UnknownInstructionError(f"address of {found[2]}")
    return Meaning("move", i.operands)


@_decodes("CS2R", "32")
def _clear(i: Instruction, f: Function) -> Meaning:
    if i.operands[1] == "SR_CLOCKLO":
        return Meaning("special", [i.operands[0]], [7])
    if i.operands[1] != "SRZ":
        raise UnknownInstructionError("special register")
    return Meaning("clear", [i.operands[0]], [1 if "32" in i.modifiers else 2])


_SPECIAL = {
    "SR_TID.X": 0,
    "SR_CTAID.X": 1,
    "SR_CTAID.Y": 2,
    "SR_CTAID.Z": 3,
    "SR_CgaCtaId": 3,
    "SR_TID.Y": 3,
    "SR_TID.Z": 3,
}
_SPECIAL |= {"SR_VIRTUALSMID": 3, "SR_LANEID": 4, "SR_LTMASK": 5, "SR_SWINHI": 6, "SR_CLOCKLO": 7}


@_decodes("S2R S2UR")
def _special(i: Instruction, f: Function) -> Meaning:
    if i.operands[1] not in _SPECIAL:
        raise UnknownInstructionError("special register")
    return Meaning("special", [i.operands[0]], [_SPECIAL[i.operands[1]]])


@_decodes("R2UR", "FILL")
def _to_uniform(i: Instruction, f: Function) -> Meaning:
    return Meaning("move", i.operands)


@_decodes("P2R")
def _predicates_to_register(i: Instruction, f: Function) -> Meaning:
    d, _, a, mask = i.operands
    return Meaning("predicates_to_register", [d, a, mask])


@_decodes("R2P")
def _register_to_predicates(i: Instruction, f: Function) -> Meaning:
    return Meaning("register_to_predicates", i.operands[1:])


@_decodes("BREV UBREV")
def _reverse(i: Instruction, f: Function) -> Meaning:
    return Meaning("reverse", i.operands)


@_decodes("POPC UPOPC")
def _count(i: Instruction, f: Function) -> Meaning:
    return Meaning("count", i.operands)


@_decodes("FLO UFLO", "U32 SH")
def _find_leading_one(i: Instruction, f: Function) -> Meaning:
    return Meaning("find_leading_one", i.operands, ["SH" in i.modifiers, "U32" not in i.modifiers])


# ---- memory

_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
_SPACES = {"LDG": 0, "STG": 0, "LDS": 1, "STS": 1, "LDL": 2, "STL": 2, "LD": 3, "ST": 3}
_SPACES |= {"ATOMS": 1, "ATOMG": 0, "REDG": 0, "ATOM": 3, "RED": 3}


def _bytes(i: Instruction) -> int:
    return next((size for name, size in _BYTES.items() if name in i.modifiers), 4)


@_decodes("LDG LDS LDL LD", "E U8 S8 U16 S16 64 128 CONSTANT STRONG SYS GPU WEAK SM LU EF EL NA LTC128B LTC64B LTC256B")
def _load(i: Instruction, f: Function) -> Meaning:
    return Meaning("load", i.operands, [_SPACES[i.name], _bytes(i), bool(i.modifiers & {"S8", "S16"})])


@_decodes("STG STS STL ST", "E U8 S8 U16 S16 64 128 STRONG SYS GPU SM WEAK EF EL NA")
def _store(i: Instruction, f: Function) -> Meaning:
    return Meaning("store", i.operands, [_SPACES[i.name], _bytes(i)])


@_decodes("ATOMS ATOMG ATOM REDG RED", "E ADD MIN MAX EXCH CAS POPC INC AND OR XOR S32 32 64 STRONG GPU SYS SM CTA")
def _atomic(i: Instruction, f: Function) -> Meaning:
    operands = i.operands
    if i.name in ("ATOM", "ATOMG"):
        if operands[0] != "PT":
            raise UnknownInstructionError("predicate")
        operands = operands[1:]
    elif i.name in ("REDG", "RED"):
        operands = ["RZ", *operands]
    where = operand(operands[1])
    if i.name in ("ATOM", "ATOMG") and not where.pair:  # printed without .64
        where = where._replace(pair=True)
    what = _one_of(i, "ADD MIN MAX EXCH CAS POPC AND OR XOR")
    values = _filled(operands[2:], 2)
    return Meaning("atomic", [operands[0], where, *values], [_SPACES[i.name], _bytes(i), what, "S32" in i.modifiers])


@_decodes("LDC ULDC", "U8 S8 U16 S16 64 128")
def _load_constant(i: Instruction, f: Function) -> Meaning:
    return Meaning("load_constant", i.operands, [_bytes(i), bool(i.modifiers & {"S8", "S16"})])


@_decodes("LDGSTS", "E BYPASS ACCESS 64 128 LTC128B")
def _copy_ahead(i: Instruction, f: Function) -> Meaning:
    return Meaning("copy_ahead", i.operands, [_bytes(i)])


@_decodes("LDGDEPBAR")
def _commit_copies(i: Instruction, f: Function) -> Meaning:
    return Meaning("commit_copies", [])


@_decodes("DEPBAR", "LE")
def _wait_for_copies(i: Instruction, f: Function) -> Meaning:
    return Meaning("wait_for_copies", [], [int(i.operands[1], 16) if len(i.operands) > 1 else 0])


# ---- floating point

_ROUNDING = "RN RM RP RZ"
_WHOLE = "ROUND FLOOR CEIL TRUNC"


@_decodes("FADD FMUL FFMA", "RN RM RP RZ FTZ SAT")
def _arithmetic(i: Instruction, f: Function) -> Meaning:
    what = ["FADD", "FMUL", "FFMA"].index(i.name)
    parameters = [what, _one_of(i, _ROUNDING, 0), "FTZ" in i.modifiers, "SAT" in i.modifiers]
    return Meaning("arithmetic", _filled(i.operands, 4), parameters)


@_decodes("DADD DMUL DFMA", "RN RM RP RZ")
def _arithmetic_double(i: Instruction, f: Function) -> Meaning:
    what = ["DADD", "DMUL", "DFMA"].index(i.name)
    return Meaning("arithmetic_double", _filled(i.operands, 4), [what, _one_of(i, _ROUNDING, 0)])


_COMPARISONS = "LT LE GT GE EQ NE NUM NAN"
_UNORDERED = "LTU LEU GTU GEU EQU NEU"


@_decodes("FSETP DSETP", f"{_COMPARISONS} {_UNORDERED} AND OR XOR FTZ MIN MAX")
def _compare_reals(i: Instruction, f: Function) -> Meaning:
    if i.modifiers & {"MIN", "MAX"}:
        if i.name != "DSETP" or i.operands[4] != "PT" or "AND" not in i.modifiers:
            raise UnknownInstructionError("a choice")
        return Meaning("choose_double", i.operands[:4], ["MAX" in i.modifiers])
    unordered = bool(i.modifiers & set(_UNORDERED.split()))
    how = _one_of(i, _UNORDERED if unordered else _COMPARISONS)
    handler = "compare_floats" if i.name == "FSETP" else "compare_doubles"
    return Meaning(handler, i.operands, [how, unordered, _one_of(i, "AND OR XOR"), "FTZ" in i.modifiers])


@_decodes("FMNMX", "NAN")
def _extreme_float(i: Instruction, f: Function) -> Meaning:
    return Meaning("extreme_float", i.operands, ["NAN" in i.modifiers])


@_decodes("FSEL")
def _select_float(i: Instruction, f: Function) -> Meaning:
    return Meaning("select_float", i.operands)


@_decodes("MUFU", "RCP RSQ RCP64H")
def _function(i: Instruction, f: Function) -> Meaning:
    if "RCP64H" in i.modifiers:
        return Meaning("reciprocal_of_double", i.operands)
    return Meaning("function", i.operands, [_one_of(i, "RCP RSQ")])


@_decodes("FCHK")
def _check_division(i: Instruction, f: Function) -> Meaning:
    return Meaning("check_division", i.operands)


_TYPES = {"U64": 64, "S64": -64, "U32": 32, "S32": -32, "U16": 16, "S16": -16, "U8": 8, "S8": -8}


def _type(i: Instruction) -> int:
    return next((code for name, code in _TYPES.items() if name in i.modifiers), -32)


@_decodes("I2F", "U8 S8 U16 S16 U32 S32 U64 S64 F64 RP")
def _from_integer(i: Instruction, f: Function) -> Meaning:
    return Meaning("from_integer", i.operands, [_type(i), "F64" in i.modifiers, "RP" in i.modifiers])


@_decodes("I2FP", "F32 S32 U32")
def _from_word(i: Instruction, f: Function) -> Meaning:
    return Meaning("from_integer", i.operands, [_type(i), 0, 0])


@_decodes("F2I", "U32 S32 U64 S64 F64 FTZ NTZ TRUNC FLOOR CEIL")
def _to_integer(i: Instruction, f: Function) -> Meaning:
    return Meaning("to_integers", i.operands, [_type(i), "F64" in i.modifiers, _one_of(i, _WHOLE, 0)])


@_decodes("FRND", "FLOOR CEIL TRUNC")
def _round(i: Instruction, f: Function) -> Meaning:
    return Meaning("round_to_whole", i.operands, [_one_of(i, _WHOLE, 0)])


@_decodes("F2F", "F32 F64")
def _convert(i: Instruction, f: Function) -> Meaning:
    return Meaning("widen" if ".F64.F32" in i.text else "narrow", i.operands)


@_decodes("HADD2", "F32")
def _widen_half(i: Instruction, f: Function) -> Meaning:
    d, zero, half = i.operands
    if zero != "-RZ" or "F32" not in i.modifiers or not re.fullmatch(r"R\d+\.H[01]_H[01]", half):
        raise UnknownInstructionError("arithmetic of halves")
    return Meaning("widen_half", [d, half])


@_decodes("HFMA2", "MMA")
def _two_halves(i: Instruction, f: Function) -> Meaning:
    d, x, y, high, low = i.operands
    if (x, y) != ("-RZ", "RZ"):
        raise UnknownInstructionError("arithmetic of halves")
    value = _float_bits(high, "e") << 16 | _float_bits(low, "e") & 0xFFFF
    return Meaning("move", [d, Operand(IMMEDIATE, value=value)])


# ---- between lanes, and control


@_decodes("SHFL", "IDX UP DOWN BFLY")
def _shuffle(i: Instruction, f: Function) -> Meaning:
    return Meaning("shuffle", i.operands, [_one_of(i, "IDX UP DOWN BFLY")])


@_decodes("VOTE VOTEU", "ALL ANY")
def _vote(i: Instruction, f: Function) -> Meaning:
    operands = list(i.operands)
    if len(operands) == 2 and _is_predicate(operands[0]):
        operands.insert(0, ABSENT)
    elif len(operands) == 2:
        operands.insert(1, ABSENT._replace(index=TRUE_PREDICATE))
    return Meaning("vote", operands, [_one_of(i, "ANY ALL")])


@_decodes("REDUX", "SUM MIN MAX AND OR XOR S32")
def _reduce(i: Instruction, f: Function) -> Meaning:
    return Meaning("reduce", i.operands, [_one_of(i, "SUM MIN MAX AND OR XOR", 3), "S32" in i.modifiers])


def _target(text: str, f: Function) -> int:
    found = re.search(r"`\((\S+?)\)", text)
    if found is None or found[1] not in f.labels:
        raise UnknownInstructionError(f"target {text}")
    return f.labels[found[1]]


@_decodes("BRA CALL", "DIV REL NOINC U")
def _branch(i: Instruction, f: Function) -> Meaning:
    *condition, target = i.operands
    if "DIV" in i.modifiers:
        return Meaning("branch_if_divided", condition, [_target(target, f)])
    return Meaning("branch", condition or ["PT"], [_target(target, f)])


@_decodes("RET", "REL NODEC")
def _return(i: Instruction, f: Function) -> Meaning:
    return Meaning("return_to", [i.operands[0].split()[0]])


@_decodes("EXIT")
def _exit(i: Instruction, f: Function) -> Meaning:
    return Meaning("exit_program", [])


@_decodes("BSSY")
def _begin_convergence(i: Instruction, f: Function) -> Meaning:
    return Meaning("begin_convergence", [], [int(i.operands[0][1:])])


@_decodes("BSYNC")
def _converge(i: Instruction, f: Function) -> Meaning:
    return Meaning("converge", [], [int(i.operands[0][1:])])


@_decodes("BREAK")
def _give_up_convergence(i: Instruction, f: Function) -> Meaning:
    *condition, barrier = i.operands
    return Meaning("give_up_convergence", condition or ["PT"], [int(barrier[1:])])


@_decodes("WARPSYNC", "ALL COLLECTIVE EXCLUSIVE")
def _meet_warp(i: Instruction, f: Function) -> Meaning:
    named = "ALL" not in i.modifiers
    return Meaning("meet_warp", i.operands[:1] if named else [ABSENT], [named])


@_decodes("BAR", "SYNC ARV DEFER_BLOCKING")
def _meet_block(i: Instruction, f: Function) -> Meaning:
    return Meaning("meet_block", _filled(i.operands, 2), ["ARV" not in i.modifiers])


# ---- what it costs ---------------------------------------------------------------------------------------------------

FMA, HEAVY_FMA, ALU, DOUBLE, TRANSCENDENTAL, MEMORY, UNIFORM_PIPE, BRANCH = range(8)
PIPE_NAMES = ("FMA", "heavy FMA", "ALU", "double", "transcendental", "memory", "uniform", "branch")
_PIPES = {
    FMA: "FADD FMUL FFMA",
    HEAVY_FMA: "IMAD HFMA2 HADD2",
    DOUBLE: "DADD DMUL DFMA DSETP",
    TRANSCENDENTAL: "MUFU I2F F2I F2F FRND POPC BREV FLO",
    MEMORY: "LDS STS LDG STG LD ST LDL STL ATOMS ATOM ATOMG REDG RED SHFL LDC S2R MEMBAR LDGSTS LDGDEPBAR",
    UNIFORM_PIPE: "S2UR R2UR VOTEU",
    BRANCH: "BRA BSSY BSYNC BREAK EXIT CALL RET WARPSYNC BAR NOP YIELD",
}
_PIPE_OF = {name: pipe for pipe, names in _PIPES.items() for name in names.split()}
# Cycles until a scoreboard says that the result is there; those of memory are the machine's.
_LATENCIES = {
    24: "SHFL",
    22: "MUFU I2F F2I F2F FRND",
    18: "POPC BREV FLO",
    30: "LDC ULDC",
    25: "S2R S2UR",
    16: "DADD DMUL DFMA DSETP",
}
_LATENCY_OF = {name: cycles for cycles, names in _LATENCIES.items() for name in names.split()}
_OTHER_LATENCY = 12


def decode(i: Instruction, f: Function) -> tuple[object, ...]:
    """An instruction as machine.h takes it."""
    decoder, known = _DECODERS.get(i.name, (None, frozenset()))
    try:
        if decoder is None:
            raise UnknownInstructionError("not known")
        if i.modifiers - known:
            raise UnknownInstructionError(f"modifier {', '.join(sorted(i.modifiers - known))}")
        real = "d" if i.name[0] == "D" else "f"
        meaning = decoder(i, f)
        operands = [each if isinstance(each, Operand) else operand(each, real) for each in meaning.operands]
    except (UnknownInstructionError, ValueError, IndexError) as error:
        raise UnknownInstructionError(f"{i.text!r} at {i.address:#06x} of {f.name}: {error}") from error
    pipe = _PIPE_OF.get(i.name, UNIFORM_PIPE if i.name[0] == "U" else ALU)
    latency = _LATENCY_OF.get(i.name, _OTHER_LATENCY)
    parameters = [int(each) for each in meaning.parameters]
    operands = [tuple(each) for each in operands]
    return meaning.handler, tuple(operand(i.guard)), operands, parameters, i.address, i.text, i.control, pipe, latency
