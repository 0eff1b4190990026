"""The vocabulary of the field as frozen values, without I/O: everything else may import it."""
