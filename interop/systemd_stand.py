"""A stand-in for systemd on a bus: the three answers that the attestor asks for, by systemd's published interface.

A systemd that is no init process cannot say which unit a process is of. Run as a program, it takes
the address of the bus, the path of the one program that is of a unit, the unit's name and its file.
"""

import asyncio
import os
import sys

from dbus_next import Message, MessageType, Variant
from dbus_next.aio import MessageBus
from dbus_next.auth import AuthExternal

NAME = "org.freedesktop.systemd1"
UNIT = "/org/freedesktop/systemd1/unit/known"


def runs(pid, program):
    try:
        return os.readlink(f"/proc/{pid}/exe") == program
    except OSError:
        return False


async def main(address, program, unit, path):
    bus = await MessageBus(bus_address=address, auth=AuthExternal()).connect()
    properties = {"Id": unit, "FragmentPath": path}

    def answer(message):
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if message.member == "GetUnitByPID":
            asked = message.body[0]
            if runs(asked, program):
                return Message.new_method_return(message, "o", [UNIT])
            text = f"PID {asked} does not belong to any loaded unit."
            return Message.new_error(message, f"{NAME}.NoUnitForPID", text)
        if message.path == UNIT and message.member == "Get" and message.body[0] == f"{NAME}.Unit":
            return Message.new_method_return(message, "v", [Variant("s", properties[message.body[1]])])
        return None

    bus.add_message_handler(answer)
    await bus.request_name(NAME)
    print("ready", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
