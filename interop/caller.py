"""A caller of the Workload API that misbehaves: HTTP/2 by hand, so that who writes what is known.

    caller.py <socket> <what> [argument …]

Prints what came of it, a word a line: `identity` (a message), `refused` (a status without one) or
`closed`.
"""

import os
import socket
import struct
import subprocess
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def request(method="FetchX509SVID", stream=1):
    block = b"\x83\x86" + b"".join(
        literal(name, value)
        for name, value in [
            (b":path", b"/SpiffeWorkloadAPI/" + method.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"workload.spiffe.io", b"true"),
        ]
    )
    return frame(1, 4, stream, block) + frame(0, 1, stream, b"\0\0\0\0\0")


GREETING = PREFACE + frame(4, 0, 0)


class Connection:
    def __init__(self, path, greet=True):
        self.socket = socket.socket(socket.AF_UNIX)
        # Blocking, so that it waits for a place in the queue.
        self.socket.connect(path)
        self.socket.settimeout(60)
        self.buffer = b""
        if greet:
            self.send(GREETING)

    def read(self, length):
        while len(self.buffer) < length:
            try:
                more = self.socket.recv(65536)
            except ConnectionError:
                more = b""
            if not more:
                return None
            self.buffer += more
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def next(self):
        """The next frame as (kind, flags, stream, payload); None when the connection is closed."""
        head = self.read(9)
        if head is None:
            return None
        payload = self.read(int.from_bytes(head[:3], "big"))
        if payload is None:
            return None
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    def accepted(self):
        """Waits until the server has spoken."""
        return self.next() is not None

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def outcome(self, stream=1):
        while True:
            found = self.next()
            if found is None:
                return "closed"
            kind, flags, of, payload = found
            if of != stream:
                continue
            if kind == 0 and payload:
                return "identity"
            if kind == 3 or flags & 1:
                return "refused"

    def until_closed(self):
        while self.next() is not None:
            pass
        return "closed"


def say(word):
    print(word, flush=True)


def plain(path):
    connection = Connection(path)
    connection.send(request())
    say(connection.outcome())


def stay(path):
    """Holds a stream until it ends."""
    connection = Connection(path)
    connection.send(request())
    say(connection.outcome())
    say(connection.until_closed())


def heir(path):
    """The one that connected is gone before the call is made."""
    connection = Connection(path)
    connection.accepted()
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(0.01)
    connection.send(request())
    say(connection.outcome())


def lent(path):
    """The one that connected lives, another makes the call."""
    connection = Connection(path)
    connection.accepted()
    child = os.fork()
    if child == 0:
        connection.send(request())
        say(connection.outcome())
        os._exit(0)
    os.waitpid(child, 0)


def orphan(path):
    """A stream whose opener ends while another holds its connection open."""
    connection = Connection(path)
    connection.send(request())
    say(connection.outcome())
    if os.fork():
        time.sleep(0.2)
        os._exit(0)
    begun = time.monotonic()
    say(connection.until_closed())
    say(f"{time.monotonic() - begun:.3f}")


def become(path, program, *arguments):
    """Makes a call and becomes another program at once; a child reads the answer."""
    connection = Connection(path)
    connection.accepted()
    if os.fork() == 0:
        say(connection.outcome())
        os._exit(0)
    connection.send(request())
    os.execv(program, [program, *arguments])


def become_first(path, program, *arguments):
    """Becomes another program, which its child then speaks for."""
    connection = Connection(path)
    connection.accepted()
    os.set_inheritable(connection.socket.fileno(), True)
    parent = os.getpid()
    if os.fork() == 0:
        while os.path.realpath(f"/proc/{parent}/exe") != os.path.realpath(program):
            time.sleep(0.005)
        connection.send(request())
        say(connection.outcome())
        os._exit(0)
    os.execv(program, [program, *arguments])


def reused(path, program, *arguments):
    """The opener's process id becomes that of another program, by somebody who may choose ids."""
    connection = Connection(path)
    connection.accepted()
    opener = os.getpid()
    read, write = os.pipe()
    if os.fork():
        os._exit(0)
    os.close(read)
    # Its parent reaps it; then the number is free.
    while os.path.exists(f"/proc/{opener}"):
        time.sleep(0.005)
    for _ in range(50):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(opener - 1))
        other = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
        if other.pid == opener:
            break
        other.kill()
        other.wait()
    else:
        say("unlucky")
        return
    connection.send(request())
    say(connection.outcome())
    other.kill()


def crowd(path, count, what):
    """So many connections; says how many of them were kept, and waits for its standard input."""
    count = int(count)
    connections = []
    for _ in range(count):
        try:
            connection = Connection(path, greet=what != "silent")
            if what == "streams":
                connection.send(request())
            connections.append(connection)
        except OSError:
            pass
    kept = 0
    if what == "streams":
        kept = sum(connection.outcome() == "identity" for connection in connections)
    elif what == "greeted":
        kept = sum(connection.accepted() for connection in connections)
    say(str(kept if what != "silent" else len(connections)))
    sys.stdin.read()


def timed(path):
    """Fetches once a line, each on a new connection; says how long it took."""
    for _ in sys.stdin:
        begun = time.monotonic()
        connection = Connection(path)
        connection.send(request())
        outcome = connection.outcome()
        say(f"{outcome} {time.monotonic() - begun:.3f}")


if __name__ == "__main__":
    globals()[sys.argv[2]](sys.argv[1], *sys.argv[3:])
