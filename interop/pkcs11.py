"""Looks into a PKCS#11 token, as an auditor would: prints its private keys as JSON.

Run in a process of its own: python pkcs11.py <module> <pin>. (A module reads its environment when it
is initialised, and is initialised once per process.)
"""

import ctypes
import json
import sys

CKU_USER = 1
CKF_SERIAL_SESSION = 4
CKA_CLASS, CKA_LABEL, CKA_SENSITIVE, CKA_EXTRACTABLE = 0x0, 0x3, 0x103, 0x162
CKA_PRIVATE_EXPONENT, CKA_VALUE = 0x123, 0x11
CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE = 0x165, 0x164
CKO_PRIVATE_KEY = 3
CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID = 0x11, 0x12

ULONG = ctypes.c_ulong


class Attribute(ctypes.Structure):
    _fields_ = [("type", ULONG), ("value", ctypes.c_void_p), ("length", ULONG)]


class Token:
    def __init__(self, module, pin):
        self.module = ctypes.CDLL(module)
        self.call("C_Initialize", None)
        count = ULONG(16)
        slots = (ULONG * 16)()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        self.session = ULONG()
        self.call(
            "C_OpenSession", ULONG(slots[0]), ULONG(CKF_SERIAL_SESSION), None, None, ctypes.byref(self.session)
        )
        self.call("C_Login", self.session, ULONG(CKU_USER), pin.encode(), ULONG(len(pin)))

    def call(self, name, *arguments, allowed=(0,)):
        function = getattr(self.module, name)
        function.restype = ULONG
        answer = function(*arguments)
        if answer not in allowed:
            raise OSError(f"{name}: 0x{answer:x}")
        return answer

    def private_keys(self):
        kind = ULONG(CKO_PRIVATE_KEY)
        wanted = Attribute(CKA_CLASS, ctypes.cast(ctypes.pointer(kind), ctypes.c_void_p), ctypes.sizeof(kind))
        self.call("C_FindObjectsInit", self.session, ctypes.byref(wanted), ULONG(1))
        found = (ULONG * 100)()
        count = ULONG()
        self.call("C_FindObjects", self.session, found, ULONG(100), ctypes.byref(count))
        self.call("C_FindObjectsFinal", self.session)
        return [ULONG(found[i]) for i in range(count.value)]

    def attribute(self, key, kind):
        """Its bytes; None when the token does not tell."""
        buffer = ctypes.create_string_buffer(4096)
        asked = Attribute(kind, ctypes.cast(buffer, ctypes.c_void_p), len(buffer))
        allowed = (0, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID)
        answer = self.call("C_GetAttributeValue", self.session, key, ctypes.byref(asked), ULONG(1), allowed=allowed)
        return buffer.raw[: asked.length] if answer == 0 else None


def main(module, pin):
    token = Token(module, pin)
    keys = []
    for key in token.private_keys():
        keys.append(
            {
                "label": token.attribute(key, CKA_LABEL).decode(),
                "sensitive": token.attribute(key, CKA_SENSITIVE) == b"\1",
                "extractable": token.attribute(key, CKA_EXTRACTABLE) == b"\1",
                "always_sensitive": token.attribute(key, CKA_ALWAYS_SENSITIVE) == b"\1",
                "never_extractable": token.attribute(key, CKA_NEVER_EXTRACTABLE) == b"\1",
                "told": any(token.attribute(key, kind) for kind in (CKA_VALUE, CKA_PRIVATE_EXPONENT)),
            }
        )
    json.dump(sorted(keys, key=lambda key: key["label"]), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
