"""Mutations that know a format's structure: a length, a number of a header, an opcode, a member of
an archive."""

import contextlib
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from .seed import Seed

NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -1,
    -2,
    -(2**31),
    -(2**63),
]
VALUES: list[Any] = [
    *NUMBERS,
    None,
    True,
    False,
    "",
    "a",
    "0",
    "\x00",
    "../x",
    "F32",
    "BF16",
    [],
    {},
    [0],
    [-1],
    [1, 2, 3],
    1.5,
    1e308,
    float("nan"),
    "é" * 300,
]


def mutated(seed: Seed, chance: random.Random) -> tuple[dict[str, bytes], str]:
    """The files of a seed with one to three changes in one of them, and what was done: `raw` where
    no checksum was made right again."""
    files = dict(seed.files)
    name = chance.choice(list(files))
    content, done = files[name], []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        ways: list[Callable[[bytes, random.Random], bytes]]
        ways = [_bytes, _bytes, _number, _span, _cut]
        if name.endswith((".json", "_METADATA")):
            ways += [_json] * 6
        if OCDBT.search(content):
            ways += [_node] * 6
        if name == ".metadata":
            ways += [_opcode] * 8
        if name.endswith(".safetensors"):
            ways += [_header] * 6
        if name.endswith(".gguf"):
            ways += [_gguf] * 8
        if name.endswith((".onnx", ".mlmodel")):
            ways += [_message] * 8
        if name.endswith(".tflite"):
            ways += [_word] * 8
        if name.endswith(".xml"):
            ways += [_markup] * 8
        if content[:2] == b"PK":
            ways += [_member] * 5 + [_directory] * 2
        way = chance.choice(ways)
        try:
            content = way(content, chance)
        except Exception:  # what an earlier change left has no such structure any more
            content = _bytes(content, chance)
            way = _bytes
        done.append(way.__name__)
    files[name] = content
    mended = {
        "_member",
        "_json",
        "_header",
        "_directory",
        "_opcode",
        "_node",
        "_gguf",
        "_message",
    }
    return files, "mended" if mended & set(done) else "raw"


def _place(content: bytes, chance: random.Random) -> int:
    """Anywhere, oftener near the ends, where formats keep their tables."""
    size = max(len(content), 1)
    return chance.choice(
        (
            chance.randrange(size),
            chance.randrange(min(size, 256)),
            size - 1 - chance.randrange(min(size, 256)),
        )
    )


def _bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = _place(bytes(changed), chance)
        changed[at] = chance.choice(
            (changed[at] ^ 1 << chance.randrange(8), chance.randrange(256), 0, 255)
        )
    return bytes(changed)


def _number(content: bytes, chance: random.Random) -> bytes:
    width = chance.choice((1, 2, 4, 8))
    at = _place(content, chance)
    value = chance.choice(NUMBERS) % 2 ** (8 * width)
    return (
        content[:at]
        + value.to_bytes(width, chance.choice(("little", "big")))
        + content[at + width :]
    )


def _span(content: bytes, chance: random.Random) -> bytes:
    """A part is repeated, removed, moved, or taken from elsewhere."""
    start, at = _place(content, chance), _place(content, chance)
    part = content[start : start + chance.choice((1, 4, 16, 100, 1000))]
    return chance.choice(
        (
            content[:at] + part + content[at:],
            content[:start] + content[start + len(part) :],
            content[:at] + part + content[at + len(part) :],
        )
    )


def _cut(content: bytes, chance: random.Random) -> bytes:
    return (
        content[: _place(content, chance)]
        if chance.random() < 0.7
        else content + bytes(chance.randrange(1, 64))
    )


