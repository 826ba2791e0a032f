"""Public checks, one module a chapter."""
