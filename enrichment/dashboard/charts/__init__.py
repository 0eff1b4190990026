"""Figures, made by pure functions from frames, in one theme."""
