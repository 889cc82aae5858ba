"""`fastcam bench`: the operators beside what one would write without them.

`operators` is the one table of them, `cpu` and `gpu` measure its works and print tables.
"""
