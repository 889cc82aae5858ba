"""Pages that need nothing but themselves: templates, pictures as text, and a policy that lets nothing else in."""

import base64
import hashlib
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from fastcam._files import replacing
from fastcam._version import __version__

_TEMPLATES = Path(__file__).parents[1] / "templates"


def write(
    path: str | os.PathLike[str],
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str] = (),
    **values: object,
) -> Path:
    """Render a template into a file, piece by piece, so that iterators among the values may be long.

    Every value is escaped. The template gets `style`, `script` and `policy`, too: the texts to be put between its tags,
    and a Content-Security-Policy by which the browser runs this script and this style alone, shows pictures only that
    are in the page, and connects to nothing.

    Args:
        path: HTML file to write; it appears when it is complete.
        template: name of the template.
        styles: names of the style sheets among the templates, joined in this order.
        scripts: names of the scripts, likewise.
        values: what the template speaks of.

    Returns:
        The path written.

    Raises:
        OSError: if the file cannot be written.
        ValueError: a number that JSON does not have (NaN) is among the values.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, script = ("".join((_TEMPLATES / name).read_text("utf-8") for name in names) for names in (styles, scripts))
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'" if script else "script-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",  # and no policy is made: what turns text into markup throws
    ]
    stream = environment.get_template(template).stream(
        values | {"style": Markup(style), "script": Markup(script), "policy": "; ".join(policy), "version": __version__}
    )
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        stream.dump(file)
    return Path(path)


def embed(image: np.ndarray, quality: int = 90) -> str:
    """Turn a picture into text.

    Args:
        image: RGB, uint8 [H, W, 3].
        quality: of the JPEG, 1 to 100.

    Returns:
        A data URL.
    """
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _data_url("image/jpeg", data.tobytes())


def embed_file(path: Path) -> str:
    """Turn a picture file into text.

    Args:
        path: the file; its suffix tells its type.

    Returns:
        A data URL.

    Raises:
        OSError: if it cannot be read.
    """
    return _data_url(mimetypes.guess_type(path.name)[0] or "image/png", path.read_bytes())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
