"""Results by MIME type, from a real kernel to the SDK's ``Result``."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from e2b_code_interpreter import Context, Sandbox


@pytest.mark.parametrize(
    ("mime_type", "field", "value"),
    [
        ("text/plain", "text", "plain"),
        ("text/html", "html", "<b>x</b>"),
        ("text/markdown", "markdown", "# x"),
        ("image/svg+xml", "svg", "<svg/>"),
        ("image/png", "png", "aGk="),
        ("image/jpeg", "jpeg", "aGk="),
        ("application/pdf", "pdf", "aGk="),
        ("text/latex", "latex", "$x$"),
        ("application/json", "json", {"a": [1, None]}),
        ("application/javascript", "javascript", "alert(1)"),
        ("e2b/data", "data", {"a": [1]}),
    ],
)
def test_a_displayed_type_arrives_in_its_field(sandbox: Sandbox, mime_type: str, field: str, value: Any) -> None:
    execution = sandbox.run_code(f"display({{{mime_type!r}: {value!r}}}, raw=True)")
    (result,) = execution.results
    assert getattr(result, field) == value
    assert list(result.formats()) == [field]
    assert not result.is_main_result


def test_nan_and_infinity_arrive_as_null_without_a_warning(sandbox: Sandbox) -> None:
    code = "from IPython.display import JSON\nJSON({'a': [float('nan'), float('inf')], 'b': 1})"
    execution = sandbox.run_code(f"{code}\n")
    assert execution.results[0].json == {"a": [None, None], "b": 1}
    assert execution.logs.stderr == []
    raw = sandbox.run_code("display({'application/x-thing': [float('nan')]}, raw=True)")
    assert raw.results[0].extra == {"application/x-thing": [None]}
    assert raw.logs.stderr == []


def test_an_unknown_type_arrives_in_extra(sandbox: Sandbox) -> None:
    (result,) = sandbox.run_code("display({'application/x-thing': 'x'}, raw=True)").results
    assert result.extra == {"application/x-thing": "x"}


def test_lists_and_dicts_come_as_json_and_in_full(sandbox: Sandbox) -> None:
    (result,) = sandbox.run_code("list(range(2000))").results
    assert result.json == list(range(2000))
    assert result.text is not None
    assert result.text.endswith("1998,\n 1999]")
    (result,) = sandbox.run_code("{'a': [1, (2, None)], 3: 'x'}").results
    assert result.json == {"a": [1, [2, None]], "3": "x"}


def test_a_value_without_json_form_comes_as_text_only(sandbox: Sandbox) -> None:
    (result,) = sandbox.run_code("[object]").results
    assert result.json is None
    assert result.text == "[object]"


def test_a_data_frame_comes_as_data_and_html(sandbox: Sandbox) -> None:
    code = "import pandas as pd\npd.DataFrame({'n': [1, 2], 't': pd.to_datetime(['2026-01-02', '2026-01-03'])})"
    (result,) = sandbox.run_code(code).results
    assert result.data == {"n": [1, 2], "t": ["2026-01-02T00:00:00", "2026-01-03T00:00:00"]}
    assert "<table" in (result.html or "")
    assert result.is_main_result


def test_objects_may_bring_their_own_data(sandbox: Sandbox) -> None:
    code = "class Table:\n    def _repr_e2b_data_(self): return {'a': [1]}\nTable()"
    assert sandbox.run_code(code).results[0].data == {"a": [1]}


def test_formatters_load_nothing_themselves(sandbox: Sandbox, context: Context) -> None:
    code = "import sys\n[1]\n[m for m in ('numpy', 'pandas', 'matplotlib', 'PIL') if m in sys.modules]"
    assert sandbox.run_code(code, context=context).results[0].json == []


def test_a_figure_is_shown_at_the_end_of_the_cell(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('plotted')\n'value'"
    value, figure = sandbox.run_code(code).results
    assert value.text == "value"
    assert figure.png is not None
    assert base64.b64decode(figure.png).startswith(b"\x89PNG")
    assert figure.text == "<Figure size 640x480 with 1 Axes>"
    assert figure.extra == {}


def test_a_figure_is_shown_where_the_code_shows_it(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nplt.plot([2])\nplt.show()\n'value'"
    assert [bool(result.png) for result in sandbox.run_code(code).results] == [True, True, False]


def test_saving_an_image_to_a_text_path_displays_it(sandbox: Sandbox, context: Context) -> None:
    code = "from PIL import Image\nimage = Image.new('RGB', (2, 2))\nimage.save('made.png')"
    execution = sandbox.run_code(code, context=context)
    assert [bool(result.png) for result in execution.results] == [True]
    code = (
        "import io, os, pathlib\nimage.save(pathlib.Path('other.png')); image.save(io.BytesIO(), 'PNG')\n"
        "print(os.path.exists('made.png'), os.path.exists('other.png'))"
    )
    execution = sandbox.run_code(code, context=context)
    assert execution.results == []
    assert execution.error is None
    assert "".join(execution.logs.stdout) == "True True\n"


@pytest.mark.parametrize("show", ["image.show()", "image.show('title')", "ImageShow.show(image)"])
def test_an_image_that_is_shown_is_a_result(sandbox: Sandbox, context: Context, tmp_path: Path, show: str) -> None:
    """A program such as ImageMagick's ``display`` on ``PATH`` makes no difference, because there is no screen."""
    program = tmp_path / "display"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    code = f"import os\nos.environ['PATH'] = {str(tmp_path)!r} + ':' + os.environ['PATH']\n"
    code += f"from PIL import Image, ImageShow\nimage = Image.new('RGB', (2, 2))\n{show}\nNone"
    execution = sandbox.run_code(code, context=context)
    assert execution.error is None
    (result,) = execution.results
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG")
    assert not result.is_main_result
    assert not (tmp_path / "ran").exists()


def test_an_image_is_a_result_although_a_program_has_looked_for_the_module_before(
    sandbox: Sandbox, context: Context
) -> None:
    code = (
        "import importlib.util, sys\nfor name in [name for name in sys.modules if name.startswith('PIL')]:\n"
        "    del sys.modules[name]\nimportlib.util.find_spec('PIL.Image')\n"
        "from PIL import Image\nImage.new('RGB', (2, 2)).save('looked-for.png')"
    )
    execution = sandbox.run_code(code, context=context)
    assert execution.error is None
    assert [list(result.formats()) for result in execution.results] == [["text", "png", "jpeg"]]
