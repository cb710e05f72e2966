"""The part of the C library that a load generator needs, through ctypes."""

import ctypes
import itertools
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_void_p

import numpy as np

F32 = 0
OPEN_MAP = 1


class TensorInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("rank", c_uint32),
        ("dims", c_int64 * 4),
        ("order", c_int32),
        ("takes_u8", c_int32),
        ("channels", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("name", c_char_p),
    ]

    def shape(self):
        """Of one image, in the network's own axes."""
        return tuple(self.dims[1 : self.rank])


class Input(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int32),
        ("order", c_int32),
        ("reserved", c_int32),
        ("data", c_void_p),
        ("size", c_size_t),
    ]


class Output(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_int32),
        ("data", c_void_p),
        ("size", c_size_t),
    ]


DONE = ctypes.CFUNCTYPE(None, c_void_p, c_int32, c_void_p)


class Error(Exception):
    """A call's status and text."""


class Library:
    """libskipstone.so."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.skipstone_last_error.restype = c_size_t
        self.c.skipstone_last_error.argtypes = [c_char_p, c_size_t]
        for destroy in ("model", "options", "session"):
            function = getattr(self.c, f"skipstone_{destroy}_destroy")
            function.argtypes, function.restype = [c_void_p], None
        run = [c_void_p, POINTER(Input), c_size_t, POINTER(Output), c_size_t, c_int64]
        self.c.skipstone_session_run.argtypes = [*run, c_void_p]
        self.c.skipstone_session_submit.argtypes = [*run, DONE, c_void_p]

    def check(self, status):
        if status != 0:
            text = ctypes.create_string_buffer(self.c.skipstone_last_error(None, 0))
            self.c.skipstone_last_error(text, len(text))
            raise Error(f"{text.value.decode()} (status {status})")


class Session:
    """A session of a model with one input, fed with one f32 image per request."""

    def __init__(self, library, model_path, options):
        self.library, self.c = library, library.c
        self._pending, self._tokens = {}, itertools.count(1)
        self._done = DONE(self._ended)
        self._handle = c_void_p()
        model, settings, inputs, outputs = c_void_p(), c_void_p(), c_size_t(), c_size_t()
        check = library.check
        check(self.c.skipstone_model_open(model_path.encode(), OPEN_MAP, byref(model)))
        try:
            check(self.c.skipstone_model_counts(model, byref(inputs), byref(outputs), None))
            if inputs.value != 1:
                raise Error(f"{model_path} has {inputs.value} inputs, expected one")
            check(self.c.skipstone_options_create(byref(settings)))
            for key, value in options.items():
                check(self.c.skipstone_options_set(settings, key.encode(), str(value).encode()))
            check(self.c.skipstone_session_create(model, settings, None, byref(self._handle)))
        finally:
            self.c.skipstone_options_destroy(settings)
            self.c.skipstone_model_destroy(model)
        self.input_shape = self._shape("input", 0)
        shapes = [self._shape("output", i) for i in range(outputs.value)]
        self._output_sizes = [int(np.prod(shape)) for shape in shapes]

    def _shape(self, kind, index):
        info = TensorInfo(struct_size=ctypes.sizeof(TensorInfo))
        call = getattr(self.c, f"skipstone_session_{kind}")
        self.library.check(call(self._handle, index, byref(info)))
        return info.shape()

    def _request(self, image):
        """The arguments of a run, and its outputs, one after the other."""
        assert image.dtype == np.float32 and image.flags.c_contiguous
        assert image.shape == self.input_shape, f"{image.shape}, expected {self.input_shape}"
        results = np.empty(sum(self._output_sizes), np.float32)
        given = Input(ctypes.sizeof(Input), F32, 0, 0, image.ctypes.data, image.nbytes)
        wanted, at = (Output * len(self._output_sizes))(), results.ctypes.data
        for slot, size in zip(wanted, self._output_sizes, strict=True):
            slot.struct_size, slot.data, slot.size = ctypes.sizeof(Output), at, size * 4
            at += size * 4
        return (self._handle, byref(given), 1, wanted, len(wanted), 0), results

    def run(self, image):
        """All outputs of one image, one after the other."""
        arguments, results = self._request(image)
        self.library.check(self.c.skipstone_session_run(*arguments, None))
        return results

    def submit(self, image, done):
        """Queues an image; `done(outputs)` is called on a thread of the session."""
        arguments, results = self._request(image)
        token = next(self._tokens)
        self._pending[token] = image, results, done
        try:
            self.library.check(self.c.skipstone_session_submit(*arguments, self._done, token))
        except Error:
            del self._pending[token]
            raise

    def _ended(self, token, status, _timing):
        _image, results, done = self._pending.pop(token)
        self.library.check(status)
        done(results)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.c.skipstone_session_destroy(self._handle)
