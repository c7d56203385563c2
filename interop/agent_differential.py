"""What is asked of an agent, SPIRE's or ours, and the answers with all that is only of one run taken out.

Command lines, raw calls of every service on both sockets, and configurations for `validate`.
"""

import base64
import json
import os
import re
import subprocess
import threading

import grpc
from harness import TRUST_DOMAIN, Agent, Server, wait_until

HEADER = (("workload.spiffe.io", "true"),)
WORKLOAD = "/SpiffeWorkloadAPI/"
DELEGATED = "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/"
SDS = "/envoy.service.secret.v3.SecretDiscoveryService/"
METHODS = [
    "FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles", "FetchJWTSVID", "ValidateJWTSVID", "FetchWITSVID",
    "FetchWITBundles",
]
UNARY = {"FetchJWTSVID", "ValidateJWTSVID"}


# Protocol buffers without descriptions.


def number(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(n, value):
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, int):
        return number(n << 3) + number(value)
    return number(n << 3 | 2) + number(len(value)) + value


def fields(message):
    """The fields of a message: numbers as they are, the rest as bytes."""
    out, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            out.append((key >> 3, varint()))
        else:
            assert key & 7 == 2, key
            length = varint()
            out.append((key >> 3, message[at:at + length]))
            at += length
    return out


# The stand.


class Stand:
    """A server, and an agent that has two entries for this process and knows a foreign bundle."""

    def __init__(self, folder, bins=None):
        self.folder = folder
        self.server = Server(folder / "server", bins=bins).start()
        self.agent = Agent(folder / "agent", self.server, bins=bins)
        self.admin = self.agent.folder / "private" / "admin.sock"
        text = self.agent.config.read_text()
        more = f'admin_socket_path = "{self.admin}"\n    authorized_delegates = ["spiffe://{TRUST_DOMAIN}/a"]\n    '
        self.agent.config.write_text(text.replace("experimental {", more + "experimental {", 1))
        self.agent.start(self.server.token(Agent.NODE))
        me = f"unix:uid:{os.getuid()}"
        foreign = json.loads(self.server.cli("bundle", "show", "-format", "spiffe").stdout)
        foreign["keys"] = [key for key in foreign["keys"] if key["use"] == "x509-svid"]
        self.server.cli("bundle", "set", "-id", "spiffe://foreign.org", "-format", "spiffe", stdin=json.dumps(foreign))
        # SPIRE orders by the time of creation, in seconds, and then by id.
        self.server.entry("/b", Agent.NODE, me, options=["-hint", "internal", "-entryID", "a-first"])
        federated = ["-federatesWith", "spiffe://foreign.org", "-dns", "a.example.org", "-entryID", "b-second"]
        self.server.entry("/a", Agent.NODE, me, options=federated)
        wait_until(lambda: len(self.agent.ids()) == 2, "both identities")

    def stop(self):
        for daemon in (self.agent, self.server):
            if daemon.daemon:
                daemon.daemon.kill()


