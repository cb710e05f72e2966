"""A server under test."""

import http.client
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PHOTO = ROOT / "tools/cli/assets/photo.jpg"
# The network that the binary carries.
MODEL = "open_nsfw"
MODEL_FILE = ROOT / "tools/cli/assets/open_nsfw.skip"
# Options for a machine that may stop now and then.
CALM = ["--timeout-ms", "60000", "--drain-delay", "0"]
# What a busy machine may take to start or to end.
PATIENCE = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def split_cpus():
    """CPUs for a server, and another for its clients, so that neither takes the other's time. Where there
    is but one, they share it."""
    cpus = sorted(os.sched_getaffinity(0))
    return set(cpus[:-1] or cpus), set(cpus[-1:])


@contextmanager
def on(cpus):
    """Processes that are started inside run on `cpus`, if any are given."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


class Server:
    """`skipstone serve`, ready; ends it at the end, and expects exit code 0. Runs on `cpus`, if given."""

    # Answers 200 when it is ready.
    ready = "/v2/health/ready"
    patience = PATIENCE
    clean = {0}

    def __init__(self, binary, *options, cpus=None):
        port = free_port()
        self.start(port, [binary, "serve", "--listen", f"127.0.0.1:{port}", *options], cpus)

    def start(self, port, command, cpus=None, **settings):
        self.port, self.address = port, f"127.0.0.1:{port}"
        with on(cpus):
            self.process = subprocess.Popen(command, **settings)

    def get(self, path):
        """The body of a GET, or None if nobody answers with 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read() if answer.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def __enter__(self):
        end = time.monotonic() + PATIENCE
        while self.get(self.ready) is None:
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise SystemExit("the server does not get ready")
            time.sleep(0.05)
        return self

    def __exit__(self, error, *_):
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(self.patience)
        assert error or code in self.clean, f"the server ended with {code}"
