"""Clients of each protocol. Each answers with an `Answer`; a call that is cut has `cut` set to how."""

import base64
import contextlib
import http.client
import io
import itertools
import queue
import socket
import subprocess
import threading
import urllib.parse
from dataclasses import dataclass, field

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

PATIENCE = 60.0
SERVICE = "/plimsoll.testbed.v1.Testbed/"
numbers = itertools.count(1)


def new_id(prefix="t"):
    return f"{prefix}-{next(numbers)}"


@dataclass
class Answer:
    status: int | None = None
    headers: list = field(default_factory=list)  # (name, value) in lower case, text as Latin-1
    body: bytes = b""
    trailers: list = field(default_factory=list)
    cut: str | None = None

    def all(self, name):
        return [value for key, value in self.headers if key == name]

    def one(self, name):
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values} in {self}"
        return values[0]

    @property
    def request_id(self):
        return self.one("x-request-id")

    @property
    def grpc_status(self):
        """The status of gRPC, from the trailers or, trailers-only, from the head."""
        for part in (self.trailers, self.headers):
            for key, value in part:
                if key == "grpc-status":
                    return int(value)
        return None


# -- HTTP/1 by raw socket: nothing checks what is sent


# Whoever closes while more is sent to it may have answered before: what there is of it is read all the same.
until_it_closes = contextlib.suppress(BrokenPipeError, ConnectionResetError)


