"""A plug-in codec for the decoder service's tests: what a prompt's bytes say happens to the process that decodes it."""

import os
import time

import numpy as np
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt
from gnl.topologies.errors import BitstreamError

SIDE_PX = 16
ABORT, HANG, HOARD, LEAVE, RAISE, BAD, SLOW = b"abort", b"hang", b"hoard", b"leave", b"raise", b"bad", b"slow"
SECRET = b"secret:"


class CrashingCodec(Codec):
    """Makes a flat image whose shade is the prompt's first byte, unless the prompt's bytes ask for something worse."""

    facts = CodecFacts("crashing", 200, None, True, False, (), "any")

    def encode(self, image, bpp=None):
        return Prompt(200, 0, (bytes([image[0, 0, 0]]),))

    def decode(self, prompt):
        data = bytes(b"".join(self.require_own(prompt)))
        if data == ABORT:
            os.abort()
        if data == LEAVE:
            os._exit(0)
        if data == HANG:
            time.sleep(3600)
        if data == HOARD:
            bytearray(1 << 30)
        if data == SLOW:
            time.sleep(0.2)
        if data == RAISE:
            raise ZeroDivisionError("a codec's own mistake")
        if data.startswith(SECRET):
            return self.read_secret(data[len(SECRET) :])
        if data == BAD or not data:
            raise BitstreamError(f"{data!r} is no prompt of this codec")
        return np.full((SIDE_PX, SIDE_PX, 3), data[0], np.uint8)

    def read_secret(self, path):
        """White where the worker could read the file, or could become root again; else black."""
        for attempt in (lambda: open(path, "rb"), lambda: os.setuid(0), lambda: os.setgroups([0])):
            try:
                attempt()
            except OSError:
                continue
            return np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
        return np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)


def make(device, threads):
    """The factory that --codec-factory names."""
    return CrashingCodec()


def make_broken(device, threads):
    """A factory that fails in a way of its own."""
    raise KeyError("a tensor\nthat is missing")
