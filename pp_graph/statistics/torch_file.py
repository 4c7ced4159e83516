"""Read a file of `torch.save` without torch and without executing code from it.

A pickle is a program: it names functions, and the unpickler calls them. This module follows the opcodes but calls
nothing; it records each call as a `Built`. Single numbers are read from the zip on demand, so large checkpoints take
no longer than small ones.
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
"""A checkpoint has some tens of opcodes per tensor, and each may take some tens of bytes of memory."""
_DEEPEST: Final = 64
_DTYPES: Final = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4",
}  # fmt: skip
_TENSORS: Final = (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor"))
_MARK: Final = object()


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names. It is not imported."""

    module: str
    name: str


@dataclass
class Built:
    """A call in a pickle that was not made.

    Attributes:
        by: The class or function.
        arguments: The arguments.
        state: Attributes to set on the result.
        items: Entries to set, if the result is a dict.
    """

    by: Any
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredNumber:
    """Position of a tensor with one element in the file."""

    dtype: str
    key: str
    offset: int


class TorchZip:
    """A file of `torch.save` from torch 1.6 on: a zip with a pickle and the bytes of each tensor.

    Args:
        path: The file.

    Raises:
        StatisticsError: The file is truncated or malformed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        names = self._names()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if not pickles:
            raise StatisticsError("it is a zip without data.pkl, expected a file of torch.save.")
        # TorchScript has more pickles in subfolders. The outermost has the shortest name.
        self._prefix = min(pickles, key=len).removesuffix("data.pkl")
        self._big_endian = f"{self._prefix}byteorder" in names and self._record("byteorder", 0, 3) == b"big"
        pickled = self._record("data.pkl", 0, _LARGEST_PICKLE + 1)
        if len(pickled) > _LARGEST_PICKLE:
            raise StatisticsError(f"its data.pkl has more than {_LARGEST_PICKLE:,} bytes, expected a smaller one.")
        self.content: Any = follow(pickled)

    def number(self, stored: StoredNumber) -> float:
        """Read one number.

        Raises:
            StatisticsError: The number is missing, or its type is not supported.
        """
        dtype = _DTYPES.get(stored.dtype)
        if dtype is None:
            raise StatisticsError(f"a tensor is a {stored.dtype}, expected floating-point numbers.")
        stored_dtype = np.dtype("u2" if dtype == "bf16" else dtype).newbyteorder(">" if self._big_endian else "<")
        data = self._record(f"data/{stored.key}", stored.offset * stored_dtype.itemsize, stored_dtype.itemsize)
        if len(data) != stored_dtype.itemsize:
            raise StatisticsError(f"its record 'data/{stored.key}' is cut short. Copy the file again.")
        value = np.frombuffer(data, stored_dtype)
        if dtype == "bf16":
            value = (value.astype(np.uint32) << 16).view(np.float32)
        return float(value[0])

    def _names(self) -> list[str]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                return archive.namelist()
        except Exception as error:  # zipfile raises many types for a malformed zip
            raise StatisticsError(f"it is a damaged zip file: {error}. Copy it again.") from None

    def _record(self, name: str, offset: int, size: int) -> bytes:
        """Read bytes of a record; fewer if the record ends before."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                info = archive.getinfo(self._prefix + name)
                if info.compress_type != zipfile.ZIP_STORED:
                    # torch never compresses. Refusing compressed records also rules out zip bombs.
                    raise StatisticsError(f"its record '{name}' is compressed, expected one that is not.")
                with archive.open(info) as stream:
                    stream.seek(offset)
                    return stream.read(size)
        except StatisticsError:
            raise
        except Exception as error:
            raise StatisticsError(f"its record '{name}' cannot be read: {error}. Copy the file again.") from None


def follow(pickled: bytes) -> Any:
    """Follow a pickle without calling anything.

    Args:
        pickled: The pickle.

    Returns:
        Plain values, with a `StoredNumber` for each tensor of one element, and `Name` and `Built` for other objects.

    Raises:
        StatisticsError: The pickle is malformed, or uses an opcode that torch does not write.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Text in a damaged pickle may contain an invalid escape, which Python warns of and keeps.
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
                if count > _MOST_OPCODES:
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
    """An unpickler that calls nothing: a stack, a memo, and a method for each opcode."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self._stack.pop()

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _IGNORED:
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
            raise StatisticsError(f"its pickle uses {opcode}, expected only opcodes that torch.save writes.")

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

    # Sets become lists, because a `Built` is not hashable.
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
            raise StatisticsError("its pickle names a function by an object, expected a string. Save it again.")
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


_IGNORED: Final = frozenset({"PROTO", "FRAME"})
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
    """Result of a call: a dict, a `StoredNumber`, or a `Built` for all other calls."""
    if by == Name("collections", "OrderedDict") and arguments == ():
        return {}
    if by == Name("torch._utils", "_rebuild_parameter"):
        return arguments[0]
    if isinstance(by, Name) and (by.module, by.name) in _TENSORS:
        storage, offset, size = arguments[:3]
        _, kind, key, *_ = storage.arguments
        one = isinstance(size, tuple) and all(length == 1 for length in size)
        if one and isinstance(kind, Name) and isinstance(key, str) and isinstance(offset, int) and offset >= 0:
            return StoredNumber(kind.name, key, offset)
    return Built(by, arguments)


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target += items


def _fill(target: Any, items: list[Any]) -> None:
    """Set entries with plain keys. Hashing other keys, such as nested tuples, could take forever."""
    entries = target.items if isinstance(target, Built) else target
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, str | int | float | bytes):
            entries[key] = value


def mappings(content: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Yield each dict in a pickle once, outer before inner, with the keys that lead to it.

    Args:
        content: Result of `follow`, or the content of a legacy file.
    """
    seen: set[int] = set()
    pending: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    while pending:
        path, value = pending.popleft()
        if id(value) in seen or len(path) > _DEEPEST:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            yield path, value
            pending.extend(((*path, key), entry) for key, entry in value.items() if isinstance(key, str))
        elif isinstance(value, list | tuple):
            pending.extend((path, item) for item in value)
        elif isinstance(value, Built):
            pending.extend((path, part) for part in (value.state, value.items, value.arguments))
