"""Grades the course's notebooks, and makes its book from their sources."""

import sys

# nbformat imports jsonschema, which compiles a grammar of URIs when it finds this package: two
# seconds at the start of every command, for a format that notebooks do not use.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
