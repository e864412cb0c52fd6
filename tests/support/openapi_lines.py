"""A check for schemathesis: each line of a stream is as the document says.

Its own checks look at a stream's text as a whole. Named in ``SCHEMATHESIS_HOOKS``, it counts what
it has looked at in the file that ``COUNTED`` names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema_rs
import schemathesis

#: What the lines of an operation are.
SCHEMAS = {
    "vote": "ProgressLine",
    "notify": "ProgressLine",
    "act": "ProgressLine",
    "events": "FleetEventLine",
}

#: The variable that names the file.
COUNTED = "HBTRIO_COUNTED"


@schemathesis.check
def lines_are_as_documented(_: Any, response: Any, case: Any) -> None:
    """Fails for a line that is not."""
    operation = case.operation.definition.raw["operationId"]
    if response.status_code != 200 or operation not in SCHEMAS:
        return
    document = case.operation.schema.raw_schema
    schema = document["components"]["schemas"][SCHEMAS[operation]]
    validator = jsonschema_rs.validator_for(schema)
    lines = response.content.decode().splitlines()
    for line in lines:
        faults = [fault.message for fault in validator.iter_errors(json.loads(line))]
        assert not faults, f"{line}: {faults}"
    with Path(os.environ[COUNTED]).open("a") as file:
        file.write(f"{operation} {len(lines)}\n")
