"""Single instructions, as nvdisasm prints them, against values worked out by hand."""

import struct

import pytest

from tests.machine_code.decoding import UnknownInstructionError, decode
from tests.machine_code.disassembly import Function, Instruction, instructions
from tests.machine_code.simulator import Simulator, machine

UNIFORM, PREDICATE, ALL = 256, 1000, 0xFFFFFFFF


@pytest.fixture(scope="module")
def module():
    pytest.importorskip("pybind11")
    try:
        return machine()
    except OSError as error:
        pytest.skip(str(error))


def bits(value: float, kind: str = "f") -> int:
    return int.from_bytes(struct.pack(f"<{kind}", value), "little")


def words(value: float) -> tuple[int, int]:
    return bits(value, "d") & ALL, bits(value, "d") >> 32


def parsed(text: str) -> tuple[object, ...]:
    instruction = Instruction(0, text, 0, [], [])
    return decode(instruction, Function("single", [instruction]))


def execute(module, text, registers=None, predicates=None, memory=bytes(64), lanes=0x7FFFFFFF) -> dict[int, list[int]]:
    """All registers after one instruction; a number stands for itself in each lane."""
    rows = {index: row if isinstance(row, list) else [row] * 32 for index, row in (registers or {}).items()}
    return module.single(parsed(text), rows, predicates or {}, memory, lanes)


