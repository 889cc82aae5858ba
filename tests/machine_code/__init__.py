"""The kernels' machine code (sm_90), executed on the CPU.

``cubins`` finds or builds what nvcc makes of ``csrc/cuda``, ``disassembly`` reads it, ``decoding`` says what each
instruction does and what it costs, and the machine (``machine.h``) runs it: launched by the operators' own host code,
which tests/emulation compiles. ``simulator`` puts these together.
"""
