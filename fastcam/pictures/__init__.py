"""Pictures in: files found, read upright, made network input, and boxes led back to the original's pixels.

finding     picture files in folders
containers  a file's bytes, and whether they can be a whole picture
decoding    bytes to pixels; `silence` keeps decoders from the terminal, `gpu` has nvJPEG, `tiff` its odd kinds
samples     channels and scaling, where a network takes other than RGB of 8 bits
frame       pixels to the network's frame, and boxes and maps back
stream      reading ahead of the network, in threads
"""

from fastcam.pictures import gpu
from fastcam.pictures.containers import ERRORS, FORMATS, MAX_BYTES, MAX_PIXELS, DecodeError, read_part
from fastcam.pictures.decoding import (
    DECODERS,
    Decoded,
    Encoded,
    Header,
    Pixels,
    choose_decoder,
    decode,
    decode_indices,
    decode_mask,
    load_image,
    picture_size,
    quiet_pillow,
    read,
    read_encoded,
    read_header,
    to_rgb,
)
from fastcam.pictures.finding import SUFFIXES, find_pictures
from fastcam.pictures.frame import Geometry, Preprocess, as_rgb
from fastcam.pictures.samples import PLAIN, Reading, Samples

__all__ = [
    "DECODERS",
    "ERRORS",
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "PLAIN",
    "SUFFIXES",
    "DecodeError",
    "Decoded",
    "Encoded",
    "Geometry",
    "Header",
    "Pixels",
    "Preprocess",
    "Reading",
    "Samples",
    "as_rgb",
    "choose_decoder",
    "decode",
    "decode_indices",
    "decode_mask",
    "find_pictures",
    "gpu",
    "load_image",
    "picture_size",
    "quiet_pillow",
    "read",
    "read_encoded",
    "read_header",
    "read_part",
    "to_rgb",
]
