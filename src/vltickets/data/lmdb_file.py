"""An LMDB file read page by page, every number checked before it is followed.

liblmdb maps the file and trusts it: a page that points outside is a crash of the process, not an error. Region
databases are downloads of many gigabytes, so broken ones are met, and only reading in order of the keys is needed.
Layout: LMDB 0.9 (data version 1), 64 bits, little-endian; one unnamed database without duplicates, as UNITER writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from vltickets.errors import UserError

MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW, META = 0x01, 0x02, 0x04, 0x08
FAR_VALUE = 0x01  # a node's flag: the value lies in overflow pages
NO_PAGE = 2**64 - 1
DEEPEST = 32  # LMDB's own limit of a tree's levels (CURSOR_STACK)
PAGE_HEADER = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
NODE_HEADER = struct.Struct("<HHHH")  # low and high half of the value's size (or a child's page), flags, key's size
META_PAGE = struct.Struct(
    "<IIQQ48s48sQQ"
)  # magic, version, address, map size, free list, main database, last page, txn
DATABASE = struct.Struct("<IHHQQQQQ")  # pad (page size), flags, depth, branch, leaf and overflow pages, entries, root


@dataclass(frozen=True)
class _Meta:
    page_size: int
    entries: int
    root: int
    last_page: int
    transaction: int


@dataclass(frozen=True)
class Value:
    """Where a value lies in the file."""

    start: int
    size: int


class LmdbFile:
    """An open LMDB file; `len` is its entries. Whatever is wrong in it is a `UserError` that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._size = path.stat().st_size
            self._file = path.open("rb")
        except OSError as error:
            raise UserError(f"{path}: it can't be opened ({error.strerror})") from None
        try:
            self._meta = self._newest_meta()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._meta.entries

    def places(self) -> Iterator[tuple[bytes, Value]]:
        """Yield each key and where its value lies, in the order of the keys; reads no value."""
        before: bytes | None = None
        found = 0
        for key, value in self._walk(self._meta.root, DEEPEST, set()) if self._meta.entries else ():
            if before is not None and key <= before:
                raise self._broken("the keys are not in order")
            before, found = key, found + 1
            yield key, value
        if found != self._meta.entries:
            raise self._broken(f"{found} entries, expected {self._meta.entries}")

    def read(self, value: Value) -> bytes:
        """Return a value."""
        return self._bytes(value.start, value.size)

    def _newest_meta(self) -> _Meta:
        first = self._one_meta(0)
        if first is None:
            raise UserError(f"{self.path}: not an LMDB file that can be read (LMDB 0.9, 64 bits, little-endian)")
        second = self._one_meta(first.page_size)
        newest = second if second and second.transaction > first.transaction else first
        if self._size < (newest.last_page + 1) * newest.page_size:
            needed = (newest.last_page + 1) * newest.page_size
            raise UserError(
                f"{self.path}: it was cut off: {self._size} bytes, expected {needed} or more; download it again"
            )
        return newest

    def _one_meta(self, start: int) -> _Meta | None:
        if self._size < start + PAGE_HEADER.size + META_PAGE.size:
            return None
        content = self._bytes(start, PAGE_HEADER.size + META_PAGE.size)
        flags = PAGE_HEADER.unpack_from(content)[2]
        magic, version, _, _, free, main, last_page, transaction = META_PAGE.unpack_from(content, PAGE_HEADER.size)
        page_size = DATABASE.unpack(free)[0]
        _, database_flags, _, _, _, _, entries, root = DATABASE.unpack(main)
        sound = page_size in {1 << power for power in range(9, 17)} and flags & META and not database_flags
        if (magic, version) != (MAGIC, VERSION) or not sound or (root == NO_PAGE) != (entries == 0):
            return None
        return _Meta(page_size, entries, root, last_page, transaction)

    def _walk(self, number: int, levels: int, seen: set[int]) -> Iterator[tuple[bytes, Value]]:
        if not levels or number in seen:
            raise self._broken(f"page {number} stands in its own branch, or too deep")
        seen.add(number)
        page, flags, nodes = self._page(number)
        for node in nodes:
            low, high, node_flags, key_size = NODE_HEADER.unpack_from(page, node)
            start = node + NODE_HEADER.size
            if flags & BRANCH:
                yield from self._walk(low | high << 16 | node_flags << 32, levels - 1, seen)
                continue
            size, key = low | high << 16, page[start : start + key_size]
            stored = 8 if node_flags & FAR_VALUE else size
            if node_flags & ~FAR_VALUE or start + key_size + stored > len(page):
                raise self._broken(f"page {number} has an entry that is not a key with its value")
            place = number * self._meta.page_size + start + key_size
            if node_flags & FAR_VALUE:
                place = self._far(int.from_bytes(page[start + key_size : start + key_size + 8], "little"), size)
            yield key, Value(place, size)

    def _page(self, number: int) -> tuple[bytes, int, list[int]]:
        """Return a page's bytes, flags and where its nodes start."""
        size = self._meta.page_size
        if not 2 <= number <= self._meta.last_page:
            raise self._broken(f"a branch points to page {number}, outside the file")
        page = self._bytes(number * size, size)
        found, _, flags, lower, _ = PAGE_HEADER.unpack_from(page)
        if found != number or flags not in (BRANCH, LEAF) or not PAGE_HEADER.size <= lower <= size or lower % 2:
            raise self._broken(f"page {number} is neither branch nor leaf")
        count = (lower - PAGE_HEADER.size) // 2
        nodes = list(struct.unpack_from(f"<{count}H", page, PAGE_HEADER.size))
        if not count or min(nodes) < lower or max(nodes) > size - NODE_HEADER.size:
            raise self._broken(f"page {number} has no entries, or entries outside itself")
        return page, flags, nodes

    def _far(self, number: int, size: int) -> int:
        """Return where a value of overflow pages starts."""
        page_size = self._meta.page_size
        if 2 <= number <= self._meta.last_page:
            header = self._bytes(number * page_size, PAGE_HEADER.size)
            found, _, flags, low, high = PAGE_HEADER.unpack(header)
            pages = low | high << 16
            inside = number + pages - 1 <= self._meta.last_page and PAGE_HEADER.size + size <= pages * page_size
            if found == number and flags == OVERFLOW and inside:
                return number * page_size + PAGE_HEADER.size
        raise self._broken(f"page {number} should hold a value of {size} bytes, but does not")

    def _bytes(self, start: int, size: int) -> bytes:
        try:
            self._file.seek(start)
            content = self._file.read(size)
        except OSError as error:
            raise UserError(f"{self.path}: it can't be read ({error.strerror})") from None
        if len(content) != size:
            raise self._broken(f"{size} bytes at {start} are missing")
        return content

    def _broken(self, how: str) -> UserError:
        return UserError(f"{self.path}: the LMDB file is damaged ({how}); download it again")
