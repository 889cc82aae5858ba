"""What readers do with what does not fit: refuse it by file and line, or list it."""

import codecs
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fastcam.data.names import check_utf8
from fastcam.data.pictures import Packed, id_problem
from fastcam.data.places import Listing


class Faults(list[tuple[str, str]]):
    """A list for `bad` of `fastcam.data.load` where pictures count and not what is told of them.

    All pictures are taken: those that a data set tells nothing of, and those of which it tells what cannot be, without
    label, boxes and masks; only for the latter (id, reason) is appended. What is wrong with a picture's name raises.
    """


class Problems:
    """What a reader does with pictures that do not fit: raise at the first, or list and drop them all.

    Args:
        bad: where (id, reason) is appended for each picture left out; None to raise instead. `Faults` raise as None
            does, but where something that is told of a picture is wrong, the picture stays without.

    Attributes:
        lenient: whether they are `Faults`.
        dropped: ids of the pictures left out.
        bare: ids of the pictures of which nothing is to be told.
        ignored: files that were passed over, by suffix.
    """

    def __init__(self, bad: list[tuple[str, str]] | None = None) -> None:
        self.lenient = isinstance(bad, Faults)
        self.faults, self.bad = (bad, None) if self.lenient else (None, bad)
        self.dropped: set[str] = set()
        self.bare: set[str] = set()
        self.ignored: Counter[str] = Counter()

    def refuse(self, where: str, reason: str, id: str | None = None) -> None:
        """Refuse a picture.

        Args:
            where: file, and line or element.
            reason: what was expected and what came.
            id: the picture; None if the row does not even tell that, so that it stands for itself.

        Raises:
            ValueError: with both, unless they are to be listed.
        """
        message = f"{where}: {reason}"
        if self.bad is None:
            raise ValueError(message)
        if id is None:
            self.bad.append((where, message))
        elif id not in self.dropped:
            self.bad.append((id, message))
            self.dropped.add(id)

    def doubt(self, where: str, reason: str, id: str | None = None) -> None:
        """Refuse what is told of a picture, and with it the picture unless `lenient`.

        Args:
            where: file, and line or element.
            reason: what was expected and what came.
            id: the picture; None if no picture is lost.

        Raises:
            ValueError: with both, unless they are to be listed.
        """
        if self.faults is None:
            self.refuse(where, reason, id)
        elif id is None or id not in self.bare:
            self.faults.append((where if id is None else id, f"{where}: {reason}"))
            self.bare.update([] if id is None else [id])

    def caught(self, error: ValueError, id: str) -> None:
        """Doubt what is told of a picture for an error that names the file.

        Args:
            error: what a function raised.
            id: the picture.

        Raises:
            ValueError: the error, unless it is to be listed.
        """
        if self.faults is not None:
            if id not in self.bare:
                self.faults.append((id, str(error)))
                self.bare.add(id)
            return
        if self.bad is None:
            raise error
        if id not in self.dropped:
            self.bad.append((id, str(error)))
            self.dropped.add(id)

    def rows(
        self, path: Path, columns: Sequence[str], separator: str | None = ",", *, listing: bool = False
    ) -> Iterator[tuple[int, list[str]]]:
        """Read a text file without a header, row by row; blank lines are skipped.

        Args:
            path: the file, UTF-8.
            columns: their names, for messages.
            separator: "," splits from the right, so that a path in the first column may have commas; None splits at
                white space from the left, so that the last column may have spaces.
            listing: without a row its picture would be lost.

        Yields:
            Line number, from 1, and one text for each column.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a row of another length or not UTF-8, or the file has no rows.
        """
        count, number = len(columns) - 1, 0
        for number, line in self.lines(path):
            row = line.strip().split(None, count) if separator is None else line.rsplit(separator, count)
            if len(row) != count + 1 or not all(row):
                wanted = (separator or " ").join(columns)
                refuse = self.refuse if listing else self.doubt
                refuse(f"{path}:{number}", f"expected `{wanted}`, got {line!r}")
                continue
            yield number, row
        if not number:
            raise ValueError(f"{path} is empty: expected lines `{(separator or ' ').join(columns)}`")

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Read a text file line by line; blank lines are skipped.

        Args:
            path: the file, UTF-8.

        Yields:
            Line number, from 1, and the line.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line is not UTF-8, or the whole file is UTF-16 by its byte order mark.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        content = path.read_bytes()
        check_utf8(content, path)
        for number, raw in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
            try:
                line = raw.rstrip(b"\r").decode()
            except UnicodeDecodeError:
                self.refuse(f"{path}:{number}", f"expected UTF-8, got {raw!r}")
                continue
            if line and not line.isspace():
                yield number, line

    def once(self, where: str, id: str, known: Iterable[str]) -> bool:
        """Check a new id.

        Args:
            where: file, and line or element.
            id: the id.
            known: a set or dictionary of those before.

        Returns:
            Whether it is good and new.

        Raises:
            ValueError: it is not, unless that is to be listed.
        """
        problem = f"{id} comes twice" if id in known else id_problem(id)
        if problem:
            self.refuse(where, problem if id in known else f"{problem}, got {id!r}", id)
        return not problem

    def paired(self, ids: Iterable[str], path: Path, rows: dict[str, object]) -> None:
        """Check that a file tells of the same pictures as the one with their ids.

        Args:
            ids: the pictures.
            path: the other file.
            rows: what it tells, by id.

        Raises:
            ValueError: one lacks what the other has, unless that is to be listed.
        """
        known = dict.fromkeys(ids)
        for id in known:
            if id not in rows and id not in self.dropped:
                self.doubt(str(path), f"nothing about {id}", id)
        for id in rows:
            if id not in known and id not in self.dropped:
                self.doubt(str(path), f"{id} is not among the pictures", id)

    def boxes(
        self,
        ids: Sequence[str],
        wheres: Sequence[str],
        boxes: np.ndarray,
        sizes: np.ndarray | None = None,
        slack: float = 0,
    ) -> None:
        """Check boxes.

        Args:
            ids: the picture of each.
            wheres: file, and line or element, of each.
            boxes: float [M, 4], xyxy.
            sizes: [M, 2], width and height of the picture of each, if known.
            slack: pixels by which a box may stick out, for formats whose files round.

        Raises:
            ValueError: one is not finite, ends before it begins, or lies outside its picture, unless that is to be
                listed.
        """
        low, high = boxes[:, :2], boxes[:, 2:]
        wrong = ~(np.isfinite(boxes).all(1) & (high >= low).all(1) & (low >= -slack).all(1))
        if sizes is not None:
            wrong |= (high > sizes + slack).any(1)
        for index in np.flatnonzero(wrong):
            box = ", ".join(f"{edge:g}" for edge in boxes[index])
            if not np.isfinite(boxes[index]).all():
                reason = f"box {box} is not finite"
            elif (high[index] < low[index]).any():
                reason = f"box {box} ends before it begins: expected x0 <= x1 and y0 <= y1"
            else:
                size = "" if sizes is None else f" of {sizes[index, 0]}x{sizes[index, 1]}"
                reason = f"box {box} lies outside the picture{size}"
            self.doubt(wheres[index], reason, ids[index])

    def files(self, ids: Sequence[str], files: Sequence[Path | Packed], *, needed: bool = True) -> list[Path | Packed]:
        """Find picture files, those that are not packed: of their name, else the only one that looks like it.

        Args:
            ids: the pictures.
            files: the file of each.
            needed: they must be there.

        Returns:
            The file of each, as it is on the disk if it is there.

        Raises:
            FileNotFoundError: one is missing, or may be any of several, unless that is to be listed.
        """
        listing, found = Listing(), list(files)
        lacking = [
            i
            for i, file in enumerate(found)
            if not isinstance(file, Packed) and ids[i] not in self.dropped and file not in listing
        ]
        if not lacking:
            return found
        taken = {os.fspath(file) for file in files if not isinstance(file, Packed) and file in listing}
        alike = {i: [file for file in listing.alike(os.fspath(found[i])) if file not in taken] for i in lacking}
        claims = Counter(file for candidates in alike.values() for file in candidates)
        for i, candidates in alike.items():
            if len(candidates) == 1 and claims[candidates[0]] == 1:
                found[i] = Path(candidates[0])
            elif needed:
                hint = f"; {' or '.join(f'{os.path.basename(file)!a}' for file in candidates)} may be meant"
                hint = hint if candidates else ""
                if self.bad is None:
                    raise FileNotFoundError(f"no picture {files[i]}, of which the data set tells{hint}")
                self.refuse(str(files[i]), f"no such picture{hint}", ids[i])
        return found

    def left(self, ids: Iterable[str], source: Path) -> list[str]:
        """Tell which pictures were not refused.

        Args:
            ids: all.
            source: what was read, for the message.

        Returns:
            Those left, in their order.

        Raises:
            ValueError: there are none.
        """
        kept = [id for id in ids if id not in self.dropped]
        if not kept:
            raise ValueError(f"{source} has no pictures" + (" that are good" if self.dropped else ""))
        return kept
