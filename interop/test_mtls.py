"""mTLS between every pair of languages, authorised by SPIFFE ID."""

import pytest
from conftest import LANGUAGES


@pytest.mark.parametrize("client", LANGUAGES)
@pytest.mark.parametrize("server", LANGUAGES)
def test_the_right_id_is_accepted_and_the_wrong_one_refused(server, client, domain, workloads):
    _, agent = domain
    listener, dialer = workloads[server], workloads[client]
    process, port = listener.serve(agent, dialer.spiffe_id)
    try:
        answer = dialer.json(agent, "dial", f"127.0.0.1:{port}", listener.spiffe_id)
        assert answer["reply"] == "echo hello\n"
        wrong = dialer.run(agent, "dial", f"127.0.0.1:{port}", "spiffe://example.org/impostor", check=False)
        assert wrong.returncode != 0
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize("client", LANGUAGES)
@pytest.mark.parametrize("server", LANGUAGES)
def test_a_server_refuses_a_client_that_it_does_not_expect(server, client, domain, workloads):
    _, agent = domain
    listener, dialer = workloads[server], workloads[client]
    process, port = listener.serve(agent, "spiffe://example.org/somebody-else")
    try:
        result = dialer.run(agent, "dial", f"127.0.0.1:{port}", listener.spiffe_id, check=False)
        assert result.returncode != 0
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
