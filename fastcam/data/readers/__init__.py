"""One module for each layout of data sets; `fastcam.data.loading` lists them."""