def _word(content: bytes, chance: random.Random) -> bytes:
    """A number of four bytes, as the tables of a FlatBuffer hold: an offset, a length, an index."""
    at = 4 * chance.randrange(max(len(content) // 4, 1))
    held = int.from_bytes(content[at : at + 4], "little")
    other = 4 * chance.randrange(max(len(content) // 4, 1))
    near = held + chance.choice((-8, -4, -2, -1, 1, 2, 4, 8))
    taken = int.from_bytes(content[other : other + 4], "little")
    value = chance.choice((near, near, taken, chance.choice(NUMBERS), other - at)) % 2**32
    return content[:at] + value.to_bytes(4, "little") + content[at + 4 :]


def _markup(content: bytes, chance: random.Random) -> bytes:
    """An attribute, an extent, or an element of XML is another one, is gone, or is there twice."""
    kind = chance.choice((rb'"[^"]*"', rb">-?\d+<", rb"<[^>]*/>", rb"<(?:port|layer|edge)\b[^>]*>"))
    found = list(re.finditer(kind, content))
    place, other = chance.choice(found), chance.choice(found)
    old = place.group()
    numbers = re.sub(rb"-?\d+", str(chance.choice(NUMBERS)).encode(), old, count=1)
    new = chance.choice((numbers, numbers, other.group(), b"", old + old))
    return content[: place.start()] + new + content[place.end() :]


def _json(content: bytes, chance: random.Random) -> bytes:
    return json.dumps(_changed(json.loads(content), chance)).encode()


def _header(content: bytes, chance: random.Random) -> bytes:
    """The JSON of a safetensors file, with its length made right."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.dumps(_changed(json.loads(content[8 : 8 + size]), chance)).encode()
    if chance.random() < 0.1:  # a key twice
        header = header[:-1] + b", " + header[1:]
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def _changed(value: Any, chance: random.Random) -> Any:
    """One value somewhere inside is another one, is gone, or has another name."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        others = {name: each for name, each in value.items() if name != key}
        way = chance.random()
        if way < 0.08:
            return others
        if way < 0.16:
            return {
                **others,
                chance.choice((key + "x", "", key[:-1], chance.choice(list(value)))): value[key],
            }
        return {**value, key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        way = chance.random()
        if way < 0.1:
            return value[:at] + value[at + 1 :]
        if way < 0.2:
            return [*value, value[at]]
        return [*value[:at], _changed(value[at], chance), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.6:
        return value + chance.choice((-1, 1, -4, 4, value, -2 * value, chance.randrange(1 << 20)))
    return chance.choice(VALUES)


def _member(content: bytes, chance: random.Random) -> bytes:
    """A member of an archive is changed, and its checksum made right."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
        names = old.namelist()
        chosen, way = chance.choice(names), chance.random()
        for info in old.infolist():
            held = old.read(info)
            name = info.filename
            if name == chosen and way < 0.1:
                continue
            if name == chosen and way < 0.2:
                name = chance.choice((name + "x", chance.choice(names), "../" + name, ""))
            elif name == chosen:
                held = _inside(held, name, chance)
            new.writestr(
                zipfile.ZipInfo(name), held, chance.choice((info.compress_type, zipfile.ZIP_STORED))
            )
    return found.getvalue()


def _inside(held: bytes, name: str, chance: random.Random) -> bytes:
    ways: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _number, _span, _cut]
    if name.endswith(".json"):
        ways.append(_json)
    if held[:6] == b"\x93NUMPY":
        ways += [_npy_header] * 4
    if name.endswith(".pkl"):
        ways += [_opcode] * 6
    return chance.choice(ways)(held, chance)


def _npy_header(held: bytes, chance: random.Random) -> bytes:
    """The dictionary in front of an array: another shape, type or order."""
    (size,) = struct.unpack("<H", held[8:10])
    text = held[10 : 10 + size].decode("latin-1")
    numbers = [str(each) for each in NUMBERS]
    swaps = [
        (
            "<f4",
            chance.choice(
                ("<f8", "<f2", "|u1", "|O", "<U4", "|V2", "<i8", ">f4", "f4,f4", "<M8[s]")
            ),
        ),
        ("False", "True"),
        ("(", "(" + chance.choice(numbers) + ", "),
        (")", ", " + chance.choice(numbers) + ")"),
        (chance.choice("0123456789"), chance.choice(numbers)),
        ("'shape'", "'shapes'"),
    ]
    changed = text.replace(*chance.choice(swaps), 1).encode("latin-1")
    return held[:8] + struct.pack("<H", len(changed) % 65536) + changed + held[10 + size :]


OPCODES = (
    b"(.012FIJKLMNPQRSTUVX]abcdeghijlopqrstu}"
    b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a"
    b"\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95"
)


def _opcode(held: bytes, chance: random.Random) -> bytes:
    """A number, an opcode, or a name of a pickle."""
    way = chance.random()
    at = chance.randrange(len(held))
    if way < 0.4:
        places = [place for place, code in enumerate(held) if code in b"KMJ"]
        at = chance.choice(places or [0])
        width = {75: 1, 77: 2, 74: 4}.get(held[at], 1)
        return (
            held[: at + 1]
            + (chance.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
            + held[at + 1 + width :]
        )
    if way < 0.7:
        return held[:at] + bytes([chance.choice(OPCODES)]) + held[at + 1 :]
    names = [
        b"FloatStorage",
        b"_rebuild_tensor_v2",
        b"OrderedDict",
        b"torch._utils",
        b"cpu",
        b"storage",
    ]
    others = [
        b"HalfStorage",
        b"DoubleStorage",
        b"_rebuild_parameter",
        b"_rebuild_qtensor",
        b"UntypedStorage",
        b"torch",
        b"builtins",
        b"cuda:0",
        b"LongStorage",
    ]
    name = chance.choice(names)
    return held.replace(name, chance.choice(others), chance.choice((1, -1)))


def _directory(content: bytes, chance: random.Random) -> bytes:
    """A field of an archive's directory or of a member's own header."""
    marks = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"]
    mark = chance.choice(marks)
    places = [at for at in range(len(content)) if content.startswith(mark, at)]
    at = chance.choice(places) + chance.randrange(4, 46)
    width = chance.choice((2, 4))
    changed = (
        content[:at]
        + (chance.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
        + content[at + width :]
    )
    return changed if chance.random() < 0.8 else changed + struct.pack("<I", zlib.crc32(changed))


OCDBT = re.compile(rb"\x0c\xdb(\x3a\x2a|\x20\xde|\x12\x34)", re.DOTALL)
"""How a manifest of OCDBT begins, and a node of its trees (tensorstore/kvstore/ocdbt/format)."""


def _node(content: bytes, chance: random.Random) -> bytes:
    """A byte of a manifest or a node, with its checksum made right; behind the mark stand its
    length in eight bytes, and the checksum at its end."""
    begin = chance.choice([match.start() for match in OCDBT.finditer(content)])
    size = int.from_bytes(content[begin + 4 : begin + 12], "little")
    node = bytearray(content[begin : begin + size])
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(12, size - 4)
        node[at] = chance.choice((node[at] ^ 1 << chance.randrange(8), chance.randrange(256), 255))
    node[-4:] = _crc32c(bytes(node[:-4])).to_bytes(4, "little")
    return content[:begin] + bytes(node) + content[begin + size :]


def _crc32c(content: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, B.4)."""
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of GGUF's kinds of numbers."""


def _gguf(content: bytes, chance: random.Random) -> bytes:
    """A number of a GGUF header: a count, a length, a kind, an extent, a type, an offset, a value;
    or a letter of a name."""
    at, width = chance.choice(_gguf_numbers(content))
    old = int.from_bytes(content[at : at + width], "little")
    near = (old + 1, old - 1, 2 * old, old // 2, old ^ 1, old + 32, chance.randrange(64))
    value = chance.choice((*near, *near, *NUMBERS)) % 2 ** (8 * width)
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


def _gguf_numbers(content: bytes) -> list[tuple[int, int]]:
    """Where the numbers of a GGUF header are, and how wide."""
    places = [(4, 4), (8, 8), (16, 8)]
    tensors, keys = struct.unpack_from("<QQ", content, 8)
    at = 24

    def number(width: int) -> int:
        nonlocal at
        if at + width > len(content):
            raise ValueError("an earlier change left no whole header")
        places.append((at, width))
        at += width
        return int.from_bytes(content[at - width : at], "little")

    def text() -> None:
        nonlocal at
        length = number(8)
        number(min(length, 1))
        at += length - min(length, 1)

    def value(kind: int) -> None:
        if kind == 8:
            text()
        elif kind == 9:
            inner, count = number(4), number(8)
            for _ in range(count):
                value(inner)
        else:
            number(WIDTHS[kind])

    for _ in range(keys):
        text()
        value(number(4))
    for _ in range(tensors):
        text()
        for _ in range(number(4)):
            number(8)
        number(4)
        number(8)
    return places


def _message(content: bytes, chance: random.Random) -> bytes:
    """A field somewhere within a protobuf message is another one, is gone, or stands there twice;
    the lengths around it are made right again."""
    from patchparity.porting.files.protobuf import fields_of, of_length, written

    fields = list(fields_of(content, 0, len(content)))
    chosen = chance.choice(fields)
    before, after = content[: chosen.begin], content[chosen.end :]
    inner = content[chosen.start : chosen.end]
    if chosen.kind == 2 and len(inner) > 1 and chance.random() < 0.85:
        with contextlib.suppress(ValueError, IndexError):
            return before + of_length(chosen.number, _message(inner, chance)) + after
    way = chance.random()
    if way < 0.12:
        return before + after
    if way < 0.24:
        return before + content[chosen.begin : chosen.end] * 2 + after
    number = chosen.number
    if way < 0.34:
        number = chance.choice((1, 2, 3, 4, 5, 7, 9, 13, 14, 20, number + 1))
    if chosen.kind == 0:
        value = chance.choice((*NUMBERS, chosen.value + 1, chosen.value - 1, 2 * chosen.value))
        return before + written(number << 3) + written(value % 2**64) + after
    if chosen.kind == 2:
        texts = (b"", b"image", b"tokens", b"kernel", b"../x", b"\xff", inner[:-1], inner + b"x")
        swapped = bytes(inner) if way < 0.34 else chance.choice((*texts, _bytes(inner, chance)))
        return before + of_length(number, swapped) + after
    return before + content[chosen.begin : chosen.start] + _bytes(inner, chance) + after
