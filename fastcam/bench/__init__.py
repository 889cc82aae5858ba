"""`fastcam bench`: the operators beside what one would write without them."""
