"""Every notebook runs from top to bottom, and is kept without what it printed."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that start kernels
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [output for cell in cells for output in cell.outputs if output.output_type == "error"] == []
    assert [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"] == []
    shown = [output.data for cell in cells for output in cell.outputs if "text/html" in output.get("data", {})]
    assert [data["text/html"] for data in shown if not data["text/plain"] or "\x1b" in data["text/plain"]] == []
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) or "3_" in path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert notebook["cells"][0]["source"][0].startswith("# ")
