"""One module for each layout of data sets; `fastcam.data.formats` lists them."""
