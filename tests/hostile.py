"""Files that run code where they are unpickled: the code makes the folder `pwned`, or notes it in `FIRED`."""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np

FIRED = []


def fire(*_args, **_kwargs):
    FIRED.append(True)
    return 0.001


class Calls:
    """Pickled as the call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Stateful:
    def __init__(self):
        self.number = 1

    def __setstate__(self, state):
        fire()


class New:
    def __new__(cls, *args, **kwargs):
        fire()
        return super().__new__(cls)


class Init:
    def __init__(self, *args):
        fire()


class Hashed:
    def __hash__(self):
        fire()
        return 1


class Collecting:
    def append(self, item):
        fire()

    extend = add = append

    def __setitem__(self, key, value):
        fire()


class Target:
    """Whose attributes are changed."""


SHARED, COLLECTING = Target(), Collecting()


def text(value):
    """A text on the stack."""
    encoded = value.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(encoded)]) + encoded


def named(module, name):
    """A global on the stack."""
    return text(module) + text(name) + pickle.STACK_GLOBAL


def whole(*parts):
    """A pickle of these parts."""
    return pickle.PROTO + b"\x04" + b"".join(parts) + pickle.STOP


def zeros(gibibytes, unit=2**26):
    """A zip file with a member of zeros, of one hundredth of a percent of its size, written without making them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(unit)) + packer.flush(zlib.Z_FULL_FLUSH)
    n = gibibytes * 2**30 // unit
    content = block * n + packer.flush()
    size, name = n * unit, b"data"
    header = struct.pack("<4s5HLLLHH", b"PK\x03\x04", 45, 0, 8, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 20)
    extra = struct.pack("<HHQQ", 1, 16, size, len(content))
    local = header + name + extra + content
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 8, 0, 33, 0, 2**32 - 1, 2**32 - 1, 4, 20, 0, 0, 0, 0, 0
    )
    central = entry + name + extra
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def sparse(path, gibibytes):
    """A zip file with a member of that size that is not compressed, and takes no room on the disk."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", b"")
        info = archive.infolist()[0]
        info.file_size = info.compress_size = gibibytes * 2**30
        archive.fp.seek(gibibytes * 2**30, io.SEEK_CUR)
        archive.start_dir = archive.fp.tell()


def object_array(thing):
    array = np.empty(1, dtype=object)
    array[0] = thing
    return array
