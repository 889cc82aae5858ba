r"""The CAM paper's table of generic features: linear classifiers on features of networks that learned other classes.

    python examples/generic_features.py indoor67=MIT_Indoor67 event8=event_img scene15=scene_categories \
        --features alexnet=alexnet.pt googlenet=googlenet.pt googlenet-gap=googlenet-gap.safetensors
    python examples/generic_features.py pictures/ --features mobilenet_v2=mobilenet_v2.pt --mean 0.5 --std 0.5

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, Learning Deep Features for Discriminative Localization, CVPR
2016, section 4: the networks know ILSVRC, their weights stay as they are, and a linear SVM is trained on what they give
to their last layer. Table 5, "Classification accuracy on representative scene and object datasets for different deep
features", in percent:

                           SUN397 Indoor67 Scene15 SUN Attr. Caltech101 Caltech256 Action40 Event8
    fc7 from AlexNet        42.61    56.79   84.23     84.23      87.22      67.23    54.92  94.42
    ave pool from GoogLeNet 51.68    66.63   88.02     92.85      92.05      78.99    72.03  95.42
    gap from GoogLeNet-GAP  51.31    66.61   88.30     92.21      91.98      78.07    70.62  95.00

(That the first row has one figure twice looks like a slip, but so it is printed.) How the sets were divided is not
printed; these are the sets' own protocols, and what the script does where DATA is NAME=FOLDER. Pictures of a class to
train and to test on, and how often:

    sun397         SUN397 (Xiao et al., CVPR 2010): 50 and 50, in the ten partitions that come with it. FOLDER has
                   a/abbey/*.jpg, …, and in it, in Partitions, or beside it lie Training_01.txt, Testing_01.txt, …
    indoor67       MIT Indoor67 (Quattoni and Torralba, CVPR 2009): about 80 and 20, listed. FOLDER is Images, with
                   bookstore/*.jpg, …; TrainImages.txt and TestImages.txt lie in or beside it
    scene15        Scene15 (Lazebnik et al., CVPR 2006): 100 and the rest, ten times at random. bedroom/*.jpg, …
    sun-attribute  SUN Attribute (Patterson and Hays, CVPR 2012): each of 102 attributes for itself, 150 pictures with
                   it (at least two of three votes) and 150 without (no vote), tested on 50 and 50 others, at random;
                   the figure is the mean average precision. FOLDER is SUN's images, with a/abbey/*.jpg, …; images.mat
                   and attributeLabels_continuous.mat lie in or beside it, or in SUNAttributeDB
    caltech101     Caltech101 (Fei-Fei et al., 2004): 30 and at most 50 others, ten times. accordion/*.jpg, …
    caltech256     Caltech256 (Griffin et al., 2007): 60 and the rest, ten times. 001.ak47/*.jpg, …
    action40       Stanford 40 Actions (Yao et al., ICCV 2011): 100 and the rest, listed. FOLDER is JPEGImages, whether
                   as it comes or with applauding/*.jpg, …; train.txt and test.txt lie in or beside it, or in
                   ImageSplits; the class is the beginning of a name: applauding_001.jpg
    event8         UIUC Event8 (Li and Fei-Fei, ICCV 2007): 70 and 60, ten times at random. badminton/*.jpg, …

Where published lists are not found, as many pictures are drawn at random, and a line says so. Classes of clutter
(BACKGROUND_Google, 257.clutter) are left out. Accuracies are means over the classes; of several times their mean and
standard deviation are printed. DATA may also be any other folder of class folders, divided into train and test or val
or not (then a fifth of each class is tested on), for which the paper has no figure.

--features names networks of `fastcam.models.build` and their weights. What their last linear layer is given are fc7 of
AlexNet, and the pooled features of networks that end in a pooling and that layer: "googlenet-gap" is the paper's, of
1,024 channels. Features are kept in --out, and not computed again as long as pictures and weights are the same.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcam import data as datasets, fitting, models
from fastcam.data import Pictures
from fastcam.data.names import ordered
from fastcam.pictures import find_pictures

ROWS = {  # of the paper's table, by the network
    "alexnet": "fc7 from AlexNet",
    "googlenet": "ave pool from GoogLeNet",
    "googlenet-gap": "gap from GoogLeNet-GAP",
}
CLUTTER = frozenset(("BACKGROUND_Google", "257.clutter"))


@dataclass(frozen=True)
class Protocol:
    """How a data set is divided, and what the paper has for it.

    Attributes:
        title: of its column.
        train: pictures of each class to train on, as far as there are more.
        test: pictures of each class to test on, as far as there are; None is all others.
        times: how often pictures are drawn at random.
        lists: patterns of the names of published lists, to train and to test on.
        paper: the figures of table 5, in the order of `ROWS`.
    """

    title: str
    train: int = 0
    test: int | None = None
    times: int = 1
    lists: tuple[str, str] | None = None
    paper: tuple[float, ...] = ()


PROTOCOLS = {
    "sun397": Protocol("SUN397", 50, 50, 10, ("Training_*.txt", "Testing_*.txt"), (42.61, 51.68, 51.31)),
    "indoor67": Protocol("MIT Indoor67", 80, 20, 1, ("TrainImages.txt", "TestImages.txt"), (56.79, 66.63, 66.61)),
    "scene15": Protocol("Scene15", 100, None, 10, None, (84.23, 88.02, 88.30)),
    "sun-attribute": Protocol("SUN Attribute", 150, 50, 1, None, (84.23, 92.85, 92.21)),
    "caltech101": Protocol("Caltech101", 30, 50, 10, None, (87.22, 92.05, 91.98)),
    "caltech256": Protocol("Caltech256", 60, None, 10, None, (67.23, 78.99, 78.07)),
    "action40": Protocol("Action40", 100, None, 1, ("train.txt", "test.txt"), (54.92, 72.03, 70.62)),
    "event8": Protocol("Event8", 70, 60, 10, None, (94.42, 95.42, 95.00)),
}


class Division(NamedTuple):
    """Pictures to train and to test on, by their place in the data set, and the class of every picture, int64 [N]."""

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def read(folder: Path, by_name: bool = False) -> Pictures:
    """Find the pictures of a data set, whose classes are the folders that they are in, however deep.

    Args:
        folder: of the data set.
        by_name: the class is the beginning of a picture's name instead: "applauding" of applauding_001.jpg.

    Returns:
        The pictures with their classes.
    """
    found = [(id, file) for id, file in find_pictures([folder]) if not CLUTTER & set(id.split("/"))]
    classes = [re.sub(r"_\d+$", "", Path(id).stem) if by_name else id.rpartition("/")[0] for id, _ in found]
    names = ordered(set(classes))
    if len(names) < 2:
        raise SystemExit(f"{folder} must have a folder for each of at least two classes, got {len(names)}")
    number = {name: label for label, name in enumerate(names)}
    labels = [number[name] for name in classes]
    return Pictures(
        folder, [id for id, _ in found], [file for _, file in found], labels=labels, class_names=tuple(names)
    )


def divisions(data: Pictures, protocol: Protocol, seed: int = 0) -> list[Division]:
    """Divide a data set as its protocol says: by published lists if they are found, else at random.

    Args:
        data: the data set, with labels.
        protocol: how many pictures of each class, how often, and how lists are named.
        seed: of the random choices.

    Returns:
        The divisions; no picture is on both sides of one.
    """
    labels = np.array(data.labels)
    if protocol.lists:
        for folder in _around(data.root, "Partitions", "ImageSplits"):
            train, test = (sorted(folder.glob(pattern)) for pattern in protocol.lists)
            if train and len(train) == len(test):
                pairs = zip(train, test, strict=True)
                return [Division(_listed(data, one), _listed(data, other), labels) for one, other in pairs]
        print(f"{protocol.title}: no {' and '.join(protocol.lists)} in or beside {data.root}: drawn at random")
    return [_drawn(labels, protocol, np.random.default_rng((seed, time))) for time in range(protocol.times)]


def attributes(data: Pictures, protocol: Protocol, seed: int = 0) -> list[Division]:
    """Divide SUN Attribute, for each of its attributes: 1 is a picture that has it, 0 one that has not.

    Args:
        data: the pictures.
        protocol: how many with an attribute, and as many without it, to train and to test on. Of an attribute that
            has too few a quarter is for the test.
        seed: of the random choices.

    Returns:
        A division for each attribute.
    """
    from scipy.io import loadmat

    folder = next((f for f in _around(data.root, "SUNAttributeDB") if (f / "images.mat").is_file()), None)
    if folder is None:
        raise SystemExit(f"SUN Attribute: no images.mat in or beside {data.root}")
    ids = [str(name) for name in loadmat(folder / "images.mat", squeeze_me=True, chars_as_strings=True)["images"]]
    shares = loadmat(folder / "attributeLabels_continuous.mat")["labels_cv"]
    place_of = {id: place for place, id in enumerate(data.ids)}
    if unknown := [id for id in ids if id not in place_of]:
        raise SystemExit(f"{len(unknown)} of {len(ids)} pictures of {folder} are not in {data.root}: {unknown[0]}, …")
    places, found = np.array([place_of[id] for id in ids]), []
    for number, share in enumerate(shares.T):  # of three votes
        rng = np.random.default_rng((seed, number))
        labels = np.full(len(data), -1)
        labels[places[share == 0]], labels[places[share > 0.5]] = 0, 1
        found.append(_drawn(labels, protocol, rng, spare=0.25))
    return found


def accuracy(features: np.ndarray, division: Division, classes: Sequence[str], strength: float | None) -> float:
    """Fit a linear SVM and test it: the mean over classes of their accuracy, in percent.

    Args:
        features: float32 [N, K], of all pictures.
        division: to fit and to test on.
        classes: their names.
        strength: the SVM's C; None finds it by cross-validation.

    Returns:
        The figure.
    """
    head = fitting.fit_head(
        features[division.train], division.labels[division.train], "svm", classes=classes, strength=strength
    )
    return 100 * fitting.Accuracy.of(division.labels[division.test], head.scores(features[division.test])).class_mean


def average_precision(features: np.ndarray, division: Division, strength: float | None) -> float:
    """Fit a linear SVM to an attribute and test it: the average precision in percent.

    Args:
        features: float32 [N, K], of all pictures.
        division: to fit and to test on.
        strength: as of `accuracy`.

    Returns:
        The figure.
    """
    from sklearn.metrics import average_precision_score

    head = fitting.fit_head(features[division.train], division.labels[division.train], "svm", strength=strength)
    scores = head.scores(features[division.test])[:, 1]
    return 100 * float(average_precision_score(division.labels[division.test], scores))


def fc7(arch: str) -> str | None:
    """Name the layer before the last of AlexNet and VGG; None for networks that pool before their last layer."""
    return "classifier.5" if arch == "alexnet" else "classifier.4" if re.fullmatch(r"vgg\d+(_bn)?", arch) else None


def _around(root: Path, *names: str) -> list[Path]:
    """Where what comes with a data set may lie: in its folder, beside it, or there in one of these names."""
    return [place / name for place in (root, root.parent) for name in ("", *names)]


def _listed(data: Pictures, file: Path) -> np.ndarray:
    """The pictures that a list names, by their path in the data set, or by their name alone if only one has it."""
    paths = {id: place for place, id in enumerate(data.ids)}
    names: dict[str, list[int]] = {}
    for id, place in paths.items():
        names.setdefault(id.rpartition("/")[2], []).append(place)
    found = []
    for line in filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines())):
        alike = [paths[line.lstrip("/")]] if line.lstrip("/") in paths else names.get(line.rpartition("/")[2], [])
        if len(alike) != 1:
            raise SystemExit(f"{file}: {line} is {'several pictures' if alike else 'no picture'} of {data.root}")
        found += alike
    return np.array(found)


def _drawn(labels: np.ndarray, protocol: Protocol, rng: np.random.Generator, spare: float = 0) -> Division:
    """Draw pictures of each class; negative labels are none. Of a class with few, this share is kept for the test."""
    train, test = [], []
    for label in np.unique(labels[labels >= 0]):
        members = rng.permutation(np.flatnonzero(labels == label))
        cut = min(protocol.train, len(members) - max(1, round(spare * len(members))))
        train.append(members[:cut])
        test.append(members[cut:][: protocol.test])
    return Division(np.concatenate(train), np.concatenate(test), labels)


def _opened(text: str, seed: int) -> tuple[str, Protocol, Pictures, list[Division]]:
    """What DATA means: its name, protocol, pictures and divisions."""
    name, equals, path = text.partition("=")
    folder = Path(path if equals else text)
    if equals and name not in PROTOCOLS:
        raise SystemExit(f"{text}: the name must be one of {', '.join(PROTOCOLS)}, got {name}")
    if not equals:
        parts = [datasets.load(folder, split) for split in ("train", "val")]
        both = _joined(*parts)
        cut = len(parts[0])
        division = Division(np.arange(cut), np.arange(cut, len(both)), np.array(both.labels))
        return folder.name, Protocol(folder.name), both, [division]
    data = read(folder, by_name=name == "action40" and not any(entry.is_dir() for entry in folder.iterdir()))
    protocol = PROTOCOLS[name]
    return name, protocol, data, (attributes if name == "sun-attribute" else divisions)(data, protocol, seed)


def _joined(one: Pictures, other: Pictures) -> Pictures:
    ids, files = [*one.ids, *other.ids], [*one.files, *other.files]
    return Pictures(one.root, ids, files, labels=[*one.labels, *other.labels], class_names=one.class_names)


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, str], list[float]]:
    """Measure what the command line asks for and print the table.

    Args:
        arguments: of the command line.

    Returns:
        For each pair of network and data set the figures of all divisions, in percent.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="DATA", help="NAME=FOLDER or FOLDER, see above")
    parser.add_argument("--features", nargs="+", required=True, metavar="ARCH=WEIGHTS", help="networks, see above")
    parser.add_argument("--out", type=Path, default=Path("generic-features"), help="folder that keeps the features")
    parser.add_argument("--strength", type=float, metavar="C", help="of the SVM [found by cross-validation]")
    parser.add_argument("--mean", type=float, nargs="+", help="of the networks' input, one or three numbers")
    parser.add_argument("--std", type=float, nargs="+", help="as --mean")
    parser.add_argument("--seed", type=int, default=0, help="of random divisions [0]")
    options = parser.parse_args(arguments)
    networks = [pair.partition("=")[::2] for pair in options.features]
    given = {name: tuple(value * (3 // len(value))) for name in ("mean", "std") if (value := getattr(options, name))}
    columns: dict[str, Protocol] = {}
    measured: dict[tuple[str, str], list[float]] = {}
    options.out.mkdir(parents=True, exist_ok=True)
    for text in options.data:
        name, protocol, data, parts = _opened(text, options.seed)
        if name in columns:
            raise SystemExit(f"{name} comes twice")
        columns[name] = protocol
        for arch, weights in networks:
            model, config = models.load_network(weights, arch, **given)
            file = options.out / f"{name}-{arch.replace('/', '-')}.parquet"
            features = fitting.pooled_features(model, data, config, file=file, layer=fc7(arch)).values
            measured[arch, name] = [
                average_precision(features, part, options.strength)
                if name == "sun-attribute"
                else accuracy(features, part, data.class_names, options.strength)
                for part in parts
            ]
    print("\n".join(table([arch for arch, _ in networks], columns, measured)))
    return measured


def table(
    networks: Sequence[str], columns: dict[str, Protocol], measured: dict[tuple[str, str], list[float]]
) -> list[str]:
    """Lay out the paper's figures beside those that were measured.

    Args:
        networks: names of rows.
        columns: protocol of each data set.
        measured: figures in percent, by network and data set.

    Returns:
        Lines of text.
    """
    lines = [["", *(protocol.title for protocol in columns.values())]]
    for arch in networks:
        paper, found = [f"{ROWS.get(arch, f'pooled features from {arch}')}, paper"], ["measured"]
        for name, protocol in columns.items():
            known, figures = arch in ROWS and protocol.paper, measured[arch, name]
            paper.append(f"{protocol.paper[list(ROWS).index(arch)]:.2f}" if known else "–")
            found.append(f"{np.mean(figures):.2f}" + (f" ± {np.std(figures):.2f}" if protocol.times > 1 else ""))
        lines += [paper, found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]


if __name__ == "__main__":
    main()
