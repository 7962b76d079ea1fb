"""The app answers as its own description says, whatever is sent (schemathesis over real HTTP)."""

import pytest
import schemathesis
from north_double import ADMIN, MEMBER
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from openapi_examples import each

EXAMPLES = 12
NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
OPERATIONS = 19  # schemathesis leaves out the path that the description itself came from
PUBLIC = ("/", "/openapi.json", "/docs", "/healthcheck", "/readyz", "/metrics")


def _operations(north):
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{north.port}/openapi.json")
    return [operation.ok() for operation in schema.get_all_operations()]


@pytest.mark.parametrize("number", range(OPERATIONS))
@pytest.mark.parametrize("token", [MEMBER, ADMIN])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_an_operation_answers_as_described(north, number, token, mode):
    service = north.create()
    operation = _operations(north)[number]
    checks = [check for check in CHECKS.get_all() if check.__name__ in NAMES]
    assert len(checks) == len(NAMES)
    if mode == GenerationMode.NEGATIVE and operation.path in PUBLIC:
        return  # they read nothing, so nothing can be wrong

    def ask(case):
        if "service_id" in case.path_parameters and mode == GenerationMode.POSITIVE:
            case.path_parameters["service_id"] = service["id"]
        case.headers = {**(case.headers or {}), "X-Auth-Token": token}
        response = case.call(timeout=20)
        assert response.status_code != 401
        case.validate_response(response, checks=checks)

    each(operation, mode, ask, examples=EXAMPLES)


def test_every_operation_is_asked(north):
    assert len(_operations(north)) == OPERATIONS


def test_the_description_names_every_path_parameter_and_resolves(north):
    document = north.ask("GET", "/openapi.json").json
    known = set(document["components"]["schemas"])
    references = set()

    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                references.add(node["$ref"].rsplit("/", 1)[1])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert references <= known
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = (
                {p["name"] for p in operation["parameters"] if p["in"] == "path"} if "{" in path else set()
            )
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert "422" not in operation["responses"]
