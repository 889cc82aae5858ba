"""`fastcam bench`."""

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli.errors import plain_errors


@plain_errors()
def bench(
    threads: Annotated[
        str, typer.Option(help="Compare 1 thread with so many: a number, or all that PyTorch would take.")
    ] = "all",
    images: Annotated[int, typer.Option(min=1, help="Images in one call.")] = 64,
    seconds: Annotated[float, typer.Option(min=0, help="Measure each row for about so long.")] = 2.0,
    quick: Annotated[bool, typer.Option("--quick", help="As few rounds as possible; rough figures.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table to this Markdown file, too.")] = None,
) -> None:
    """Measure the operators here against what one would write without them, on the GPU too if there is one."""
    if threads != "all" and not (threads.isdecimal() and int(threads) > 0):
        raise ValueError(f"--threads must be a positive number or all, got {threads!r}")
    if out and not out.parent.is_dir():
        raise NotADirectoryError(f"--out: there is no folder {out.parent}")
    import torch

    from fastcam import ops
    from fastcam._memory import keep_memory
    from fastcam.bench import cpu, gpu

    keep_memory()
    table = cpu.table(None if threads == "all" else int(threads), images, seconds, quick)
    if torch.cuda.is_available() and ops.build_info()["cuda_library"]:
        table = chain(table, [""], gpu.table(gpu.works(), quick))
    lines = []
    for line in table:
        print(line, flush=True)
        lines.append(line)
    if out:
        out.write_text("\n".join([*lines, ""]), encoding="utf-8")
