"""cluster/telemetry/config.py: whether requests are traced, and what Serve is told of logs."""

import pytest
from ray.serve.schema import LoggingConfig

from cluster.config import parse_config
from cluster.telemetry.config import OTLP_ENDPOINTS, LogsSection, TracingSection


def test_nothing_is_traced_until_somebody_says_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTLP_ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert not parse_config({}).tracing.is_on
    assert TracingSection(endpoint="http://collector:4318/").is_on


@pytest.mark.parametrize("name", OTLP_ENDPOINTS)
def test_opentelemetrys_own_variables_say_it_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://collector:4318")
    assert parse_config({}).tracing.is_on


def test_serve_takes_what_the_logs_section_says() -> None:
    for logs in (LogsSection(), LogsSection(encoding="json", level="INFO")):
        told = LoggingConfig(**logs.for_serve)
        assert (told.encoding.lower(), told.log_level, told.enable_access_log) == (logs.encoding, logs.level, False)
