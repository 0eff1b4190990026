"""Everything that touches Postgres: the embedded server, the schema, the queue, the bars, the read
models.
"""
