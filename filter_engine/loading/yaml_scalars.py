"""go-yaml v2's ``resolve``: what a YAML scalar means, and what becomes of it in JSON."""

from __future__ import annotations

import base64
import math
import re
import struct

from filter_engine.errors import shortened
from filter_engine.loading.document import DocumentError, without_surrogates
from filter_engine.loading.times import is_yaml_timestamp

Scalar = bool | int | float | str | None

_BOOLS = {
    spelling: value
    for value, words in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_NULLS = {"", "~", "null", "Null", "NULL"}
_FLOAT_WORDS = {
    sign + word: float(sign + word[1:])
    for sign, words in (("", (".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF")),
                        ("+", (".inf", ".Inf", ".INF")),
                        ("-", (".inf", ".Inf", ".INF")))
    for word in words
}  # fmt: skip
_INT = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
# Go allows a sign after the prefix 0b.
_SIGN_IN_BINARY = re.compile(r"0b([-+][01]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LONGEST_INT = 70  # 64 binary digits, a sign and a prefix: Go does not read longer numbers as integers
_TAG = "tag:yaml.org,2002:"
_TAG_TYPES: dict[str, tuple[type, ...]] = {
    _TAG + "bool": (bool,),
    _TAG + "int": (int,),
    _TAG + "float": (float, int),
    _TAG + "null": (type(None),),
}
# The bounds of Go's integers of 64 bits, with and without a sign.
MIN_INT64, MAX_INT64, MAX_UINT64 = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1


def scalar(text: str, tag: str | None, plain: bool, line: int | None) -> Scalar:
    """The value of a scalar.

    Args:
        text: the scalar's text, without quotes.
        tag: its tag in full, or None.
        plain: whether it has neither quotes nor a tag.
        line: its line, for errors.

    Raises:
        DocumentError: the text does not fit the tag.
    """
    if tag == _TAG + "binary":
        return _binary(text, line)
    if tag == _TAG + "timestamp":
        if not is_yaml_timestamp(text):
            raise _misfit(text, tag, line)
        return text
    if tag in _TAG_TYPES:
        value = resolve(text)
        if (isinstance(value, bool) and tag != _TAG + "bool") or not isinstance(value, _TAG_TYPES[tag]):
            raise _misfit(text, tag, line)
        if tag == _TAG + "float":
            if isinstance(value, int) and value > MAX_INT64:
                raise _misfit(text, tag, line)
            assert isinstance(value, (int, float))
            return float(value)
        return value
    return resolve(text) if tag is None and plain else text


def resolve(text: str) -> Scalar:
    """The value of a plain scalar."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text in _FLOAT_WORDS:
        return _FLOAT_WORDS[text]
    if text[0] in "+-.0123456789":
        digits = text if text[0] == "." else text.replace("_", "")
        if len(digits) <= _LONGEST_INT:
            number = _integer(digits)
            if number is not None and MIN_INT64 <= number <= MAX_UINT64:
                return number
        if _FLOAT.fullmatch(digits) and not math.isinf(float(digits)):
            return float(digits)
    return text


def _integer(digits: str) -> int | None:
    if signed := _SIGN_IN_BINARY.fullmatch(digits):
        return int(signed[1], 2)
    if not _INT.fullmatch(digits):
        return None
    octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
    return int("0o".join(octal.groups()), 0) if octal else int(digits, 0)


def as_json(value: Scalar) -> Scalar:
    """A value as it stands in the JSON that kube-apiserver converts YAML to: ``1e3`` becomes 1000."""
    if isinstance(value, float) and abs(value) < 1e21 and value.is_integer():
        return int(value)
    return value


def key_text(value: object, line: int | None) -> str:
    """A mapping's key as it stands in the JSON that kube-apiserver converts YAML to. Raises DocumentError."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value <= MAX_INT64:
        return str(value)
    if isinstance(value, float):
        return _float_key(value)
    kind = "null" if value is None else type(value).__name__
    raise DocumentError(f"yaml: unsupported map key of type {kind}", line)


def _float_key(value: float) -> str:
    """Go's ``strconv.FormatFloat(value, 'g', -1, 32)``: the fewest digits that identify a 32-bit float."""
    single = _single(value)
    if not math.isfinite(single):
        return ".nan" if math.isnan(single) else ".inf" if single > 0 else "-.inf"
    digits = next((d for d in range(8) if _single(float(f"{single:.{d}e}")) == single), 8)
    mantissa, _, exponent = f"{single:.{digits}e}".partition("e")
    power = int(exponent)
    if not -4 <= power < 6:
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return f"{single:.{max(0, digits - power)}f}"


def _single(value: float) -> float:
    """The nearest float of 32 bits."""
    single: float = struct.unpack("=f", struct.pack("f", value))[0]  # the native f overflows to infinity
    return single


def _binary(text: str, line: int | None) -> str:
    text = text.replace("\r", "").replace("\n", "")
    try:
        # Python, unlike Go, accepts padding that is not needed. So a length that is not a multiple of 4 is
        # refused here.
        data = base64.b64decode(text if len(text) % 4 == 0 else "=", validate=True)
    except ValueError:
        raise DocumentError("yaml: !!binary value contains invalid base64 data", line) from None
    return without_surrogates(data.decode("utf-8", "surrogateescape"))


def _misfit(text: str, tag: str, line: int | None) -> DocumentError:
    return DocumentError(f"yaml: cannot decode {shortened(text)!r} as a !!{tag[len(_TAG) :]}", line)
