"""What a task function gets: the payload as the type that its first parameter names.

A reader is made of the type once, when the function is registered: a type that no payload can have is found out then.
What it reads are plain values, in which numbers without a fraction are ints (see `client.payloads`).
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, TypeAlias, get_args, get_origin

Reader: TypeAlias = Callable[[Any], Any]
"""Makes a plain value what the function wants. Raises Misfit."""


class Misfit(Exception):
    """A value is not what the function wants. Its place is put together on the way up."""

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description
        self.steps: list[str] = []
        """The way to the value, the last step first, such as `[2]` or `.name`."""

    def told(self, name: str) -> str:
        """A sentence on it; `name` is what the whole is called."""
        return f"{''.join([name, *reversed(self.steps)])}: {self.description}"


def reader(kind: Any) -> Reader:  # noqa: ANN401 - an annotation may be anything
    """A reader of whole payloads. Raises TypeError if no payload can be of that kind."""
    if kind in (Any, object, Parameter.empty):
        return _anything
    if (get_origin(kind) or kind) in (dict, Mapping) or _is_model(kind) or dataclasses.is_dataclass(kind):
        return _reader(kind, {})
    raise TypeError(f"a payload can be a mapping, a dataclass or a pydantic model, but not {_name(kind)}")


def _reader(kind: Any, known: dict[Any, Reader]) -> Reader:  # noqa: ANN401 - an annotation, of whatever kind
    """A reader of values of that kind. `known` are the dataclasses that are being read, which may hold each other."""
    if kind in known:
        return known[kind]
    if kind in (Any, object):
        return _anything
    if kind in _SCALARS:
        return _SCALARS[kind]
    if _is_model(kind):
        return _model(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _Record(kind, known)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choice({member.value: member for member in kind})
    origin, of = get_origin(kind) or kind, get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _either([_reader(one, known) for one in of])
    if origin is typing.Literal:
        return _choice({value: value for value in of})
    if origin in (list, Sequence) or (origin is tuple and of[1:] == (...,)):
        return _list(_reader(of[0] if of else Any, known), tuple if origin is tuple else list)
    if origin in (dict, Mapping) and of[:1] in ((), (str,), (Any,)):
        return _dict(_reader(of[1] if of else Any, known))
    raise TypeError(f"{_name(kind)} is not a type that a payload's values can have; a pydantic model may know more")


def _anything(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Misfit("must be a string")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Misfit("must be true or false")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Misfit("must be a whole number, of at most 2^53 either way")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Misfit("must be a number")
    return float(value)


def _nothing(value: object) -> None:
    if value is not None:
        raise Misfit("must be null")


_SCALARS: Mapping[Any, Reader] = {
    str: _text,
    bool: _flag,
    int: _integer,
    float: _number,
    None: _nothing,
    type(None): _nothing,
}


def _choice(values: Mapping[Any, Any]) -> Reader:
    offer = ", ".join(str(value) for value in values)

    def read(value: object) -> object:
        for one, member in values.items():
            if one == value and isinstance(one, bool) == isinstance(value, bool):
                return member
        raise Misfit(f"must be one of {offer}")

    return read


def _either(readers: Sequence[Reader]) -> Reader:
    others = [one for one in readers if one is not _nothing]

    def read(value: object) -> object:
        if value is None and len(others) < len(readers):
            return None
        misfits = []
        for one in others:
            try:
                return one(value)
            except Misfit as misfit:
                misfits.append(misfit)
        if len(misfits) == 1:
            raise misfits[0]
        raise Misfit("; or ".join(misfit.told("").lstrip(".: ") for misfit in misfits))

    return read


def _list(item: Reader, make: Callable[[list[Any]], Any]) -> Reader:
    def read(value: object) -> object:
        if not isinstance(value, list):
            raise Misfit("must be a list")
        return make([_at(f"[{index}]", item, one) for index, one in enumerate(value)])

    return read


def _dict(item: Reader) -> Reader:
    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise Misfit("must be an object")
        return {key: _at(f".{key}", item, one) for key, one in value.items()}

    return read


class _Record:
    """Reads a dataclass. Fields that it does not have are passed over: who submits may be newer than the worker."""

    def __init__(self, kind: type, known: dict[Any, Reader]) -> None:
        known[kind] = self
        self._kind = kind
        self._fields: dict[str, Reader] = {}
        self._needed: list[str] = []
        hints = typing.get_type_hints(kind)
        for one in dataclasses.fields(kind):
            if not one.init:
                continue
            try:
                self._fields[one.name] = _reader(hints[one.name], known)
            except TypeError as error:
                raise TypeError(f"{kind.__qualname__}.{one.name}: {error}") from None
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                self._needed.append(one.name)

    def __call__(self, value: object) -> object:
        if not isinstance(value, dict):
            raise Misfit("must be an object")
        for name in self._needed:
            if name not in value:
                raise _under(f".{name}", Misfit("is needed"))
        read = {name: _at(f".{name}", one, value[name]) for name, one in self._fields.items() if name in value}
        try:
            return self._kind(**read)
        except ValueError as error:  # what its __post_init__ says of the payload
            raise Misfit(str(error)) from None


def _is_model(kind: Any) -> bool:  # noqa: ANN401 - an annotation, of whatever kind
    return isinstance(kind, type) and hasattr(kind, "model_validate")


def _model(kind: Any) -> Reader:  # noqa: ANN401 - an annotation, of whatever kind
    def read(value: object) -> object:
        try:
            return kind.model_validate(value)
        except ValueError as error:  # pydantic's ValidationError is one, and tells its errors apart
            first = next(iter(error.errors()), None) if hasattr(error, "errors") else None
            if first is None:
                raise Misfit(str(error)) from None
            misfit = Misfit(first["msg"])
            misfit.steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(first["loc"])]
            raise misfit from None

    return read


def _at(step: str, one: Reader, value: object) -> object:
    try:
        return one(value)
    except Misfit as misfit:
        raise _under(step, misfit) from None


def _under(step: str, misfit: Misfit) -> Misfit:
    misfit.steps.append(step)
    return misfit


def _name(kind: Any) -> str:  # noqa: ANN401 - an annotation, of whatever kind
    return kind.__qualname__ if isinstance(kind, type) and not get_args(kind) else str(kind)
