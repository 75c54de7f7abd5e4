"""schemathesis asks the gateway with requests made from its OpenAPI document, valid ones and invalid ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis; run make gateway-check")


@pytest.fixture(scope="module")
def document(scripted_app: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", scripted_app)


ANSWERS = ("/v1/chat/completions", "/v1/responses")
FOUND = ("/v1/models", "/health", "/ready", "/metrics")


def asked(document: Any, path: str, method: str, mode: str, count: int) -> Counter[int]:
    """Send requests that are made from the document, and return how often each status came.

    Raises:
        schemathesis.core.failures.FailureGroup: if a reply is no reply of the document, or an error of the server.
    """
    requests = document[path][method].as_strategy(generation_mode=schemathesis.GenerationMode[mode])
    # A schema cannot say what makes a history or a choice of tools valid, so some requests that fit it get status 400.
    left_out = schemathesis.checks.CHECKS.get_by_names(["positive_data_acceptance"])
    statuses = Counter[int]()

    @settings(max_examples=count, deadline=20_000, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(requests)
    def ask(case: Any) -> None:
        if mode == "POSITIVE" and isinstance(case.body, dict):
            case.body["model"] = "small"  # the document has no names of models
        reply = case.call_and_validate(base_url="http://127.0.0.1", excluded_checks=left_out)
        statuses[reply.status_code] += 1

    ask()
    return statuses


@pytest.mark.parametrize("path", ANSWERS)
def test_requests_that_fit_the_document_get_replies_that_fit_it(document: Any, path: str) -> None:
    statuses = asked(document, path, "POST", "POSITIVE", 100)
    assert statuses[200] > 10
    assert statuses.keys() <= {200, 400}


@pytest.mark.parametrize("path", ANSWERS)
def test_requests_that_do_not_fit_the_document_are_refused(document: Any, path: str) -> None:
    assert asked(document, path, "POST", "NEGATIVE", 50).keys() <= {400, 404}


@pytest.mark.parametrize("path", FOUND)
def test_what_is_only_read_fits_the_document(document: Any, path: str) -> None:
    assert asked(document, path, "GET", "POSITIVE", 3).keys() == {200}


def test_a_model_that_is_not_served_is_not_found(document: Any) -> None:
    assert asked(document, "/v1/models/{name}", "GET", "POSITIVE", 5).keys() == {404}
