"""Read a file of `torch.save` without torch and without running anything in it.

A pickle is a program: it names functions, and the unpickler calls them. Here nothing is called. Its opcodes are
followed one by one; what they would build is only noted (`Built`), and a few numbers are read from the zip where a
caller asks for them, so that the size of a checkpoint does not matter.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import StatisticsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LARGEST_PICKLE: Final = 64 << 20
_MOST_OPCODES: Final = 4_000_000
"""A checkpoint has some tens for each tensor; each may take some tens of bytes here."""
_DEEPEST: Final = 64
_DTYPES: Final = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4",
}  # fmt: skip
_TENSORS: Final = (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor"))
_MARK: Final = object()


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; it is not imported."""

    module: str
    name: str


@dataclass
class Built:
    """Object that a pickle would have built by calling something.

    Attributes:
        by: What it would have called.
        arguments: With what.
        state: The attributes it would have set.
        items: The entries it would have set, for a class that is a kind of dict.
    """

    by: Any
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredNumber:
    """A tensor of one element, still in the file."""

    dtype: str
    key: str
    offset: int


class TorchZip:
    """A file that `torch.save` has written since torch 1.6: a zip with a pickle and the bytes of each tensor.

    Args:
        path: The file.

    Raises:
        StatisticsError: It is cut short or malformed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        names = self._names()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if not pickles:
            raise StatisticsError("it is a zip without a data.pkl, expected one that torch.save wrote.")
        # TorchScript has further pickles deeper in; the shortest name is the outermost.
        self._prefix = min(pickles, key=len).removesuffix("data.pkl")
        self._big = f"{self._prefix}byteorder" in names and self._record("byteorder", 0, 3) == b"big"
        pickled = self._record("data.pkl", 0, _LARGEST_PICKLE + 1)
        if len(pickled) > _LARGEST_PICKLE:
            raise StatisticsError(f"its data.pkl has more than {_LARGEST_PICKLE:,} bytes, expected names and shapes.")
        self.content: Any = follow(pickled)

    def number(self, stored: StoredNumber) -> float:
        """Read one number.

        Raises:
            StatisticsError: It is not in the file, or of a type that is no number.
        """
        dtype = _DTYPES.get(stored.dtype)
        if dtype is None:
            raise StatisticsError(f"a tensor is a {stored.dtype}, expected floating-point numbers.")
        plain = np.dtype("u2" if dtype == "bf16" else dtype).newbyteorder(">" if self._big else "<")
        data = self._record(f"data/{stored.key}", stored.offset * plain.itemsize, plain.itemsize)
        if len(data) != plain.itemsize:
            raise StatisticsError(f"its record 'data/{stored.key}' is cut short. Copy the file again.")
        value = np.frombuffer(data, plain)
        if dtype == "bf16":
            value = (value.astype(np.uint32) << 16).view(np.float32)
        return float(value[0])

    def _names(self) -> list[str]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                return archive.namelist()
        except Exception as error:  # the standard library lets many kinds through for a malformed zip
            raise StatisticsError(f"it is not a whole zip file: {error}. Copy it again.") from None

    def _record(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of a record; fewer where it ends before."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                info = archive.getinfo(self._prefix + name)
                if info.compress_type != zipfile.ZIP_STORED:
                    # torch compresses nothing, and so nothing can grow when it is read.
                    raise StatisticsError(f"its record '{name}' is compressed, expected one as torch.save writes it.")
                with archive.open(info) as stream:
                    stream.seek(offset)
                    return stream.read(size)
        except StatisticsError:
            raise
        except Exception as error:  # as above
            raise StatisticsError(f"its record '{name}' cannot be read: {error}. Copy the file again.") from None


def follow(pickled: bytes) -> Any:
    """Follow a pickle without calling anything.

    Args:
        pickled: The pickle.

    Returns:
        Plain values as they are, a `StoredNumber` for a tensor of one element, a `Name` or a `Built` for the rest.

    Raises:
        StatisticsError: It is malformed, or uses what no file of torch does.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # A text in a damaged pickle may hold an escape that Python does not know; it is read as it stands.
            warnings.simplefilter("ignore", DeprecationWarning)
            for done, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
                if done > _MOST_OPCODES:
                    raise StatisticsError(f"its pickle has more than {_MOST_OPCODES:,} operations, expected fewer.")
                if opcode.name == "STOP":
                    return machine.pop()
                machine.step(opcode.name, argument)
    except StatisticsError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise StatisticsError(f"its pickle is malformed: {error or type(error).__name__}. Save it again.") from None
    raise StatisticsError("its pickle has no end. Copy the file again.")


