"""`python -m fastcam` is `fastcam`."""

from fastcam.cli import main

main()
