"""HTTP clients for load: many at a time, cheap, and exact about what was lost."""

import asyncio
import time
from collections import Counter, deque


class Lost(Exception):
    """A request that was sent got no answer; `accepted` tells whether the server had the connection."""

    def __init__(self, accepted):
        super().__init__("accepted" if accepted else "not accepted")
        self.accepted = accepted


class Connection:
    """One HTTP/1.1 connection, kept open as long as the server does."""

    @classmethod
    async def open(cls, port):
        self = cls()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self.answered = 0
        self.is_open = True
        return self

    async def request(self, request):
        """Sends; returns the status and body."""
        try:
            self._writer.write(request)
            await self._writer.drain()
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status, *lines = head.split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines if line)
            body = await self._reader.readexactly(int(fields.get("content-length", 0)))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            partial = getattr(error, "partial", b"")
            raise Lost(bool(self.answered or partial)) from error
        self.answered += 1
        if fields.get("connection") == "close":
            self.close()
        return int(status.split()[1]), body

    def close(self):
        self._writer.close()
        self.is_open = False


class Tally:
    """What came back."""

    def __init__(self):
        self.statuses, self.latencies = Counter(), []
        self.lost, self.not_accepted, self.seconds = 0, 0, 0.0

    def note(self, status, seconds):
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(seconds)

    def note_lost(self, error):
        if error.accepted:
            self.lost += 1
        else:
            self.not_accepted += 1

    def add(self, other):
        self.statuses += other.statuses
        self.latencies += other.latencies
        self.lost += other.lost
        self.not_accepted += other.not_accepted
        self.seconds += other.seconds

    def throughput(self):
        """Requests answered with 200, a second."""
        return self.statuses[200] / self.seconds

    def percentile(self, fraction):
        """Of the latencies of 200, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[int((len(ordered) - 1) * fraction)] * 1e3


def post(path, body, **fields):
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def closed_loop(port, request, clients, goes_on):
    """So many clients, each with one request after the other, while `goes_on()`."""
    tally, start = Tally(), time.monotonic()

    async def client():
        connection = None
        while goes_on():
            try:
                if connection is None or not connection.is_open:
                    connection = await Connection.open(port)
                sent = time.monotonic()
                status, _ = await connection.request(request)
                tally.note(status, time.monotonic() - sent)
            except Lost as error:
                tally.note_lost(error)
                connection = None
            except ConnectionError:
                break  # Nobody listens any more.
        if connection and connection.is_open:
            connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    tally.seconds = time.monotonic() - start
    return tally


async def open_loop(port, request, rate, seconds):
    """So many requests a second, whatever becomes of the others: every second one on a connection of its own, as
    new clients come, the others on connections that are kept, as a balancer does."""
    tally, start, pending, free = Tally(), time.monotonic(), set(), deque()

    async def one(keep):
        sent = time.monotonic()
        try:
            # In turns, so that none is idle for so long that the server closes it.
            connection = free.popleft() if keep and free else await Connection.open(port)
            status, _ = await connection.request(request)
            tally.note(status, time.monotonic() - sent)
            if keep and connection.is_open:
                free.append(connection)
            else:
                connection.close()
        except Lost as error:
            tally.note_lost(error)

    for i in range(int(rate * seconds)):
        await asyncio.sleep(max(0, start + i / rate - time.monotonic()))
        task = asyncio.create_task(one(keep=i % 2 == 1))
        pending.add(task)
        task.add_done_callback(pending.discard)
    tally.seconds = time.monotonic() - start
    # What is answered from here on counts as a status, but the load was over.
    in_time = tally.statuses[200]
    if pending:
        await asyncio.wait(pending)
    for connection in free:
        connection.close()
    return tally, in_time / tally.seconds


def during(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