NEGATIVE = (1 << 32) - 5
VALUES = [
    ("IADD3 R0, R1, R2, R3", {1: 5, 2: 7, 3: ALL}, 11),
    ("IADD3 R0, R1, -R2, RZ", {1: 5, 2: 7}, ALL - 1),
    ("IADD3 R0, R1, -0x2, RZ", {1: 5}, 3),
    ("VIADD R0, R1, 0xffffffff", {1: 5}, 4),
    ("IMAD R0, R1, R2, R3", {1: 6, 2: 7, 3: NEGATIVE}, 37),
    ("IMAD.MOV.U32 R0, RZ, RZ, UR4", {UNIFORM + 4: 9}, 9),
    ("IMAD.HI.U32 R0, R1, R2, RZ", {1: 1 << 31, 2: 6}, 3),
    ("IMAD.SHL.U32 R0, R1, 0x8, RZ", {1: 3}, 24),
    ("LEA R0, R1, R2, 0x3", {1: 5, 2: 2}, 42),
    ("LEA.HI R0, R1, R2, RZ, 0x4", {1: 0xF0000000, 2: 1}, 16),
    ("LEA.HI.SX32 R0, R1, R2, 0x1c", {1: 0x80000000, 2: 0}, 0xF8000000),
    ("LOP3.LUT R0, R1, R2, RZ, 0xc0, !PT", {1: 12, 2: 10}, 8),
    ("LOP3.LUT R0, R1, R2, R3, 0x96, !PT", {1: 12, 2: 10, 3: 1}, 7),
    ("SHF.L.U32 R0, R1, 0x4, RZ", {1: 3}, 48),
    ("SHF.L.U32 R0, R1, R2, RZ", {1: 3, 2: 32}, 0),
    ("SHF.L.W.U32 R0, R1, R2, RZ", {1: 3, 2: 33}, 6),
    ("SHF.R.S32.HI R0, RZ, 0x1, R1", {1: NEGATIVE}, ALL - 2),
    ("SHF.R.U32.HI R0, RZ, 0x1f, R1", {1: NEGATIVE}, 1),
    ("SHF.L.U64.HI R0, R1, 0x4, R2", {1: 0xF0000000, 2: 1}, 31),
    ("SHF.L.U32.HI R0, R1, 0x1, R2", {1: 1 << 31, 2: 3}, 7),
    ("SHF.R.U32 R0, R1, 0x4, R2", {1: 0x10, 2: 3}, 0x30000001),
    ("SHF.R.U64 R0, R1, 0x4, R2", {1: 0x10, 2: 3}, 0x30000001),
    ("PRMT R0, R1, 0x5410, R2", {1: 0xAABB1122, 2: 0xCCDD3344}, 0x33441122),
    ("PRMT R0, R1, 0x8880, RZ", {1: 0x80}, 0xFFFFFF80),
    ("SEL R0, R1, R2, !PT", {1: 1, 2: 2}, 2),
    ("IABS R0, R1", {1: NEGATIVE}, 5),
    ("VIMNMX R0, R1, R2, PT", {1: NEGATIVE, 2: 1}, NEGATIVE),
    ("VIMNMX.U32 R0, R1, R2, PT", {1: NEGATIVE, 2: 1}, 1),
    ("VIMNMX.U16x2 R0, R1, R2, !PT", {1: 0x00010009, 2: 0x00080002}, 0x00080009),
    ("VIMNMX3 R0, R1, R2, R3, !PT", {1: 3, 2: NEGATIVE, 3: 8}, 8),
    ("VIADDMNMX R0, R1, R2, R3, PT", {1: 3, 2: 4, 3: 8}, 7),
    ("BREV R0, R1", {1: 1}, 1 << 31),
    ("POPC R0, R1", {1: 0xF0F}, 8),
    ("FLO.U32 R0, R1", {1: 0x100}, 8),
    ("FLO.U32.SH R0, R1", {1: 0x100}, 23),
    ("FLO.U32 R0, R1", {1: 0}, ALL),
    ("FADD R0, R1, -R2", {1: bits(1.5), 2: bits(0.25)}, bits(1.25)),
    ("FADD.FTZ R0, R1, -RZ", {1: 1}, 0),
    ("FADD.SAT R0, RZ, R1", {1: bits(1.5)}, bits(1.0)),
    ("FMUL R0, R1, 0.75", {1: bits(2.0)}, bits(1.5)),
    ("FFMA R0, R1, R2, R3", {1: bits(1 + 2**-23), 2: bits(1 + 2**-23), 3: bits(-1.0)}, bits(2**-22 + 2**-46)),
    ("FFMA.RP R0, R1, R2, R3", {1: bits(1.0), 2: bits(2**-40), 3: bits(1.0)}, bits(1 + 2**-23)),
    ("FFMA.RM R0, R1, R2, R3", {1: bits(1.0), 2: bits(2**-40), 3: bits(1.0)}, bits(1.0)),
    ("FMNMX R0, R1, R2, PT", {1: 0x7FC00000, 2: bits(2.0)}, bits(2.0)),
    ("FMNMX.NAN R0, R1, R2, PT", {1: 0x7FC00000, 2: bits(2.0)}, 0x7FFFFFFF),
    ("FMNMX R0, R1, RZ, PT", {1: 1 << 31}, 1 << 31),
    ("FSEL R0, -R1, R2, PT", {1: bits(2.0), 2: 0}, bits(-2.0)),
    ("FRND.FLOOR R0, R1", {1: bits(-1.5)}, bits(-2.0)),
    ("F2I.TRUNC.NTZ R0, R1", {1: bits(-1.5)}, ALL),
    ("F2I.FLOOR.NTZ R0, R1", {1: bits(-1.5)}, ALL - 1),
    ("F2I.FTZ.U32.TRUNC.NTZ R0, R1", {1: bits(3e9)}, 3_000_000_000),
    ("F2I.TRUNC.NTZ R0, R1", {1: bits(3e9)}, (1 << 31) - 1),
    ("I2FP.F32.S32 R0, R1", {1: NEGATIVE}, bits(-5.0)),
    ("I2F.U32.RP R0, R1", {1: (1 << 24) + 1}, bits(float((1 << 24) + 2))),
    ("I2F.S64 R0, R2", {2: NEGATIVE, 3: ALL}, bits(-5.0)),
    ("F2F.F32.F64 R0, R2", dict(zip((2, 3), words(1.25), strict=True)), bits(1.25)),
    ("HADD2.F32 R0, -RZ, R1.H1_H1", {1: bits(1.5, "e") << 16}, bits(1.5)),
    ("HFMA2.MMA R0, -RZ, RZ, 1.875, 0", {}, bits(1.875, "e") << 16),
    ("MUFU.RCP R0, R1", {1: bits(4.0)}, bits(0.25)),
    ("LDC.U16 R0, c[0x0][0x2]", {}, 0x0302),
    ("LDC R0, c[0x0][R1+0x4]", {1: 4}, 0x0B0A0908),
    ("LDS R0, [R1+0x4]", {1: 0x400}, 0x07060504),
    ("LDS.U8 R0, [R1+UR4+-0x1]", {1: 1, UNIFORM + 4: 0x402}, 2),
    ("S2R R0, SR_CTAID.X", {}, 0),
    ("REDUX.SUM.S32 UR5, R1", {1: 2}, None),
]


