"""A Redis of the test's own, which it may break in any way."""

import signal
import subprocess
from contextlib import ExitStack, contextmanager

from clients import connect
from programs import free_port
from server import PATIENCE, die_with_parent


class RedisError(Exception):
    pass


class Redis:
    """`with Redis() as redis:` starts one on a port that stays its own when it is away, without a disk."""

    def __init__(self, *options):
        self.options = options
        self.process = None
        self.port = None
        self.held = ExitStack()

    def __enter__(self):
        self.port = self.held.enter_context(free_port())
        assert self.launch(), "redis-server does not start: is the Debian package redis-server installed?"
        return self

    def __exit__(self, *_):
        self.kill()
        self.held.close()

    def launch(self):
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self.options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent,
        )
        return any(b"eady to accept connections" in line for line in self.process.stdout)

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdout.close()

    @contextmanager
    def hangs(self):
        """It is there meanwhile, and says nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def restart(self):
        """Again, on the same port and empty."""
        assert self.launch(), "it starts again"

    def url(self, password=None):
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/"

    def command(self, *words):
        with connect(("127.0.0.1", self.port)) as sock:
            parts = [str(word).encode() for word in words]
            sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            with sock.makefile("rb") as answer:
                return read(answer)

    def keys(self):
        return [key.decode() for key in self.command("KEYS", "*")]

    def info(self, section, name):
        text = self.command("INFO", section).decode()
        return next(line.split(":")[1] for line in text.splitlines() if line.startswith(name + ":"))


def read(answer):
    """One value of RESP."""
    line = answer.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest
        case b"-":
            raise RedisError(rest.decode())
        case b":":
            return int(rest)
        case b"$":
            return None if rest == b"-1" else answer.read(int(rest) + 2)[:-2]
        case b"*":
            return [read(answer) for _ in range(int(rest))]
    raise AssertionError(f"no RESP: {line!r}")
