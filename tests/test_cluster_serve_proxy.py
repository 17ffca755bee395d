"""The application behind Ray Serve's own proxy, for those who choose it."""

from collections.abc import Iterator

import openai
import pytest

from bench.processes import living_in
from tests.server import Server, assert_none_left, name_of, served

pytestmark = pytest.mark.ray
CONFIG = "http: {{port: {port}, proxy: serve}}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("r"), CONFIG) as server:
        yield server


def test_it_answers_streams_and_refuses_as_behind_haproxy_and_ends(server: Server) -> None:
    assert "haproxy" not in map(name_of, living_in(server.directory))
    asked = {"model": "tiny", "prompt": "import os\n", "max_tokens": 12, "temperature": 0}
    whole = server.client.completions.create(**asked)  # type: ignore[call-overload]
    streamed = server.client.completions.create(**asked, stream=True)  # type: ignore[call-overload]
    texts = [chunk.choices[0].text for chunk in streamed if chunk.choices]
    assert "".join(texts) == whole.choices[0].text
    assert len(texts) > 1
    with pytest.raises(openai.NotFoundError, match="serves 'tiny'"):
        server.client.completions.create(model="other", prompt="x")
    server.interrupt()
    assert_none_left(server.directory)
