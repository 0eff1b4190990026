"""The JSON API: read models out, commands in."""

from api.application import create_app

__all__ = ["create_app"]
