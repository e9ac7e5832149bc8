"""A list of texts and whole numbers in MessagePack, as txtai keeps its ids.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
LISTS = {0xDC: 2, 0xDD: 4}


def read_list(data: bytes) -> list[str]:
    """All as texts. Raises ValueError where it is something else, or cut."""
    at = 0

    def number(size: int, signed: bool = False) -> int:
        return int.from_bytes(take(size), "big", signed=signed)

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        if at > len(data):
            raise ValueError("it is cut")
        return data[at - size : at]

    def value() -> str:
        code = number(1)
        if code < 0x80 or code >= 0xE0:
            return str(code if code < 0x80 else code - 0x100)
        if code in UNSIGNED or code in SIGNED:
            return str(number({**UNSIGNED, **SIGNED}[code], code in SIGNED))
        if 0xA0 <= code < 0xC0 or code in TEXTS:
            size = code - 0xA0 if code < 0xC0 else number(TEXTS[code])
            return take(size).decode("utf-8", "replace")
        raise ValueError("it holds more than texts and numbers, or is a pickle")

    code = number(1)
    if not 0x90 <= code < 0xA0 and code not in LISTS:
        raise ValueError("it is no list, or a pickle")
    return [value() for _ in range(code - 0x90 if code < 0xA0 else number(LISTS[code]))]
