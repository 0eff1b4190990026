"""Read models: what screens and endpoints show, one named query each."""
