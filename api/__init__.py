"""The JSON API over the read models and the commands."""

from api.application import create_app

__all__ = ["create_app"]
