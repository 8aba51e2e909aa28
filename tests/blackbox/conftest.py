import pytest
from server import Server


@pytest.fixture
def start(tmp_path_factory):
    """Starts testbeds with settings of their own; each is stopped at the end and must end well."""
    servers = []

    def start_one(**settings):
        server = Server(tmp_path_factory.mktemp("server"), **settings)
        servers.append(server)
        return server.__enter__()

    yield start_one
    for server in servers:
        if server.process is not None and server.process.stdout and not server.process.stdout.closed:
            server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One testbed for all tests of a file."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running
