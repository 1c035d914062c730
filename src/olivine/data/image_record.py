"""The images that a run has opened, by content: one that changes during the run stops it, with its name.

Kept in the run's directory, 24 bytes per image. For every source format, the bytes that are decoded are those that are
compared, so no file size or modification time has to be trusted.
"""

from dataclasses import dataclass
from pathlib import Path

from olivine.contents import DIGEST_BYTES, KEY_BYTES, Table, digest_of
from olivine.errors import RunError

#: In a run's directory, one file for each process.
RECORD = "images.{rank}.index"


class ImageRecord:
    """The content of every image that a run has opened.

    Args:
        folder: the run's directory.
        rank: this process's rank; each process writes its own file, and reads those of all when it starts.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self._folder = folder
        path = folder / RECORD.format(rank=rank)
        self._table = Table(path, DIGEST_BYTES, sorted(folder.glob(RECORD.format(rank="*"))))

    def of(self, source: str) -> "SourceRecord":
        """Return the record of one data source, by the source's name in the recipe."""
        return SourceRecord(self, source)

    def check(self, source: str, image: str, content: bytes) -> None:
        """Compare an image's content with what it was when the run first opened it, or record it.

        Args:
            source: the data source's name.
            image: the image's name in it.
            content: its file's bytes.

        Raises:
            RunError: the content has changed.
        """
        key, found = self._key(source, image), digest_of(content)
        before = self._table.get(key)
        if before is None:
            self._table.put(key, found)
        elif before != found:
            raise self._changed(source, image, "its content is different")

    def check_unreadable(self, source: str, image: str, reason: str) -> None:
        """Stop if an image that cannot be read now was readable when the run first opened it.

        Raises:
            RunError: it was.
        """
        if self._table.get(self._key(source, image)) is not None:
            raise self._changed(source, image, f"it can no longer be read: {reason}")

    def _changed(self, source: str, image: str, how: str) -> RunError:
        return RunError(
            f"data.{source}: image {image!r} has changed since this run first opened it ({how}), so continuing would "
            f"mix two data sets. Put the old one back and run the same command to resume, or give another output=DIR. "
            f"(To train on the images as they are now anyway: remove {self._folder / RECORD.format(rank='*')}.)"
        )

    @staticmethod
    def _key(source: str, image: str) -> bytes:
        return digest_of(f"{source}\0{image}".encode("utf-8", "surrogatepass"), KEY_BYTES)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A record of images for one data source."""

    record: ImageRecord
    source: str

    def check(self, image: str, content: bytes) -> None:
        """Compare an image's content with the recorded one, or record it; raises as `ImageRecord.check`."""
        self.record.check(self.source, image, content)

    def check_unreadable(self, image: str, reason: str) -> None:
        """Stop if the image was readable before; raises as `ImageRecord.check_unreadable`."""
        self.record.check_unreadable(self.source, image, reason)
