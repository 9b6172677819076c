"""JSON documents that a command of gnl wrote, for another one to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnl.topologies.errors import UsageError


def read_document(path: Path, schema: int, keys: Sequence[str], made_by: str) -> dict[str, Any]:
    """The document at `path`, an object of version `schema` that has `keys`; UsageError otherwise.

    `made_by` is the command that writes such files, for the remedy.
    """
    remedy = f"give the JSON file that {made_by} writes"
    try:
        document = json.loads(path.read_text())
        version = document["schema"]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not of {made_by} ({error}); {remedy}") from error
    if version != schema:
        raise UsageError(f"{path} is of version {version!r}, this gnl reads {schema}: {made_by} makes one anew")
    missing = [key for key in keys if key not in document]
    if missing:
        raise UsageError(f"{path}: no {', '.join(missing)} in it; {remedy}")
    return document
