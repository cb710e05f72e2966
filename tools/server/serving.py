"""A server under test."""

import http.client
import socket
import subprocess
import time
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


class Server:
    """`skipstone serve`, ready; ends it at the end, and expects exit code 0."""

    def __init__(self, binary, *options, patience=PATIENCE):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.patience = patience
        self.process = subprocess.Popen([binary, "serve", "--listen", self.address, *options])

    def status(self, path):
        """Of a GET; None if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def __enter__(self):
        end = time.monotonic() + PATIENCE
        while self.status("/v2/health/ready") != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise SystemExit("the server does not get ready")
            time.sleep(0.05)
        return self

    def __exit__(self, error, *_):
        self.process.terminate()
        code = self.process.wait(self.patience)
        assert error or code == 0, f"the server ended with {code}"
