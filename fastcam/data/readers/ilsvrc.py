"""ILSVRC's CLS-LOC: training pictures by class, and XML files in Pascal VOC's manner."""

from pathlib import Path

from fastcam.data.pictures import Pictures
from fastcam.data.readers.voc import parse, suffixed, xml_files
from fastcam.data.reading import Format, Found, Problems, Request, assemble
from fastcam.pictures.finding import hidden


def read(request: Request) -> Pictures:
    """Read Data/CLS-LOC/SPLIT with pictures, Annotations/CLS-LOC/SPLIT with XML files.

    Training pictures lie in a folder for each WordNet id, which is their label. Their XML files are not read: half of
    the pictures have none, and some of these are wrong. Of the others, each has an XML file with class and boxes, which
    stay as written. Classes are numbered as in LOC_synset_mapping.txt (in the folder, or the one above), which also
    names them; without it, WordNet ids are sorted: those of the training pictures' folders or, without these, those in
    the files. Ids are relative to the folder of the pictures of the split.
    """
    folder, split, images, problems = _root(request.path), request.part, request.images, request.problems
    root = images or folder / "Data" / "CLS-LOC" / split
    source = root if split == "train" else folder / "Annotations" / "CLS-LOC" / split
    found = []
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}")
    wnids: dict[str, str] = {}  # of each picture
    if split == "train":
        for name in _folders(source):
            pictures = suffixed(source / name, problems, ".jpeg", deep=False)
            if not pictures:
                raise ValueError(f"{source / name}: no pictures (*.JPEG) of this class")
            for path in pictures:
                id = path.relative_to(source).as_posix()
                wnids[id] = name
                found.append(Found(str(path), id, root / id))
    for path in xml_files(source, problems, deep=False) if split != "train" else ():
        id = f"{path.stem}.JPEG"
        try:
            annotation = parse(path)
        except ValueError as error:
            problems.fault_of(error, id)
            found.append(Found(str(path), id, root / id))
            continue
        if len(set(annotation.names)) > 1:
            problems.fault(f"{path}: object/name", f"expected one class, got {', '.join(annotation.names)}", id)
        wnids[id] = annotation.names[0]
        found.append(Found(str(path), id, root / id, None, annotation.boxes, annotation.size))
    names, numbered = _synsets(folder, set(wnids.values()))
    for index, entry in enumerate(found):
        wnid = wnids.get(entry.id)
        label = None if wnid is None else numbered.get(wnid)
        if label is None:
            problems.fault(entry.where, f"{wnid} is no known class", entry.id)
        found[index] = entry._replace(label=label)
    return assemble(request, root, found, names, source=source)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not hidden(entry.name))


def _synsets(folder: Path, seen: set[str]) -> tuple[list[str], dict[str, int]]:
    """Names of the classes, and the class index of each WordNet id."""
    for path in (folder / "LOC_synset_mapping.txt", folder.parent / "LOC_synset_mapping.txt"):
        if path.is_file():
            rows = [row for _, row in Problems().rows(path, ("wnid", "name"), None)]
            return [name for _, name in rows], {wnid: index for index, (wnid, _) in enumerate(rows)}
    train = folder / "Data" / "CLS-LOC" / "train"
    wnids = _folders(train) if train.is_dir() else sorted(seen)
    return wnids, {wnid: index for index, wnid in enumerate(wnids)}


def _root(path: Path) -> Path:
    return path / "ILSVRC" if (path / "ILSVRC").is_dir() else path  # Kaggle's download has one more folder


def _splits(path: Path) -> list[str]:
    places = {"train": "Data", "val": "Annotations"}
    return [name for name, part in places.items() if (_root(path) / part / "CLS-LOC" / name).is_dir()]


FORMAT = Format(
    "Annotations/CLS-LOC/val/*.xml, Data/CLS-LOC/val/*.JPEG, Data/CLS-LOC/train/WNID/*.JPEG",
    fits=lambda path: bool(_splits(path)),
    splits=_splits,
    read=read,
)
