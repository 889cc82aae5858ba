"""Pictures in: files found, read as upright RGB, made network input, and boxes led back to the original's pixels."""

from fastcam.decoding import gpu
from fastcam.decoding.containers import ERRORS, FORMATS, MAX_BYTES, MAX_PIXELS, DecodeError
from fastcam.decoding.files import read_part
from fastcam.decoding.folders import SUFFIXES, find_pictures
from fastcam.decoding.frame import Geometry, Preprocess
from fastcam.decoding.reading import (
    DECODERS,
    Decoded,
    Encoded,
    choose_decoder,
    decode,
    load_image,
    picture_size,
    quiet_pillow,
    read,
    read_encoded,
)

__all__ = [
    "DECODERS",
    "ERRORS",
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "DecodeError",
    "Decoded",
    "Encoded",
    "Geometry",
    "Preprocess",
    "choose_decoder",
    "decode",
    "find_pictures",
    "gpu",
    "load_image",
    "picture_size",
    "quiet_pillow",
    "read",
    "read_encoded",
    "read_part",
]