def normal(text, stand):
    """Without what is of one run."""
    text = text.replace(str(stand.folder), "<folder>").replace(str(stand.agent.bins), "<bins>")
    text = text.replace(f":{stand.server.port}", ":<port>")
    text = re.sub(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "<jwt>", text)
    text = re.sub(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d{4} UTC|Z| UTC)?( m=\S+)?", "<time>", text)
    text = re.sub(r"\b(\d+m)?\d+(\.\d+)?(ms|µs|s)\b", "<duration>", text)
    text = re.sub(r"\b1[789]\d{8}\b", "<seconds>", text)
    text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b", "<uuid>", text)
    text = re.sub(r'"(x|y|n|kid)":( ?)"[^"]+"', r'"\1":\2"<key>"', text)
    text = re.sub(r"[A-Za-z0-9+/_-]{80,}={0,2}", "<base64>", text)
    text = re.sub(r"\b[A-Za-z0-9]{32}\b", "<kid>", text)
    text = re.sub(r"\b\d{30,}\b", "<serial>", text)
    # Bundles come in no order.
    blocks = re.findall(r"^bundle\(.*?\n\}$", text, flags=re.S | re.M)
    for block, other in zip(blocks, sorted(blocks)):
        text = text.replace(block, f"<{sorted(blocks).index(other)}>", 1)
    for at, block in enumerate(sorted(blocks)):
        text = text.replace(f"<{at}>", block, 1)
    # Go's protocol buffers and their JSON put blanks where a hash of the program says.
    text = text.replace("\u00a0", " ").replace('", "', '","').replace('"], "', '"],"').replace('>, "', '>,"')
    return re.sub(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", r"<PEM \1>", text, flags=re.S)


# Command lines.


def run(stand, words, environment=None, seconds=30):
    try:
        result = subprocess.run(
            [stand.agent.bins / "spire-agent", *map(str, words)], capture_output=True, text=True, timeout=seconds,
            stdin=subprocess.DEVNULL, cwd=stand.folder, env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as expired:
        out = (expired.stdout or b"").decode()
        return normal(f"still running\n{out}", stand)
    text = normal(f"exit code {result.returncode}\n{result.stdout}--\n{result.stderr}", stand)
    # Flags are described in our own words; the warning is a log line of SPIRE's; where a
    # configuration is wrong, and two more verbs, are ours.
    text = re.sub(r"^    \t.*?(\(default .*\))?$", r"    \1", text, flags=re.M)
    text = re.sub(r" \(<folder>/agent/agent.conf: [\w.]+\)$", "", text, flags=re.M)
    ours = re.compile("Experimental features have been|    (explain|helper|tpm)  ")
    return "\n".join(line for line in text.split("\n") if not ours.search(line))


WORKLOAD_VERBS = ["api fetch", "api fetch x509", "api fetch jwt", "api validate jwt", "api watch", "healthcheck"]
ADMIN_VERBS = ["logger get", "logger set", "logger reset", "debug getinfo"]


def command_lines(stand):
    """Gives for each command line what it printed and its exit code."""
    answers = {}
    public, admin = ["-socketPath", stand.agent.socket], ["-socketPath", stand.admin]
    token = json.loads(
        stand.agent.cli("api", "fetch", "jwt", "-audience", "aud", "-spiffeID", f"spiffe://{TRUST_DOMAIN}/a",
                        "-output", "json").stdout
    )[0]["svids"][0]["svid"]

    def ask(*words, environment=None, seconds=30):
        shown = " ".join(str(it) for it in words)
        for key, value in (environment or {}).items():
            shown = f"{key}={value} {shown}"
        answers[normal(shown, stand)] = run(stand, words, environment, seconds=seconds)

    public_socket, template = "SPIRE_AGENT_PUBLIC_SOCKET", "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE"
    for words in [[], ["-h"], ["help"], ["nonsense"],
                  ["-foo"], ["api", "validate", "nonsense"]]:
        ask(*words)
    for verb in [*WORKLOAD_VERBS, *ADMIN_VERBS, "run", "validate"]:
        for more in (["-nonsense"], ["-output"], ["-output", "xml"], ["-output", ""], ["-socketPath"],
                     ["-timeout", "x"], ["-timeout", "-1s"], ["-timeout", "5"], ["-instance"], ["-silent=x"]):
            if verb != "run" or more[0] not in ("-socketPath",) or len(more) == 1:
                ask(*verb.split(), *more)
    for verb in WORKLOAD_VERBS:
        words = verb.split()
        needed = {"api fetch jwt": ["-audience", "aud"], "api validate jwt": ["-audience", "aud", "-svid", token]}
        more = needed.get(verb, [])
        watch = verb == "api watch"
        ask(*words, *more, "-socketPath", "/nonexistent/api.sock", seconds=2 if watch else 30)
        ask(*words, *more, "-instance", "x")
        ask(*words, *more, "-instance", "x", environment={template: "/nonexistent"})
        if watch:
            continue
        ask(*words, *more, "-instance", "x", environment={template: f"{stand.folder}/agent/publi%i/agent.sock"})
        ask(*words, *more, "-instance", "c", environment={template: f"{stand.folder}/agent/publi%i/agent.sock"})
        ask(*words, *more, environment={public_socket: str(stand.agent.socket)})
        ask(*words, *more, *public, environment={public_socket: "/nonexistent"})
        ask(*words, *more, *public, "-instance", "x", environment={template: "/nonexistent/%i"})
        ask(*words, *more, "-socketPath", "", environment={public_socket: "/nonexistent"})
        ask(*words, *more, "-socketPath", "agent/public/agent.sock")
        ask(*words, *more, *public, "stray")
    for verb in ADMIN_VERBS:
        words = [*verb.split(), *(["-level", "debug"] if verb == "logger set" else [])]
        ask(*words, "-socketPath", "/nonexistent/admin.sock")
        ask(*words, "-socketPath", "/nonexistent/admin.sock", "-output", "json")
        ask(*words, *public)
        ask(*words, "-instance", "x")
        if verb != "debug getinfo":
            ask(*words, *admin)
            ask(*words, *admin, "-output", "json")
            ask(*words, *admin, "-output", "pretty")
            ask(*words, *admin, "stray")
    for level in ["", "DEBUG", "Info", "warning", "warn", "error", "fatal", "panic", "trace", "nonsense", "7"]:
        ask("logger", "set", "-level", level, *admin)
    ask("logger", "set", *admin)
    ask("logger", "get", *admin)
    ask("logger", "reset", *admin)
    for verb in ("healthcheck", "api fetch x509", "debug getinfo"):
        ask(*verb.split(), *admin)
    ask("healthcheck", *public, "-verbose")
    ask("healthcheck", *public, "-shallow")
    ask("healthcheck", "-socketPath", "/nonexistent", "-verbose")
    # X.509-SVIDs.
    for more in [[], ["-silent"], ["-output", "json"], ["-output", "pretty"], ["-timeout", "0s"], ["-timeout", "1ns"],
                 ["-silent", "-output", "json"]]:
        ask("api", "fetch", "x509", *public, *more)
    written = stand.folder / "written"
    written.mkdir()
    ask("api", "fetch", "x509", *public, "-write", written)
    answers["files"] = files(written)
    ask("api", "fetch", "x509", *public, "-write", written, "-silent")
    answers["files again"] = files(written)
    ask("api", "fetch", "x509", *public, "-write", stand.folder / "nowhere")
    ask("api", "fetch", "x509", *public, "-write", written / "svid.0.pem")
    ask("api", "fetch", "x509", *public, "-write", stand.folder / "json", "-output", "json")
    # JWT-SVIDs.
    fetch = ["api", "fetch", "jwt", *public]
    for more in [[], ["-audience", "a,b"], ["-audience", "a", "-audience", "b"],
                 ["-audience", "a, b"], ["-audience", "a", "-format", "json"],
                 ["-audience", "a", "-format", "pretty"], ["-audience", "a", "-format", "xml"],
                 ["-audience", "a", "-output", "json"],
                 *(["-audience", "a", "-spiffeID", it] for it in (
                     f"spiffe://{TRUST_DOMAIN}/a", f"spiffe://{TRUST_DOMAIN}/none", "bad", "spiffe://foreign.org/a"))]:
        ask(*fetch, *more)
    check = ["api", "validate", "jwt", *public]
    for more in [[], ["-audience", "aud"], ["-svid", "x"], ["-audience", "aud", "-svid", "x"],
                 ["-audience", "aud", "-svid", token], ["-audience", "aud", "-svid", token, "-output", "json"],
                 ["-audience", "other", "-svid", token], ["-audience", "aud", "-svid", token[:-4] + "AAAA"],
                 ["-audience", "aud,other", "-svid", token], ["-audience", "aud", "-svid", token, "-timeout", "1ns"]]:
        ask(*check, *more)
    for verb in ("run", "validate"):
        ask(verb, "-config", "/nonexistent/agent.conf")
        ask(verb)
        ask(verb, "-config", stand.folder)
        ask(verb, "-config", stand.agent.config, "-serverPort", "x")
        ask(verb, "-config", stand.agent.config, "-trustDomain", "a b")
        ask(verb, "-config", stand.agent.config, "-logLevel", "nonsense")
        ask(verb, "-config", stand.agent.config, "-insecureBootstrap")
        ask(verb, "-config", stand.agent.config, "-joinToken", "a", "-joinTokenFile", "b")
        ask(verb, "-config", stand.agent.config, "-joinTokenFile", "/nonexistent")
        ask(verb, "-config", stand.agent.config, "-rebootstrapMode", "nonsense")
        ask(verb, "-config", stand.agent.config, "-trustBundleFormat", "nonsense")
        ask(verb, "-config", stand.agent.config, "-trustBundleUrl", "https://localhost/")
        ask(verb, "-config", stand.agent.config, "-rebootstrapDelay", "nonsense")
    ask("validate", "-config", stand.agent.config)
    ask("validate", "-config", stand.agent.config, "stray")
    # A caller without entries; who is not root cannot be another.
    if os.getuid() == 0:
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chmod(stand.folder, 0o755)
        for words in (["api", "fetch", "x509"], ["api", "fetch", "jwt", "-audience", "a"], ["healthcheck"],
                      ["api", "validate", "jwt", "-audience", "aud", "-svid", token]):
            result = subprocess.run(
                [*nobody, stand.agent.bins / "spire-agent", *words, *public], capture_output=True, text=True, timeout=30
            )
            text = f"exit code {result.returncode}\n{result.stdout}--\n{result.stderr}"
            answers[normal(f"as nobody: {' '.join(words)}", stand)] = normal(text, stand)
    return answers


def files(folder):
    """Names, modes and what is in them."""
    lines = []
    for path in sorted(folder.iterdir()):
        kinds = re.findall(r"-----BEGIN ([A-Z ]+)-----", path.read_text())
        lines.append(f"{path.name} {path.stat().st_mode & 0o777:o} {kinds}")
    return "\n".join(lines)


# Calls.


class Caller:
    """Makes calls, and keeps what came of each under its name."""

    def __init__(self, socket, answers):
        self.channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")])
        self.answers = answers

    def unary(self, path, request=b"", metadata=HEADER):
        try:
            answer, call = self.channel.unary_unary(path).with_call(request, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return self.refused(error)
        return "OK", answer, dict(call.trailing_metadata() or ())

    def stream(self, path, requests=(b"",), metadata=HEADER, duplex=False):
        """The first message."""
        over = threading.Event()

        def asking():
            yield from requests
            # The end of the requests would end the call.
            over.wait(10)

        try:
            if duplex:
                call = self.channel.stream_stream(path)(asking(), metadata=metadata, timeout=10)
            else:
                call = self.channel.unary_stream(path)(requests[0], metadata=metadata, timeout=10)
            answer = next(call)
            call.cancel()
        except StopIteration:
            return "ENDED", b"", {}
        except grpc.RpcError as error:
            return self.refused(error)
        finally:
            over.set()
        return "OK", answer, {}

    @staticmethod
    def refused(error):
        return error.code().name, error.details(), {it[0]: it[1] for it in error.trailing_metadata() or ()}

    def keep(self, name, result, show=lambda answer: "an answer"):
        code, answer, metadata = result
        shown = str(show(answer) if code == "OK" else answer).replace("\u00a0", " ").replace("\\xc2\\xa0", " ")
        if code == "DEADLINE_EXCEEDED":
            # Whose clock ended the call, the caller's or the agent's, is a race that nobody promised.
            shown = "Deadline Exceeded"
        more = {key: value for key, value in metadata.items() if isinstance(value, str)}
        self.answers[name] = f"{code}: {shown}" + (f" {sorted(more.items())}" if more else "")
        return answer


def shape(message, texts=()):
    """The numbers of the fields, and those that are texts."""
    return [(n, value if isinstance(value, int) else value.decode() if n in texts else "…")
            for n, value in fields(message)]


def svids(answer):
    return [[n, shape(value, texts=(1, 5))] if n == 1 else [n] for n, value in fields(answer)]


def tokens(answer):
    return [shape(value, texts=(1, 3)) for _, value in fields(answer)]


def bundles(answer):
    return sorted((n, dict(fields(value))[1].decode()) for n, value in fields(answer))


def claims(answer):
    message = fields(answer)
    names = sorted(dict(fields(value))[1].decode() for _, value in fields(message[1][1]))
    return message[0][1].decode(), names


def workload_calls(stand):
    """Calls on the Workload API's socket."""
    answers = {}
    caller = Caller(stand.agent.socket, answers)
    keep, unary = caller.keep, caller.unary

    def call(method, request=b"", metadata=HEADER):
        if method in UNARY:
            return caller.unary(WORKLOAD + method, request, metadata)
        return caller.stream(WORKLOAD + method, (request,), metadata)

    for method in METHODS:
        wrong = [(), (("workload.spiffe.io", "True"),), HEADER * 2, (("workload.spiffe.io", ""),),
                 (("workload.spiffe.io", "true "),), (("workload.spiffe.io", "true,true"),)]
        for at, metadata in enumerate(wrong):
            keep(f"{method} header {at}", call(method, metadata=metadata))
        keep(f"{method} garbage", call(method, b"\xff\xff\xff"))
        keep(f"{method} unknown field", call(method, field(15, "xx")))
        keep(f"{method} no text", call(method, field(1, b"\xff\xfe") + field(2, b"\xff")))
        keep(f"{method} empty", call(method), svids if method == "FetchX509SVID" else bundles)
    audience = field(1, "aud")
    jwt = lambda more=b"": unary(WORKLOAD + "FetchJWTSVID", audience + more)  # noqa: E731
    keep("jwt", jwt(), tokens)
    keep("jwt two audiences", jwt(field(1, "b")), tokens)
    keep("jwt empty audience", unary(WORKLOAD + "FetchJWTSVID", field(1, "")), tokens)
    keep("jwt audience and an empty one", jwt(field(1, "")), tokens)
    own = f"spiffe://{TRUST_DOMAIN}"
    for wanted in [f"{own}/a", f"{own}/c", f"{own}/none", "bad", "spiffe://", "spiffe://EX.org/a", f"{own}/a/",
                   f"{own}//", "http://x/y", f"{own}/%61", "spiffe://other.org/a", f"{own}/{'x' * 1000}", f"{own}/a?q",
                   "spiffe://user@example.org/a"]:
        keep(f"jwt id {wanted[:40]}", jwt(field(2, wanted)), tokens)
    token = dict(fields(fields(jwt(field(2, f"{own}/a"))[1])[0][1]))[2].decode()
    check = lambda svid, wanted="aud": unary(  # noqa: E731
        WORKLOAD + "ValidateJWTSVID", field(1, wanted) + field(2, svid))
    keep("validate no audience", unary(WORKLOAD + "ValidateJWTSVID", field(2, token)))
    keep("validate nothing", unary(WORKLOAD + "ValidateJWTSVID", audience))
    keep("validate", check(token), claims)
    keep("validate other audience", check(token, "zz"))
    for name, bad in bad_tokens(token).items():
        keep(f"validate {name}", check(bad))
    for path in ["/x", WORKLOAD + "Nope", "/No/Method", WORKLOAD, "//", "/grpc.health.v1.Health/Nope",
                 DELEGATED + "FetchJWTSVIDs", "/spire.agent.debug.v1.Debug/GetInfo"]:
        keep(f"path {path}", unary(path))
        keep(f"path without header {path}", unary(path, metadata=()))
    common_calls(caller)
    keep("too big", unary(WORKLOAD + "FetchJWTSVID", field(1, "x" * 5_000_000)))
    keep("big", unary(WORKLOAD + "FetchJWTSVID", field(1, "x" * 200_000)))
    keep("big stream", caller.stream(WORKLOAD + "FetchX509SVID", (field(15, "x" * 200_000),)))
    sds_calls(caller)
    return answers


def bad_tokens(token):
    head, payload, signature = token.split(".")

    def encoded(value):
        return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()

    def without(key, value):
        return {name: it for name, it in value.items() if name != key}

    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    body = json.loads(base64.urlsafe_b64decode(payload + "=="))
    headed = lambda value: f"{encoded(value)}.{payload}.{signature}"  # noqa: E731
    filled = lambda value: f"{head}.{encoded(value)}.{signature}"  # noqa: E731
    return {
        "garbage": "abc", "dots": "a.b.c", "empty parts": "..", "two parts": f"{head}.{payload}",
        "four parts": f"{token}.x", "bad signature": f"{head}.{payload}.{'A' * len(signature)}",
        "alg none": f"{encoded({**header, 'alg': 'none'})}.{payload}.", "alg HS256": headed({**header, "alg": "HS256"}),
        "no kid": headed(without("kid", header)), "unknown kid": headed({**header, "kid": "zzz"}),
        "typ JOSE": headed({**header, "typ": "JOSE"}), "no sub": filled(without("sub", body)),
        "foreign sub": filled({**body, "sub": "spiffe://other.org/x"}), "bad sub": filled({**body, "sub": "nope"}),
        "no exp": filled(without("exp", body)), "expired": filled({**body, "exp": 1}),
        "no aud": filled(without("aud", body)), "blank before": f" {token}",
        "as JSON": json.dumps({"payload": payload, "protected": head, "signature": signature}),
        "as JWE": "a.b.c.d.e", "padded": f"{head}=.{payload}.{signature}",
        "exp is text": filled({**body, "exp": "x"}), "sub is a number": filled({**body, "sub": 5}),
        "payload not JSON": f"{head}.aGk.{signature}", "header not JSON": f"aGk.{payload}.{signature}",
        "header is a list": headed([1]), "alg is a number": headed({**header, "alg": 5}),
        "no alg": headed(without("alg", header)), "typ other": headed({**header, "typ": "xyz"}),
        "crit": headed({**header, "crit": ["x"], "x": 1}),
    }


def common_calls(caller):
    """Health and reflection, which every socket has."""
    keep, health = caller.keep, "/grpc.health.v1.Health/"
    keep("health", caller.unary(health + "Check", metadata=()), lambda it: it.hex())
    keep("health of a service", caller.unary(health + "Check", field(1, "x"), ()), lambda it: it.hex())
    keep("health garbage", caller.unary(health + "Check", b"\xff", ()))
    keep("health list", caller.unary(health + "List", metadata=()), lambda it: it.hex())
    keep("health watch", caller.stream(health + "Watch", metadata=()), lambda it: it.hex())
    keep("health watch of a service", caller.stream(health + "Watch", (field(1, "x"),), ()), lambda it: it.hex())
    asked = {
        "list": field(7, ""), "list all": field(7, "*"), "symbol": field(4, "SpiffeWorkloadAPI"),
        "no symbol": field(4, "nope"), "no file": field(3, "x"), "no extension": field(5, field(1, "x") + field(2, 1)),
        "empty": b"", "garbage": b"\xff\xff",
    }

    def reflected(answer):
        return [(n, [it[1] for it in fields(value)] if n == 6 else dict(fields(value)) if n == 7 else n) for n, value in
                fields(answer)]

    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        for name, request in asked.items():
            keep(f"reflection {version} {name}", caller.stream(path, (request,), (), duplex=True), reflected)


def sds_calls(caller):
    """SDS v3; the resources by name, those that are not there, and nonces."""
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

    def secrets(answer):
        names = []
        for n, value in fields(answer):
            if n == 2:
                inner = dict(fields(dict(fields(value))[2]))
                names.append((inner[1].decode(), sorted(set(inner) - {1})))
        return names, [value.decode() for n, value in fields(answer) if n == 4]

    own = f"spiffe://{TRUST_DOMAIN}"
    wanted = {
        "nothing": [], "default": ["default"], "roots": ["ROOTCA"], "all": ["ALL"], "by id": [f"{own}/a"],
        "both": [f"{own}/a", f"{own}/b"], "own bundle": [own], "foreign bundle": ["spiffe://foreign.org"],
        "unknown": ["nonsense"], "unknown id": [f"{own}/none"], "two unknown": ["x", "y"],
        "one known": [f"{own}/a", "nonsense"], "empty name": [""], "twice": ["default", "default"],
        "unknown bundle": ["spiffe://nowhere.org"], "default and id": ["default", f"{own}/a"],
    }
    for name, names in wanted.items():
        request = b"".join(field(3, it) for it in names) + field(4, kind)
        caller.keep(f"sds fetch {name}", caller.unary(SDS + "FetchSecrets", request), secrets)
        caller.keep(f"sds stream {name}", caller.stream(SDS + "StreamSecrets", (request,), duplex=True), secrets)
    for name, request in {
        "another kind": field(3, "default") + field(4, "type.googleapis.com/x.Y"), "no kind": field(3, "default"),
        "a node": field(2, field(1, "node") + field(2, "cluster")) + field(3, "default") + field(4, kind),
        "foreign nonce": field(3, "default") + field(4, kind) + field(5, "x"),
        "version": field(1, "7") + field(3, "default") + field(4, kind),
        "error": field(3, "default") + field(4, kind) + field(6, field(1, 3) + field(2, "no")),
        "garbage": b"\xff\xff",
    }.items():
        caller.keep(f"sds fetch {name}", caller.unary(SDS + "FetchSecrets", request), secrets)
        if name not in ("foreign nonce", "error"):
            caller.keep(f"sds stream {name}", caller.stream(SDS + "StreamSecrets", (request,), duplex=True), secrets)
    caller.keep("sds fetch without header", caller.unary(
        SDS + "FetchSecrets", field(3, "default") + field(4, kind), ()), secrets)


def admin_calls(stand):
    """Calls on the admin socket: the delegated identity API, debug, logger, and what is not there."""
    answers = {}
    caller = Caller(stand.admin, answers)
    keep = caller.keep
    selector = field(1, field(1, "unix") + field(2, f"uid:{os.getuid()}"))
    requests = {
        "nothing": b"", "garbage": b"\xff\xff", "selectors": selector, "no such selectors": field(1, field(1, "x")),
        "pid": field(2, os.getpid()), "no such pid": field(2, 0x7FFFFFF0), "both": selector + field(2, os.getpid()),
        "empty selector": field(1, b""), "selector without type": field(1, field(2, "x")),
        "type with a colon": field(1, field(1, "a:b") + field(2, "x")),
    }
    for name, request in requests.items():
        keep(f"delegated x509 {name}", caller.stream(DELEGATED + "SubscribeToX509SVIDs", (request,), ()), svid_shapes)
    keep("delegated x509 bundles", caller.stream(DELEGATED + "SubscribeToX509Bundles", metadata=()), bundles)
    keep("delegated jwt bundles", caller.stream(DELEGATED + "SubscribeToJWTBundles", metadata=()), bundles)
    for name, request in {
        "nothing": b"", "no selectors": field(1, "aud"), "no audience": field(2, selector[2:]),
        "selectors": field(1, "aud") + field(2, selector[2:]), "garbage": b"\xff",
        "pid": field(1, "aud") + field(3, os.getpid()), "no such pid": field(1, "aud") + field(3, 0x7FFFFFF0),
        "both": field(1, "aud") + field(2, selector[2:]) + field(3, os.getpid()),
        "no such selectors": field(1, "aud") + field(2, field(1, "x") + field(2, "y")),
        "empty audience": field(1, "") + field(2, selector[2:]),
    }.items():
        keep(f"delegated jwt {name}", caller.unary(DELEGATED + "FetchJWTSVIDs", request, ()),
             lambda it: [sorted({n for n, _ in fields(value)}) for _, value in fields(it)])
    keep("delegated nope", caller.unary(DELEGATED + "Nope", metadata=()))
    keep("debug", caller.unary("/spire.agent.debug.v1.Debug/GetInfo", metadata=()))
    debug = "/spire.api.agent.debug.v1.Debug/"
    keep("debug info", caller.unary(debug + "GetInfo", metadata=()),
         lambda it: sorted({n for n, _ in fields(it)} - {2, 3}))
    keep("debug info garbage", caller.unary(debug + "GetInfo", b"\xff", ()))
    keep("debug nope", caller.unary(debug + "Nope", metadata=()))
    logger = "/spire.api.agent.logger.v1.Logger/"
    for method, request in [("GetLogger", b""), ("SetLogLevel", b""), ("SetLogLevel", field(1, 99)),
                            ("SetLogLevel", field(1, 4)), ("GetLogger", b""), ("ResetLogLevel", b""),
                            ("GetLogger", b"\xff"), ("Nope", b"")]:
        keep(f"logger {method} {request!r} {len(answers)}", caller.unary(logger + method, request, ()),
             lambda it: it.hex())
    keep("workload", caller.stream(WORKLOAD + "FetchX509SVID"))
    keep("sds", caller.unary(SDS + "FetchSecrets"))
    common_calls(caller)
    return answers


def svid_shapes(answer):
    """What is in each identity: its path, hint and the kinds of the rest."""
    shown = []
    for n, value in fields(answer):
        if n == 1:
            svid = dict(fields(dict(fields(value)).get(1, b"")))
            shown.append((dict(fields(svid[2]))[2].decode(), sorted(svid), sorted(dict(fields(value)))))
        else:
            shown.append((n, value.decode()))
    return shown
