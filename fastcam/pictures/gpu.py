"""Regular JPEGs to network frames on the GPU, by nvJPEG, which torchcodec brings and torchvision did.

A run uses it only when asked to (`decoder="nvjpeg"`): its pixels are not libjpeg's, and it has not yet run on a GPU.
torchcodec (the extra `gpu`; `decode_jpeg` is there since 0.16) is asked where it is installed and loads, torchvision
else, whose decoders are deprecated since 0.29. `library` says which; both are called alike. What is known of them, from
their sources and their users' reports, and what follows:

- Of a list they decode baseline JPEGs in one batch, on the engine that some GPUs have for it, and all others one after
  the other. Colours stored at half the resolution are repeated, where libjpeg interpolates them; so pixels differ by a
  few levels, and by more at edges of colour. Another kind of GPU may have other pixels again.
- They raise RuntimeError for the whole list and return nothing then, also where memory runs out. So each picture is
  tried alone after that, and what fails alone is left to the CPU.
- torchcodec applies the orientation as it reads it, torchvision none. Here it is `Encoded.orientation`, as on the CPU:
  neither gets to see any.
- Sizes are nvJPEG's own reading of the header, which is checked.
- torchvision writes on a stream of its own, into memory that may just have been freed while kernels in the caller's
  queue are still to read it; the engine does not even wait for the stream that it is given. Hence the wait before each
  call, which torchcodec makes as well. At their end both wait by themselves.
- torchvision has one decoder in a process, behind a lock; so one thread calls it, the network's.
- nvJPEG leaked memory before CUDA 11.6, and crashed on damaged EXIF data before 12.2; wheels of torch 2.11 and later
  have a newer one, and so has torchcodec's.

What cannot be helped: the engine gives one status for a batch, and the memory that it writes to was not cleared. Of a
JPEG of regular structure with damage among its coefficients, which CPUs decode with faults in the picture, it may make
other faults, or leave what was in memory before.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module, metadata
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastcam.pictures.decoding import Encoded, trial_picture
from fastcam.pictures.frame import Preprocess

_MEAN, _MOST = 4, 24  # levels that pixels of the trial may differ; repeated colours alone make it 2.3 and 10
_OUT_OF_MEMORY = re.compile(r"out of memory|(Failed to .*|nvjpegDecode failed): 5\b")  # NVJPEG_STATUS_ALLOCATOR_FAILURE
_SCAN, _APP1 = 0xDA, 0xE1
_FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # after the transposition that 5 to 8 begin with


def check(device: torch.device) -> None:
    """Check by a trial that JPEGs can be decoded on a device; ValueError if it is no CUDA device, or the trial fails.

    The trial: a small JPEG in colour and a grey one must come back in the size in which they are stored, with Pillow's
    pixels but for 4 levels in the mean and 24 at most. It is made once in a process.
    """
    if device.type != "cuda":
        raise ValueError(f'`decoder` "nvjpeg" needs the network on a CUDA device, it is on {device}: choose another')
    if (reason := _trial(device)) is not None:
        raise ValueError(f'`decoder` "nvjpeg" does not work here: {reason}: choose another')


def frames(pictures: Sequence[Encoded], preprocess: Preprocess, device: torch.device) -> list[Tensor | None]:
    """Decode JPEGs and make them network frames, as `Preprocess.frame` does but for rounding and the decoder's pixels.

    Resizing is torchvision's for tensors: antialiased in float32, rounded at the end. Each picture's frame, RGB, uint8
    [size, size, 3], on the device, is the same whatever the others are. None if it cannot be decoded there, even alone,
    or is not of the size that its header says. On "cpu" the library's decoder for the CPU takes its turn.

    torch.OutOfMemoryError: memory is not enough for several pictures at once. For one it gives None.
    """
    try:
        found = _decoded([picture.data for picture in pictures], device)
        return [_frame(pixels, picture, preprocess) for pixels, picture in zip(found, pictures, strict=True)]
    except RuntimeError as error:
        if len(pictures) == 1:
            return [None]
        if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            raise torch.OutOfMemoryError(f"decoding {len(pictures)} JPEGs: {error}") from error
    return [frame for picture in pictures for frame in frames([picture], preprocess, device)]


def library() -> str:
    """Which library decodes, and its version."""
    name, _ = _decoder()
    return f"{name} {metadata.version(name)}"


@cache
def _decoder() -> tuple[str, Callable[..., Any]]:
    """A library's name and its function of a list of JPEGs."""
    try:
        return "torchcodec", import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, OSError, RuntimeError, AttributeError):  # it is not there, or too old, or not for this torch
        return "torchvision", import_module("torchvision.io").decode_jpeg


def _decoded(files: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """uint8 [3, H, W], RGB, as stored."""
    _, decode = _decoder()
    data = [torch.frombuffer(_without_exif(file), dtype=torch.uint8) for file in files]
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)
        return decode(data, mode="RGB", device=device)


def _without_exif(file: bytes) -> bytearray:
    """A JPEG without the segments that EXIF data, and so its orientation, may be in."""
    kept, at = bytearray(file[:2]), 2
    while len(file) > at + 4 and file[at] == 0xFF and file[at + 1] != _SCAN:
        # A marker may have more than one 0xFF before it.
        size = 1 if file[at + 1] == 0xFF else 2 + int.from_bytes(file[at + 2 : at + 4], "big")
        if file[at + 1] != _APP1:
            kept += file[at : at + size]
        at += size
    return kept + file[at:]


def _frame(pixels: Tensor, picture: Encoded, preprocess: Preprocess) -> Tensor | None:
    if pixels.shape != (3, *picture.stored[::-1]):
        return None
    if picture.orientation >= 5:
        pixels = pixels.transpose(1, 2)
    pixels = pixels.flip(_FLIPS.get(picture.orientation, ())).contiguous()
    geometry = preprocess.geometry(picture.size)
    mode = preprocess.interpolation
    whole = F.interpolate(pixels[None].float(), geometry.resized[::-1], mode=mode, antialias=True)[0]
    left, top = geometry.offset
    frame = whole[:, top : top + preprocess.size, left : left + preprocess.size]
    return frame.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)  # bicubic ones overshoot


@cache
def _trial(device: torch.device) -> str | None:
    """What is wrong with the decoder of a device, if anything."""
    exif, files = Image.Exif(), []
    exif[0x0112] = 6
    for image in (trial_picture(), trial_picture().convert("L")):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90, exif=exif)
        files.append(buffer.getvalue())
    try:
        found = _decoded(files, device)
    except (ImportError, AttributeError, RuntimeError) as error:
        return next(iter(str(error).splitlines()), type(error).__name__)
    for file, pixels in zip(files, found, strict=True):
        with Image.open(io.BytesIO(file)) as image:
            expected = np.asarray(image.convert("RGB")).astype(np.int16).transpose(2, 0, 1)
        if pixels.shape != expected.shape:
            return f"of a JPEG of [3, H, W] = {list(expected.shape)} it makes {list(pixels.shape)}"
        difference = np.abs(pixels.cpu().numpy() - expected)
        if difference.mean() > _MEAN or difference.max() > _MOST:
            levels = f"{difference.mean():.1f} levels in the mean, {difference.max()} at most"
            return f"its pixels differ from Pillow's by {levels}, where {_MEAN} and {_MOST} are allowed"
    return None
