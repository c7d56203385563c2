"""Carries TPM commands between standard input and output and a Unix socket, for tpm2-tools' "cmd" transport."""

import os
import socket
import sys

tpm = socket.socket(socket.AF_UNIX)
tpm.connect(sys.argv[1])


def whole(read):
    """One command or answer: its length is in bytes 2 to 5."""
    message = b""
    size = 10
    while len(message) < size:
        more = read(size - len(message))
        if not more:
            sys.exit(0)
        message += more
        if len(message) == 10:
            size = int.from_bytes(message[2:6], "big")
    return message


while True:
    tpm.sendall(whole(lambda count: os.read(0, count)))
    os.write(1, whole(tpm.recv))
