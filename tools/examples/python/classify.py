"""Classifies a photograph through the C library, with nothing but ctypes.

Run: python3 classify.py MODEL.skip PHOTO.jpg [PATH/TO/libskipstone.so]
"""

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p


class Class(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("index", c_uint32),
        ("score", c_float),
        ("reserved", c_int32),
        ("label", c_char_p),
    ]


def load(path):
    lib = ctypes.CDLL(path)
    lib.skipstone_last_error.restype = c_size_t
    lib.skipstone_last_error.argtypes = [c_char_p, c_size_t]
    lib.skipstone_model_open.argtypes = [c_char_p, c_uint32, POINTER(c_void_p)]
    lib.skipstone_session_create.argtypes = [c_void_p, c_void_p, c_void_p, POINTER(c_void_p)]
    lib.skipstone_session_classify.argtypes = [
        c_void_p, c_char_p, c_size_t, c_int64, POINTER(Class), c_size_t, POINTER(c_size_t),
    ]
    for destroy in (lib.skipstone_model_destroy, lib.skipstone_session_destroy):
        destroy.argtypes, destroy.restype = [c_void_p], None
    return lib


def check(lib, status):
    if status != 0:
        text = ctypes.create_string_buffer(lib.skipstone_last_error(None, 0))
        lib.skipstone_last_error(text, len(text))
        raise RuntimeError(f"{text.value.decode()} (status {status})")


def main(model_path, photo_path, library="libskipstone.so"):
    lib = load(library)
    model, session = c_void_p(), c_void_p()
    check(lib, lib.skipstone_model_open(model_path.encode(), 0, byref(model)))
    try:
        check(lib, lib.skipstone_session_create(model, None, None, byref(session)))
        with open(photo_path, "rb") as file:
            photo = file.read()
        classes, count = (Class * 3)(), c_size_t()
        classes[0].struct_size = ctypes.sizeof(Class)
        check(lib, lib.skipstone_session_classify(
            session, photo, len(photo), 0, classes, len(classes), byref(count)))
        for best in classes[: count.value]:
            print(f"{best.score:.4f}  {best.label.decode() if best.label else best.index}")
    finally:
        lib.skipstone_session_destroy(session)
        lib.skipstone_model_destroy(model)


if __name__ == "__main__":
    main(*sys.argv[1:])
