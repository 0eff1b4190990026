"""The composition root: builds and connects all objects, for the entry points."""