def connect(address):
    sock = socket.create_connection(address, timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def head(method, path, headers=(), host=b"test"):
    def as_bytes(text):
        return text if isinstance(text, bytes) else text.encode("latin-1")

    lines = [as_bytes(method) + b" " + as_bytes(path) + b" HTTP/1.1", b"host: " + host]
    lines += [as_bytes(name) + b": " + as_bytes(value) for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class KeptOpen(io.BufferedReader):
    """What is read of a connection, for one answer after another."""

    def __init__(self, sock):
        super().__init__(socket.SocketIO(sock, "r"))

    def makefile(self, _):
        return self

    def close(self):
        """The connection is closed by who opened it."""


def read_answer(connection, method="GET"):
    """The next answer on a socket or, where several come, on its `KeptOpen`."""
    response = http.client.HTTPResponse(connection, method=method)
    answer = Answer()
    try:
        response.begin()
        answer.status = response.status
        answer.headers = [(name.lower(), value) for name, value in response.getheaders()]
        answer.body = response.read()
    except http.client.IncompleteRead as error:
        answer.body, answer.cut = error.partial, "body"
    except (http.client.RemoteDisconnected, ConnectionResetError):
        answer.cut = "body" if answer.status else "head"
    finally:
        response.close()
    return answer


def http1(address, path, headers=(), method="GET", body=b""):
    """One call on a connection of its own."""
    extra = [("connection", "close")] + ([("content-length", str(len(body)))] if body else [])
    with connect(address) as sock:
        with until_it_closes:
            sock.sendall(head(method, path, [*headers, *extra]) + body)
        return read_answer(sock, method)


def abandon_http1(address, path, headers=(), after_bytes=0, method="GET"):
    """Sends a call, reads at least so many bytes of its answer, and goes away."""
    with connect(address) as sock:
        sock.sendall(head(method, path, headers))
        seen = 0
        while seen < after_bytes:
            chunk = sock.recv(65536)
            assert chunk, "the answer ended before the client went away"
            seen += len(chunk)


# -- HTTP/2 with prior knowledge, frame by frame


class Http2:
    """One connection. Values may be any bytes: nothing checks what is sent."""

    def __init__(self, address):
        self.sock = connect(address)
        config = h2.config.H2Configuration(
            client_side=True, header_encoding=False, validate_outbound_headers=False, normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.connection = h2.connection.H2Connection(config=config)
        self.connection.initiate_connection()
        self.answers = {}
        self.finished = set()
        self.gone = None
        self.address = address
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def flush(self):
        if data := self.connection.data_to_send():
            with until_it_closes:
                self.sock.sendall(data)

    def send(self, method, path, headers=(), body=None, end=True):
        as_bytes = lambda text: text if isinstance(text, bytes) else text.encode("latin-1")
        stream = self.connection.get_next_available_stream_id()
        pseudo = [(b":method", as_bytes(method)), (b":scheme", b"http"), (b":authority", b"test"), (b":path", as_bytes(path))]
        fields = pseudo + [(as_bytes(name), as_bytes(value)) for name, value in headers]
        self.connection.send_headers(stream, fields, end_stream=end and body is None)
        if body is not None:
            most = self.connection.max_outbound_frame_size
            for at in range(0, len(body), most) or [0]:
                self.connection.send_data(stream, body[at:at + most], end_stream=end and at + most >= len(body))
        self.answers[stream] = Answer()
        self.flush()
        return stream

    def reset(self, stream, code=h2.errors.ErrorCodes.CANCEL):
        self.connection.reset_stream(stream, code)
        self.finished.add(stream)
        self.flush()

    def read_until(self, holds):
        while not holds():
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                self.gone = self.gone or "eof"
            else:
                for event in self.connection.receive_data(data):
                    self.take(event)
                self.flush()
            if self.gone:
                for stream, answer in self.answers.items():
                    if stream not in self.finished:
                        answer.cut = self.gone
                        self.finished.add(stream)
                return

    def take(self, event):
        answer = self.answers.get(getattr(event, "stream_id", None))
        text = lambda fields: [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        match event:
            case h2.events.ResponseReceived():
                answer.headers = text(event.headers)
                answer.status = int(answer.one(":status"))
            case h2.events.DataReceived():
                answer.body += event.data
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                answer.trailers = text(event.headers)
            case h2.events.StreamEnded():
                self.finished.add(event.stream_id)
            case h2.events.StreamReset():
                answer.cut = h2.errors.ErrorCodes(event.error_code).name
                self.finished.add(event.stream_id)
            case h2.events.ConnectionTerminated():
                if event.error_code:
                    self.gone = f"GOAWAY {event.error_code}"

    def answer(self, stream):
        self.read_until(lambda: stream in self.finished)
        return self.answers[stream]

    def call(self, method, path, headers=(), body=None):
        return self.answer(self.send(method, path, headers, body))


def http2(address, path, headers=(), method="GET", body=None):
    with Http2(address) as connection:
        return connection.call(method, path, headers, body)


def abandon_http2(address, path, headers=(), after_bytes=0, method="GET"):
    with Http2(address) as connection:
        stream = connection.send(method, path, headers)
        connection.read_until(lambda: len(connection.answers[stream].body) >= after_bytes)
        connection.reset(stream)


# -- gRPC frame by frame, and by grpcio


def blob(data):
    """`message Blob { bytes data = 1; }`"""
    data = data if isinstance(data, bytes) else str(data).encode()
    if not data:
        return b""
    length, size = len(data), b""
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return b"\x0a" + size + bytes([length]) + data


def unblob(message):
    if not message:
        return b""
    assert message[0] == 0x0A, message[:20]
    at, length, shift = 1, 0, 0
    while True:
        byte = message[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return message[at:at + length]


def framed(message):
    return b"\0" + len(message).to_bytes(4, "big") + message


GRPC = (("content-type", "application/grpc"), ("te", "trailers"))


def raw_grpc(address, method, data=b"", headers=()):
    """A gRPC call whose head, trailers and reset are seen as they are."""
    path = method if method.startswith("/") else SERVICE + method
    return http2(address, path, [*GRPC, *headers], "POST", framed(blob(data)))


class Grpc:
    """A grpcio channel of its own connection."""

    def __init__(self, address):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(f"{address[0]}:{address[1]}", options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def start(self, method, data=b"", headers=(), timeout=PATIENCE):
        """A call under way: server streaming fits unary methods too."""
        path = method if method.startswith("/") else SERVICE + method
        call = self.channel.unary_stream(path, request_serializer=blob, response_deserializer=unblob)
        return call(data, metadata=list(headers), timeout=timeout)

    def call(self, method, data=b"", headers=(), timeout=PATIENCE):
        call = self.start(method, data, headers, timeout)
        messages = []
        try:
            for message in call:
                messages.append(message)
        except grpc.RpcError:
            pass  # the code says it
        lower = lambda metadata: [(key, value) for key, value in metadata or ()]
        answer = Answer(headers=lower(call.initial_metadata()), trailers=lower(call.trailing_metadata()), body=b"".join(messages))
        answer.status = call.code().value[0]
        answer.cut = call.details()
        return answer


def grpc_web_body(answer):
    """The trailers of a gRPC-Web answer, which are a frame of its body."""
    body = answer.body
    if "text" in (answer.all("content-type") or [""])[0]:
        body = b"".join(base64.b64decode(part + b"==") for part in body.split(b"="))
    return body


# -- an upstream that never answers


class Hanging:
    """Takes calls and leaves them waiting: that a call has come here shows that it is under way."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = "http://{}:{}".format(*self.listener.getsockname())
        self.paths = queue.Queue()
        self.taken = []
        threading.Thread(target=self.take, daemon=True).start()

    def take(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return  # closed
            self.taken.append(sock)
            self.paths.put(KeptOpen(sock).readline().split()[1].decode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.taken:
            sock.close()

    def next_path(self):
        return self.paths.get(timeout=PATIENCE)


# -- curl


def curl(address, path, *options):
    """curl's exit code and its output, head included."""
    url = f"http://{address[0]}:{address[1]}{path}"
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", str(PATIENCE), *options, url], capture_output=True, check=False,
    )
    head_text, _, body = done.stdout.partition(b"\r\n\r\n")
    lines = head_text.decode("latin-1").split("\r\n")
    answer = Answer(body=body, cut=None if done.returncode == 0 else f"curl {done.returncode}")
    if lines[0].startswith("HTTP/"):
        answer.status = int(lines[0].split()[1])
        answer.headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    return answer


def quoted(text):
    return urllib.parse.quote(text, safe="")
