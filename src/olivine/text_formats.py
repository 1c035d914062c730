"""The actual format of a file that was taken for JSON, from its first bytes.

Nothing is unpacked or converted here: unsupported formats are named, with what to do about them.
"""

#: How many bytes of a file `foreign_format` needs.
HEAD = 512
BOM = b"\xef\xbb\xbf"
#: (a file's first bytes, its format and what to do about it).
_BEGINNINGS = (
    (b"\x1f\x8b", "gzip-compressed. Unpack it first: gunzip -k FILE"),
    (b"BZh", "bzip2-compressed. Unpack it first: bunzip2 -k FILE"),
    (b"\xfd7zXZ", "xz-compressed. Unpack it first: unxz -k FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed. Unpack it first: unzstd FILE"),
    (b"PK\x03\x04", "a zip archive. Unpack it first: unzip FILE"),
    (b"PAR1", "a Parquet file. In a recipe: format: huggingface, path: its folder"),
    (b"ARROW1", "an Arrow file. In a recipe: format: huggingface, path: its folder"),
    (b"version https://git-lfs.github.com/spec", "a Git LFS pointer and not the file itself. Fetch it: git lfs pull"),
    (b"\x80\x04", "a Python pickle, which is never loaded. Write it as JSON"),
    (b"SQLite format 3", "an SQLite database. Write it as JSON"),
)
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")
_UTF_16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def foreign_format(head: bytes) -> str | None:
    """Return what a file is, and what to do about it, if its first bytes show that it is not UTF-8 text; else None."""
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return what
    if head.startswith(_UTF_16_OR_32) or _is_utf_16_without_mark(head):
        return "UTF-16 or UTF-32 text. Write it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE"
    if head[257:262] == b"ustar":
        return "a tar archive. In a recipe: format: webdataset, path: the file"
    if head.startswith(_IMAGES):
        return "an image file"
    if head.removeprefix(BOM).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page and not the file itself. Fetch it again, from its download address"
    return None


def _is_utf_16_without_mark(head: bytes) -> bool:
    """Return whether every second byte is zero, as in UTF-16 text of ASCII characters."""
    return len(head) >= 4 and head[:4].count(0) == 2 and (head[0:4:2] == b"\0\0" or head[1:4:2] == b"\0\0")
