"""Reading a request's JSON into a structure; what does not fit is the client's mistake."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from interlock.kernel.errors import InputError

T = TypeVar("T")


def read_json(body: bytes | memoryview, decoder: msgspec.json.Decoder[T], form: str = "") -> T:
    """The structure in `body`; raises InputError that says where it does not fit.

    form  what it must fit, where that has a name
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        told = f"fit {form}" if form else "fit"
        raise InputError(f"the request does not {told}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InputError("the request is not JSON") from None
