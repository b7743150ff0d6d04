"""Zip archives whose files are overwritten where they lie, and those inside another one."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from .checkpoint import COPIED_BYTES

_LOCAL, _CENTRAL, _DESCRIPTOR = 30, 46, b"PK\x07\x08"
"""Bytes of an archive's headers before a file's name, and what may stand before a checksum behind
its content (PKWARE's APPNOTE, 4.3)."""


MOST_SPARE = 64
"""Bytes between two files of an archive that no header explains: a checksum behind the content
takes 24 at most."""


class Section(io.RawIOBase):
    """A part of a file, as a file of its own that is read: an archive that lies unpacked in
    another."""

    def __init__(self, path: Path, begin: int, size: int) -> None:
        self.file, self.begin, self.size, self.at = path.open("rb"), begin, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from its begin."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in it."""
        place = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence] + offset
        if place < 0:
            raise OSError("a place before the begin of a file")
        self.at = place
        return place

    def readinto(self, buffer: Any) -> int:
        """Read what is there, at most the buffer."""
        count = max(min(len(buffer), self.size - self.at), 0)
        self.file.seek(self.begin + self.at)
        content = self.file.read(count)
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def require_whole(archive: zipfile.ZipFile, path: Path, begin: int = 0) -> None:
    """Raise PatchParityError where an archive's directory leaves out a part of the file (in which
    it may begin behind the start): a damaged one drops files without a word."""
    at = 0
    for entry in sorted(archive.infolist(), key=lambda member: member.header_offset):
        if not -1 < entry.header_offset - at <= MOST_SPARE:
            break
        at = data_begin(path, entry, begin) - begin + entry.compress_size
    else:
        if 0 <= archive.start_dir - at <= MOST_SPARE:
            return
    raise PatchParityError(
        f"{path} is damaged or hostile: its directory does not tell what lies at byte {at}"
    )


def data_begin(path: Path, entry: zipfile.ZipInfo, begin: int = 0) -> int:
    """Where the content of a file in an archive begins, of one that itself begins there."""
    with path.open("rb") as file:
        file.seek(begin + entry.header_offset)
        header = file.read(_LOCAL)
    return (
        begin
        + entry.header_offset
        + _LOCAL
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )


def correct_checksums(path: Path, archive: zipfile.ZipFile, names: list[str]) -> None:
    """Write anew the checksums of files whose content was overwritten in a copy of an archive:
    before it, behind it, and in the directory."""
    checksums = {}
    with path.open("r+b") as file:
        for name in names:
            entry = archive.getinfo(name)
            file.seek(begin := data_begin(path, entry))
            left, checksum = entry.file_size, 0
            while left and (content := file.read(min(left, COPIED_BYTES))):
                checksum, left = zlib.crc32(content, checksum), left - len(content)
            checksums[name] = checksum.to_bytes(4, "little")
            if entry.flag_bits & 8:  # the checksum stands behind the content
                file.seek(begin + entry.file_size)
                at = begin + entry.file_size + (4 if file.read(4) == _DESCRIPTOR else 0)
            else:
                at = entry.header_offset + 14
            file.seek(at)
            file.write(checksums[name])
        at = archive.start_dir
        for entry in archive.infolist():  # in the directory's order
            file.seek(at)
            header = file.read(_CENTRAL)
            if entry.filename in checksums:
                file.seek(at + 16)
                file.write(checksums[entry.filename])
            at += _CENTRAL + sum(
                int.from_bytes(header[place : place + 2], "little") for place in (28, 30, 32)
            )