class _Machine:
    """The unpickler's stack and memo, and the effect of each opcode."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self._stack.pop()

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _NOTHING:
            return
        if opcode in _PUSHES_ARGUMENT:
            self._stack.append(argument)
        elif opcode in _PUSHES:
            self._stack.append(_PUSHES[opcode]())
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = self._stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memo[argument])
        elif (method := getattr(self, f"_{opcode.lower()}", None)) is not None:
            method(*(() if argument is None else (argument,)))
        else:
            raise StatisticsError(f"its pickle uses {opcode}, expected only what torch.save writes.")

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _pop(self) -> None:
        self._stack.pop()

    def _pop_mark(self) -> None:
        self._to_mark()

    def _dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _tuple(self) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _tuple1(self) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _list(self) -> None:
        self._stack.append(self._to_mark())

    # A set is a list here: what is in it may not be hashable, as nothing was built.
    _frozenset = _list

    def _dict(self) -> None:
        items = self._to_mark()
        self._stack.append({})
        _fill(self._stack[-1], items)

    def _append(self) -> None:
        _extend(self._stack[-2], [self._stack.pop()])

    def _appends(self) -> None:
        items = self._to_mark()
        _extend(self._stack[-1], items)

    _additems = _appends

    def _setitem(self) -> None:
        items = self._stack[-2:]
        del self._stack[-2:]
        _fill(self._stack[-1], items)

    def _setitems(self) -> None:
        items = self._to_mark()
        _fill(self._stack[-1], items)

    def _global(self, name: str) -> None:
        self._stack.append(Name(*name.split(" ", 1)))

    def _stack_global(self) -> None:
        module, name = self._stack[-2:]
        if not isinstance(module, str) or not isinstance(name, str):
            raise StatisticsError("its pickle names a function by an object, expected text. Save it again.")
        self._stack[-2:] = [Name(module, name)]

    def _binpersid(self) -> None:
        self._stack[-1:] = [Built("persistent", self._stack[-1])]

    def _reduce(self) -> None:
        by, arguments = self._stack[-2:]
        self._stack[-2:] = [_build(by, arguments)]

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        self._stack.pop()
        self._reduce()

    def _build(self) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Built):
            self._stack[-1].state = state


_NOTHING: Final = frozenset({"PROTO", "FRAME"})
_PUSHES_ARGUMENT: Final = frozenset({
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1",
    "LONG4", "BINFLOAT", "FLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING",
    "SHORT_BINSTRING", "STRING",
})  # fmt: skip
_PUSHES: Final[dict[str, Callable[[], Any]]] = {
    "MARK": lambda: _MARK, "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict,
    "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip


def _build(by: Any, arguments: Any) -> Any:
    """Result of a call in a pickle, as far as it matters here."""
    if by == Name("collections", "OrderedDict") and arguments == ():
        return {}
    if by == Name("torch._utils", "_rebuild_parameter"):
        return arguments[0]
    if isinstance(by, Name) and (by.module, by.name) in _TENSORS:
        storage, offset, size = arguments[:3]
        _, kind, key, *_ = storage.arguments
        one = isinstance(size, tuple) and all(each == 1 for each in size)
        if one and isinstance(kind, Name) and isinstance(key, str) and isinstance(offset, int) and offset >= 0:
            return StoredNumber(kind.name, key, offset)
    return Built(by, arguments)


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target += items


def _fill(target: Any, items: list[Any]) -> None:
    """Set entries; keys of other types than these are no names, and hashing them might take forever."""
    entries = target.items if isinstance(target, Built) else target
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, str | int | float | bytes):
            entries[key] = value


def mappings(content: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Every dict in a pickle, each once, outer before inner, with the keys that lead to it.

    Args:
        content: What `follow` gave, or a legacy file's dict.
    """
    seen: set[int] = set()
    pending: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    while pending:
        path, found = pending.popleft()
        if id(found) in seen or len(path) > _DEEPEST:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            yield path, found
            pending.extend(((*path, key), value) for key, value in found.items() if isinstance(key, str))
        elif isinstance(found, list | tuple):
            pending.extend((path, value) for value in found)
        elif isinstance(found, Built):
            pending.extend((path, part) for part in (found.state, found.items, found.arguments))
