"""Where in an image what a question is about is, from the benchmark's own ground truth.

GQA's scene graphs (published for its train and val tiers) and the boxes of referring expressions; how a map is judged
by them is in `pointing`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.explanation.token_grid import Corners
from olivine.files import read_json
from olivine.records import Question

_GRAPHS = "*_sceneGraphs.json"


class KnownBoxes:
    """The boxes of a benchmark's questions, in the pixels of their images.

    Args:
        data: the benchmark's files, a file or a folder.

    Raises:
        DataError: a scene-graph file is not one.
    """

    def __init__(self, data: Path) -> None:
        folder = data if data.is_dir() else data.parent
        self._graphs: dict[str, Any] = {}
        for file in sorted(folder.glob(_GRAPHS)):
            graphs = read_json(file)
            if not isinstance(graphs, dict):
                raise DataError(
                    f"{file}: a JSON {type(graphs).__name__}; scene graphs are one object keyed by image id."
                )
            self._graphs |= graphs

    def of(self, question: Question) -> list[Corners]:
        """Return (left, top, right, bottom) of each object that a question names; none where they are unknown.

        Raises:
            DataError: an object of the scene graph has no box.
        """
        box = question.details.get("box")
        if box is not None:
            return [tuple(float(edge) for edge in box)]  # type: ignore[list-item]
        objects = self._graphs.get(question.cluster, {}).get("objects", {})
        ids = [one for one in question.details.get("objects", ()) if one in objects]
        return [_corners(objects[one], f"scene graph of {question.cluster}: object {one}") for one in ids]


def _corners(entry: Mapping[str, Any], where: str) -> Corners:
    try:
        left, top, width, height = (float(entry[key]) for key in ("x", "y", "w", "h"))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{where} has no box: expected the numbers x, y, w and h.") from None
    return left, top, left + width, top + height
