r"""Learn to find text from pictures with and without it: no box is needed.

    python examples/text_detector.py svt1/img SUN397 --truth svt1/test.xml \
        --arch googlenet-gap --weights googlenet-gap.safetensors --out text/

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, Learning Deep Features for Discriminative Localization, CVPR
2016, section 4.2, "Weakly supervised text detector": 350 pictures of Google Street View with text, from the SVT set
(Wang et al., ICCV 2011), are positive, pictures taken at random from the outdoor scenes of SUN negative.

SVT (svt.zip) has svt1/img/*.jpg, svt1/train.xml and svt1/test.xml, which have for each picture imageName, Resolution
and taggedRectangles, a box around each word of a list, not around all that is written. SUN is a folder for each letter
and scene, a/abbey/*.jpg, …; a folder with the outdoor scenes alone is closer to the paper.

--truth keeps its pictures from training and tells how well maps and boxes fit them; it is one of SVT's XML files, or
any data set with boxes that `fastcam.data.load` reads. Else a part of the pictures is kept, as --held-out has it. --out
has the checkpoint, model.safetensors, which `fastcam localize` and all other commands take; the run on the pictures
that were kept, held-out/boxes.parquet; ranking.csv, ranked.png and ranked.html as `examples/concepts.py` writes them.
Without data and weights: `examples/edges.py` has the commands.
"""

import argparse
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import concepts  # beside this script
import numpy as np

from fastcam import data as datasets
from fastcam.pictures import find_pictures

SIDES = ("x", "y", "width", "height")


def read_truth(file: Path) -> dict[str, np.ndarray]:
    """Read true boxes.

    Args:
        file: train.xml or test.xml of SVT, or any data set with boxes; of one that has splits, its test.

    Returns:
        Boxes of the pictures that have any, float32 [B, 4], xyxy in pixels, half-open, by the end of their path: folder
        and name.
    """
    if file.suffix != ".xml":
        found = datasets.load(file, "test" if "test" in datasets.splits(file) else None)
        truth = {id: found.truth(n).boxes for n, id in enumerate(found.ids)}
        return {end(id): boxes for id, boxes in truth.items() if boxes is not None and len(boxes)}
    truth = {}
    try:
        for image in ET.parse(file).getroot().iter("image"):
            places = [[float(box.attrib[side]) for side in SIDES] for box in image.iter("taggedRectangle")]
            corners = np.array(places, np.float32).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            truth[end(image.findtext("imageName", ""))] = corners
    except (ET.ParseError, KeyError, ValueError) as error:
        raise SystemExit(f"{file} is no XML file of SVT: {error!r}") from None
    return truth


def end(path: str) -> str:
    """The last folder and the name of a path."""
    return "/".join(path.strip().split("/")[-2:])


def main(arguments: Sequence[str] | None = None) -> tuple[list[concepts.Ranked], concepts.Measured | None]:
    """Learn to find text in the pictures that the command line names.

    Args:
        arguments: of the command line.

    Returns:
        The pictures that were not trained on, the best first; and how well maps and boxes fit, if that is known.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="folder of pictures with text")
    parser.add_argument("other", type=Path, help="folder of pictures without")
    parser.add_argument("--truth", type=Path, help="boxes of the pictures with text that are not to be trained on")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the map, above which boxes lie [0.5]")
    concepts.add_options(parser)
    options = parser.parse_args(arguments)
    files = {f"text/{id}": file for id, file in find_pictures([options.text])}
    positives = list(files)
    files |= {f"other/{id}": file for id, file in find_pictures([options.other])}
    others = [id for id in files if id not in set(positives)]
    truth: dict[str, np.ndarray] = {}
    if options.truth:
        known = read_truth(options.truth)
        truth = {id: known[end(str(files[id]))] for id in positives if end(str(files[id])) in known}
        if not truth or len(truth) == len(positives):
            raise SystemExit(
                f"{options.truth} has boxes of {len(truth)} of {len(positives)} pictures in {options.text}"
            )
    found = concepts.study(
        options,
        options.text,
        files,
        positives,
        others,
        concept="text",
        held=truth,
        every=True,
        threshold=options.threshold,
    )
    run = options.out / "held-out"
    measured = None
    if truth:
        measured = concepts.measure(found, run, truth)
        print(
            f"{measured.pictures} other pictures with text: the map's peak lies in a box of text in "
            f"{measured.peak:.1%}; IoU of the largest box with one of text {measured.iou.mean():.3f} in the mean, "
            f"above 0.3 in {np.mean(measured.iou > 0.3):.1%}"
        )
    for file in concepts.show(found[: options.show], run, options.out, "text", truth=truth):
        print(file)
    return found, measured


if __name__ == "__main__":
    main()