@pytest.mark.parametrize(("text", "registers", "expected"), VALUES, ids=[text for text, *_ in VALUES])
def test_value(module, text, registers, expected):
    after = execute(module, text, registers, memory=bytes(range(64)))
    if expected is None:
        assert after[UNIFORM + 5][0] == 62  # of the 31 lanes that are on
        return
    assert after[0][:31] == [expected] * 31
    assert after[0][31] == 0, "a lane that is off was written"


PAIRS = [
    ("IMAD.WIDE R0, R2, R3, R4", {2: NEGATIVE, 3: 3, 4: 1, 5: 0}, (-14) % (1 << 64)),
    ("IMAD.WIDE.U32 R0, R2, R3, RZ", {2: ALL, 3: ALL}, ALL * ALL),
    ("DADD R0, R2, -R4", dict(zip((2, 3, 4, 5), words(1.5) + words(0.25), strict=True)), bits(1.25, "d")),
    ("DFMA R0, R2, R4, -1", dict(zip((2, 3, 4, 5), words(1.5) + words(2.0), strict=True)), bits(2.0, "d")),
    ("DMUL.RP R0, R2, R4", dict(zip((2, 3, 4, 5), words(1 + 2**-52) * 2, strict=True)), bits(1 + 3 * 2**-52, "d")),
    ("F2F.F64.F32 R0, R2", {2: bits(1.25)}, bits(1.25, "d")),
    ("F2I.S64.F64.TRUNC R0, R2", dict(zip((2, 3), words(-3.5), strict=True)), (-3) % (1 << 64)),
    ("I2F.F64 R0, R2", {2: NEGATIVE}, bits(-5.0, "d")),
    ("LDS.64 R0, [R2]", {2: 0x408}, 0x0F0E0D0C0B0A0908),
    ("CS2R R0, SRZ", {0: 7, 1: 7}, 0),
]


@pytest.mark.parametrize(("text", "registers", "expected"), PAIRS, ids=[text for text, *_ in PAIRS])
def test_pair(module, text, registers, expected):
    after = execute(module, text, registers, memory=bytes(range(64)))
    assert after[1][3] << 32 | after[0][3] == expected


NAN = 0x7FC00000
PREDICATES = [
    ("ISETP.GE.AND P0, PT, R1, R2, PT", {1: NEGATIVE, 2: 1}, False),
    ("ISETP.GE.U32.AND P0, PT, R1, R2, PT", {1: NEGATIVE, 2: 1}, True),
    ("ISETP.GT.AND.EX P0, PT, R1, R2, PT, !PT", {1: 4, 2: 4}, False),
    ("ISETP.GE.AND.EX P0, PT, R1, R2, PT, PT", {1: 4, 2: 4}, True),
    ("ISETP.NE.OR P0, PT, R1, R2, PT", {1: 4, 2: 4}, True),
    ("FSETP.GEU.AND P0, PT, |R1|, R2, PT", {1: NAN, 2: bits(1.0)}, True),
    ("FSETP.NEU.AND P0, PT, R1, R2, PT", {1: bits(-0.0), 2: 0}, False),
    ("FSETP.GT.AND P0, PT, R1, +INF , PT", {1: bits(1.0)}, False),
    ("DSETP.MAX.AND P0, P1, R2, R4, PT", dict(zip((2, 3, 4, 5), words(1.5) + words(0.25), strict=True)), True),
    ("DSETP.MIN.AND P0, P1, R2, R4, PT", dict(zip((2, 3, 4, 5), words(1.5) + words(0.25), strict=True)), False),
    ("LOP3.LUT P0, RZ, R1, 0x1, RZ, 0xc0, !PT", {1: 3}, True),
    ("PLOP3.LUT P0, PT, PT, PT, PT, 0x80, 0x0", {}, True),
    ("PLOP3.LUT P0, PT, PT, !PT, PT, 0x80, 0x0", {}, False),
    ("IADD3 R0, P0, R1, R2, RZ", {1: ALL, 2: 1}, True),
    ("IADD3 R0, P0, R1, -R2, RZ", {1: 5, 2: 7}, False),
    ("VOTE.ALL P0, PT", {}, True),
    ("VOTE.ANY P0, !PT", {}, False),
    ("R2P PR, R1, 0x1", {1: 1}, True),
]


