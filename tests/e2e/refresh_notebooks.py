"""Run the notebooks on a fresh demo database and save them with what they show.

    python -m tests.e2e.refresh_notebooks [FOLDER]

Saves into FOLDER (default: notebooks), and nothing of this machine with it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"


def executed(notebooks: Iterable[Path], environment: Mapping[str, str]) -> list[NotebookNode]:
    """The notebooks after all their cells have run; CellExecutionError if one fails."""
    with ThreadPoolExecutor(max_workers=2) as threads:
        return list(threads.map(lambda notebook: _executed(notebook, environment), notebooks))


def _executed(notebook: Path, environment: Mapping[str, str]) -> NotebookNode:
    node = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        node,
        timeout=60,
        iopub_timeout=60,  # what a busy machine shows late is waited for, not left out
        raise_on_iopub_timeout=True,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(notebook.parent)}},
    )
    # Importing streamlit sets a backend for this whole process; the kernel draws by its own.
    own = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    asyncio.run(client.async_execute(env={**own, **environment, "PYTHONPATH": path}))
    return node


def tidied(node: NotebookNode) -> NotebookNode:
    """Without what differs from machine to machine."""
    node.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(node.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = nbformat.from_dict({})
    return node


def main() -> None:
    from enrichment.warehouse.database import Database
    from enrichment.warehouse.embedded import EmbeddedPostgres
    from enrichment.wiring.database import upgrade_schema
    from tests.helpers.troubled_nights import troubled_nights

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=NOTEBOOKS)
    folder: Path = parser.parse_args().folder
    with TemporaryDirectory() as home, EmbeddedPostgres(Path(home) / "postgres") as server:
        db = Database(server.url)
        upgrade_schema(db)
        with troubled_nights(db, server.url) as environment:
            notebooks = sorted(NOTEBOOKS.glob("*.ipynb"))
            nodes = executed(notebooks, environment)
        for notebook, node in zip(notebooks, nodes, strict=True):
            nbformat.write(tidied(node), folder / notebook.name)
            print(f"saved {notebook.name}")
        db.close()


if __name__ == "__main__":
    main()
