#!/usr/bin/env python3
"""A module for Claviger in another language: RSA keys in a folder, used by openssl(1).

The setting `folder` says where they are: NAME.pem, encrypted or not. A selector is a NAME, and a locator too.
docs/protocol-module.md is what it follows; the contract of claviger-pki is what it is tested by.

An example, and no better than the module for key files that comes with Claviger: Python does not wipe
what it forgets. A module for a key store of yours has another `Store`.
"""

import ctypes
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections import deque

VERSION = 1
MESSAGE_MAX = 1 << 20

NO_SUCH_KEY, PIN_NEEDED, PIN_WRONG, NOT_DECRYPTABLE, UNSUPPORTED, BAD_REQUEST, TIMED_OUT, CANCELLED, BACKEND = (
    1, 2, 3, 6, 7, 8, 9, 10, 11)
PIN_STATE_NOT_NEEDED, PIN_STATE_OK = b"\x00", b"\x01"


class Refused(Exception):
    """A call that ends in the error of this number."""

    def __init__(self, number, *fields):
        super().__init__(number)
        self.octets = number_(number) + b"".join(fields)


# Postcard: what goes out.

def number_(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def octets_(value):
    return number_(len(value)) + value


def text_(value):
    return octets_(value.encode())


def list_(items):
    return number_(len(items)) + b"".join(items)


class Fields:
    """What comes in."""

    def __init__(self, body):
        self.body = body

    def take(self, count):
        if count > len(self.body):
            raise ValueError("a body ends early")
        taken, self.body = self.body[:count], self.body[count:]
        return taken

    def number(self):
        value = shift = 0
        while True:
            octet, = self.take(1)
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
            shift += 7

    def octets(self):
        return self.take(self.number())

    def text(self):
        return self.octets().decode()

    def option(self, field):
        return field() if self.number() else None

    def end(self):
        if self.body:
            raise ValueError("a body has octets left over")


class Store:
    """The keys."""

    def __init__(self, settings):
        if "folder" not in settings:
            raise Refused(BAD_REQUEST, text_("the setting 'folder' is missing"))
        self.folder = settings["folder"]
        self.passphrases = {}

    def path(self, name):
        path = os.path.join(self.folder, name + ".pem")
        if not name or "/" in name or not os.path.isfile(path):
            raise Refused(NO_SUCH_KEY, text_(f"{name} in {self.folder}"))
        return path

    def openssl(self, name, deadline, *arguments, stdin=b""):
        """Runs openssl(1) with a key; None if it fails."""
        path = self.path(name)
        passphrase = self.passphrases.get(name)
        with open(path, "rb") as file:
            if passphrase is None and b"ENCRYPTED" in file.read():
                raise Refused(PIN_NEEDED, text_(path), PIN_STATE_OK)
        return run(deadline, [*arguments, "-passin"], passphrase or b"", stdin)

    def public_key(self, name, deadline):
        key = self.openssl(name, deadline, "pkey", "-in", self.path(name), "-pubout", "-outform", "DER")
        if key is None:
            raise Refused(BACKEND, text_("openssl pkey"), text_("cannot read the key"))
        return key

    def key(self, name, deadline):
        key = self.public_key(name, deadline)
        kems = list_([text_("rsa-oaep-sha256")])
        return text_(name) + octets_(key) + text_(name) + kems + text_("software")

    def tokens(self):
        return list_([text_(self.folder) + text_("") + text_("folder of keys") + text_("") + PIN_STATE_NOT_NEEDED])

    def keys(self, selector, deadline):
        files = sorted(os.listdir(self.folder))
        names = [selector] if selector else [file[:-4] for file in files if file.endswith(".pem")]
        return list_([self.key(name, deadline) for name in names])

    def generate(self, key_type, name, out, pin, deadline):
        if key_type not in (None, "rsa2048", "rsa3072", "rsa4096"):
            raise Refused(UNSUPPORTED, text_(f"{key_type} keys"))
        if out is not None or not name or "/" in name:
            raise Refused(BAD_REQUEST, text_("keys are NAME.pem in the folder of the settings"))
        bits = (key_type or "rsa2048")[3:]
        encrypt = [] if pin is None else ["-aes256", "-pass"]
        making = ["genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}", *encrypt]
        pem = run(deadline, making, pin)
        if pem is None:
            raise Refused(BACKEND, text_("openssl genpkey"), text_("cannot make a key"))
        path = os.path.join(self.folder, name + ".pem")
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Refused(BAD_REQUEST, text_(f"{path}: {error.strerror}")) from error
        with os.fdopen(file, "wb") as file:
            file.write(pem)
            os.fsync(file.fileno())
        if pin is not None:
            self.passphrases[name] = pin
        return self.key(name, deadline)

    def login(self, name, pin, deadline):
        path = self.path(name)
        if run(deadline, ["pkey", "-in", path, "-noout", "-passin"], pin) is None:
            raise Refused(PIN_WRONG, text_(path), PIN_STATE_OK)
        self.passphrases[name] = pin

    def decapsulate(self, name, public_key, kem, encapsulation, deadline):
        if kem != "rsa-oaep-sha256":
            raise Refused(UNSUPPORTED, text_(kem))
        if self.public_key(name, deadline) != public_key:
            raise Refused(NO_SUCH_KEY, text_(f"{name} is another key now"))
        padding = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"]
        options = [word for option in padding for word in ("-pkeyopt", option)]
        decrypt = ["pkeyutl", "-decrypt", "-inkey", self.path(name), *options]
        secret = self.openssl(name, deadline, *decrypt, stdin=encapsulation)
        if secret is None:
            raise Refused(NOT_DECRYPTABLE)
        return octets_(secret)


def run(deadline, arguments, passphrase, stdin=b""):
    """Runs openssl(1); `arguments` end where a passphrase is to be, if there is one. None if it fails."""
    reading, writing = os.pipe()
    os.write(writing, (passphrase or b"") + b"\n")
    os.close(writing)
    source = [] if passphrase is None else [f"fd:{reading}"]
    try:
        done = subprocess.run(["openssl", *arguments, *source], input=stdin, pass_fds=[reading],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired as late:
        raise Refused(TIMED_OUT) from late
    finally:
        os.close(reading)
    return done.stdout if done.returncode == 0 else None


DONE, TOKENS, KEYS, KEY, SECRET = (bytes([number]) for number in range(5))


def perform(store, call, deadline):
    """Does what is asked; gives the answer's octets."""
    kind = call.number()
    if kind == 0:
        return TOKENS + store.tokens()
    if kind == 1:
        return KEYS + store.keys(call.text(), deadline)
    if kind == 2:
        _token, key_type, label = call.text(), call.option(call.text), call.text()
        return KEY + store.generate(key_type, label, call.option(call.text), call.option(call.octets), deadline)
    if kind == 3:
        store.login(call.text(), call.octets(), deadline)
        return DONE
    if kind == 4:
        store.passphrases.clear()
        return DONE
    if kind == 5:
        return SECRET + store.decapsulate(call.text(), call.octets(), call.text(), call.octets(), deadline)
    raise Refused(UNSUPPORTED, text_(f"call {kind}"))


class Host:
    """The other end of file descriptor 3."""

    def __init__(self):
        self.socket = socket.socket(fileno=3)
        self.arrived = b""

    def messages(self, wait):
        """What has arrived, at least one message if it is to `wait`; None at the end of the stream."""
        found = []
        while True:
            if len(self.arrived) >= 4:
                end = 4 + int.from_bytes(self.arrived[:4], "little")
                if end > 4 + MESSAGE_MAX:
                    raise ValueError("a message is too large")
                if len(self.arrived) >= end:
                    found.append(Fields(self.arrived[4:end]))
                    self.arrived = self.arrived[end:]
                    continue
            ready, _, _ = select.select([self.socket], [], [], None if wait and not found else 0)
            if not ready:
                return found
            more = self.socket.recv(1 << 16)
            if not more:
                return None
            self.arrived += more

    def send(self, body):
        self.socket.sendall(len(body).to_bytes(4, "little") + body)

    def answer(self, number, answer=None, error=None):
        result = b"\x00" + answer if error is None else b"\x01" + error
        self.send(b"\x01" + number_(number) + result)


def confine():
    """Nobody traces this process or finds a core of it, and it gains no privileges."""
    set_dumpable, set_no_new_privs = 4, 38
    libc = ctypes.CDLL(None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if libc.prctl(set_dumpable, 0, 0, 0, 0) or libc.prctl(set_no_new_privs, 1, 0, 0, 0):
        sys.exit("cannot give up privileges")


def serve(host):
    """One call after the other, looking before each for what was called back."""
    first, *later = host.messages(wait=True) or [None]
    if first is None:
        return
    if first.number() != 0:
        raise ValueError("the first message is not Hello")
    version, count = first.number(), first.number()
    try:
        if version != VERSION:
            raise Refused(UNSUPPORTED, text_(f"module protocol version {version}, not {VERSION}"))
        store = Store({first.text(): first.text() for _ in range(count)})
    except Refused as refused:
        return host.send(b"\x00" + refused.octets)
    waiting = deque()
    while True:
        for message in later:
            kind, number = message.number(), message.number()
            if kind == 1:
                deadline = time.monotonic() + message.number() / 1000
                waiting.append((number, deadline, message))
            elif any(number == unbegun for unbegun, _, _ in waiting):
                waiting = deque(call for call in waiting if call[0] != number)
                host.answer(number, error=number_(CANCELLED))
        if waiting:
            number, deadline, call = waiting.popleft()
            try:
                if time.monotonic() > deadline:
                    raise Refused(TIMED_OUT)
                host.answer(number, perform(store, call, deadline))
            except Refused as refused:
                host.answer(number, error=refused.octets)
        later = host.messages(wait=not waiting)
        if later is None:
            return


confine()
serve(Host())