@pytest.mark.parametrize(("text", "registers", "expected"), PREDICATES, ids=[text for text, *_ in PREDICATES])
def test_predicate(module, text, registers, expected):
    assert execute(module, text, registers, lanes=0x7FFFFFFF)[PREDICATE][0] == (0x7FFFFFFF if expected else 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SHFL.IDX PT, R0, R1, 0x3, 0x1f", [3] * 32),
        ("SHFL.BFLY PT, R0, R1, 0x1, 0x1f", [lane ^ 1 for lane in range(32)]),
        ("SHFL.UP PT, R0, R1, 0x2, RZ", [lane - 2 if lane >= 2 else lane for lane in range(32)]),
        ("SHFL.DOWN PT, R0, R1, 0x1, 0x1f", [lane + 1 if lane < 31 else lane for lane in range(32)]),
    ],
)
def test_shuffle(module, text, expected):
    assert execute(module, text, {1: list(range(32))}, lanes=-1)[0] == expected


def test_guard_and_atomic(module):
    after = execute(module, "@P2 MOV R0, 0x7", {0: 1}, {2: 0b101})
    assert after[0][:4] == [7, 1, 7, 1]
    after = execute(module, "ATOMS.ADD R0, [R1], R2", {1: 0x400, 2: 3}, memory=bytes(8))
    assert after[0][:31] == [3 * lane for lane in range(31)]


@pytest.mark.parametrize(
    ("text", "registers", "message"),
    [
        ("LDS R0, [R1]", {1: 0x402}, "misaligned"),
        ("LDS.128 R0, [R1]", {1: 0x408}, "misaligned"),
        ("LDS R0, [R1]", {1: 0x440}, "shared memory out of bounds: byte 64 of 64"),
        ("LDS R0, [R1]", {1: 0x3FC}, "shared memory out of bounds"),
        ("LDG.E R0, desc[UR4][R2.64]", {2: 64, 3: 0}, "global memory out of bounds"),
        ("LDL R0, [R1]", {1: 2048}, "local memory out of bounds"),
        ("LDC R0, c[0x0][0x40]", {}, "constant beyond its bank"),
        ("WARPSYNC R1", {1: 0xFFFF}, "leaves it out"),
    ],
)
def test_faults_are_named(module, text, registers, message):
    with pytest.raises(RuntimeError, match=message):
        execute(module, text, registers)


@pytest.mark.parametrize("text", ["QUUX R0, R1", "IADD3.WRONG R0, R1, R2, R3", "MOV R0, R1.B7", "S2R R0, SR_NEW"])
def test_unknown_instructions_are_errors(text):
    with pytest.raises(UnknownInstructionError, match=r"at 0x0000 of single"):
        parsed(text)


@pytest.mark.long
def test_every_instruction_is_known(simulator: Simulator):
    for function in simulator.functions.values():
        for each in function.code:
            decode(each, function)


def test_disassembly_is_read():
    printed = """
	.section	.text.kernel,"ax",@progbits
.text.kernel:
	//## File "/a/b.cuh", line 5 inlined at "/a/c.cu", line 7
	//## File "/a/c.cu", line 7
        /*0000*/              @!P0 LDC R1, c[0x0][0x28] ;       /* 0x00000a00ff017b82 */
                                                                /* 0x000ff00000000800 */
.L_x_1:
        /*0010*/                   BRA `(.L_x_1) ;              /* 0x0000000405057824 */
                                                                /* 0x100fe200078e0a00 */
"""
    first, second = instructions(printed)["kernel"]
    assert (first.name, first.guard, first.operands) == ("LDC", "!P0", ["R1", "c[0x0][0x28]"])
    assert [f"{line.file}:{line.number}" for line in first.lines] == ["b.cuh:5", "c.cu:7"]
    assert first.control == (8, 7, 7, 0)
    assert (second.labels, second.address) == ([".L_x_1"], 16)
    assert Function("kernel", [first, second]).labels[".L_x_1"] == 1
