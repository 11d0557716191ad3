"""The code interpreter in a real sandbox: other languages without a network, and packages that a user installs."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import zipfile
from typing import Any

import pytest
from e2b import CommandExitException
from e2b.exceptions import SandboxException
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager

CODE = {
    "python": "print(__import__('os').getcwd())",
    "bash": "pwd",
    "javascript": "console.log(process.cwd())",
    "typescript": "const folder: string = process.cwd(); console.log(folder)",
}


def wheel(name: str, word: str) -> bytes:
    """Return a wheel with one module, as a package index would send the wheel."""
    files = {
        f"{name}.py": f"WORD = {word!r}\n",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},"
        f"{len(text.encode())}"
        for path, text in files.items()
    ]
    files[f"{name}-1.0.dist-info/RECORD"] = "\n".join([*record, f"{name}-1.0.dist-info/RECORD,,", ""])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return content.getvalue()


@pytest.mark.parametrize("language", CODE)
def test_each_language_runs_where_there_is_no_network(shared: Sandbox, language: str) -> None:
    home = shared.commands.run("echo ~").stdout
    execution = shared.run_code(CODE[language], language=language)
    assert execution.error is None
    assert "".join(execution.logs.stdout) == home
    read = {"python": "import os; print(os.environ['E2B_SANDBOX'])", "bash": "echo $E2B_SANDBOX"}
    code = read.get(language, "console.log(process.env.E2B_SANDBOX)")
    assert "".join(shared.run_code(code, language=language).logs.stdout) == "true\n"


@pytest.mark.skipif(shutil.which("java") is None, reason="no JDK on this machine")
def test_a_kernel_installed_beside_the_manager_works_in_a_sandbox(shared: Sandbox) -> None:
    execution = shared.run_code('System.out.println("from java"); 20 + 1', language="java")
    assert execution.error is None
    assert (execution.text, execution.logs.stdout) == ("21", ["from java\n"])


def test_a_language_that_is_not_there_says_what_to_install(shared: Sandbox) -> None:
    with pytest.raises(SandboxException, match=r"Failed to create context: .*install R with IRkernel"):
        shared.run_code("1", language="r")
    with pytest.raises(SandboxException, match=r"Failed to create context: .*with a kernel.json in"):
        shared.create_code_context(language="cobol")


@pytest.mark.parametrize("kernel", ["the first", "a later"])
def test_output_of_programs_keeps_its_order_in_forked_and_executed_kernels(sandbox: Sandbox, kernel: str) -> None:
    context = sandbox.create_code_context() if kernel == "a later" else None
    sandbox.run_code("import subprocess", context=context)
    wrong = []
    for number in range(200):
        code = f"print({number})\nsubprocess.run(['echo', 'a']); print('b', flush=True); subprocess.run(['echo', 'c'])"
        stdout = "".join(sandbox.run_code(f"{code}; None", context=context).logs.stdout)
        wrong += [stdout] if stdout != f"{number}\na\nb\nc\n" else []
    assert wrong == []


def test_a_package_installed_by_a_command_is_there_in_the_next_cell(sandbox: Sandbox) -> None:
    sandbox.run_code("1")  # the kernel runs already
    sandbox.files.write("greeting-1.0-py3-none-any.whl", wheel("greeting", "by command"))
    sandbox.commands.run("pip install --no-index ./greeting-1.0-py3-none-any.whl")
    execution = sandbox.run_code("import greeting; print(greeting.WORD, greeting.__file__)")
    assert execution.error is None
    home = sandbox.commands.run("echo ~").stdout.strip()
    assert "".join(execution.logs.stdout).startswith(f"by command {home}/.local/")
    assert sandbox.commands.run("python -c 'import greeting; print(greeting.WORD)'").stdout == "by command\n"


@pytest.mark.parametrize("memory", [True, False])
def test_what_pip_installed_survives_a_pause_and_is_in_a_snapshot(manager: RunningManager, memory: bool) -> None:
    options = {"domain": manager.domain, "api_key": manager.api_key}
    with patch_e2b(False), Sandbox.create(**options) as sandbox:
        sandbox.files.write("greeting-1.0-py3-none-any.whl", wheel("greeting", "kept"))
        sandbox.commands.run("pip install --no-index ./greeting-1.0-py3-none-any.whl")
        snapshot = sandbox.create_snapshot()
        with manager.api() as api:
            assert api.post(f"/sandboxes/{sandbox.sandbox_id}/pause", json={"memory": memory}).status_code == 204
        again = Sandbox.connect(sandbox.sandbox_id, **options)
        assert again.run_code("import greeting; greeting.WORD").text == "kept"
        with Sandbox.create(template=snapshot.snapshot_id, **options) as copy:
            assert copy.run_code("import greeting; greeting.WORD").text == "kept"
        assert Sandbox.delete_snapshot(snapshot.snapshot_id, **options)


@pytest.mark.parametrize("install", ["%pip install --no-index", "!pip install --no-index"])
def test_a_package_installed_by_a_cell_is_there_in_the_next_one(sandbox: Sandbox, install: str) -> None:
    sandbox.files.write("parting-1.0-py3-none-any.whl", wheel("parting", "by magic"))
    home = sandbox.commands.run("echo ~").stdout.strip()
    assert sandbox.run_code("import parting").error is not None
    installed = sandbox.run_code(f"{install} ./parting-1.0-py3-none-any.whl")
    assert installed.error is None
    assert "Successfully installed parting-1.0" in "".join(installed.logs.stdout)
    execution = sandbox.run_code("import parting; print(parting.WORD, parting.__file__)")
    assert execution.error is None
    assert "".join(execution.logs.stdout).startswith(f"by magic {home}/.local/")
    assert sandbox.commands.run("python -c 'import parting; print(parting.WORD)'").stdout == "by magic\n"


def test_fifty_megabytes_of_output_need_no_more_memory(sandbox: Sandbox) -> None:
    """The measure is the highest memory so far of the server in the sandbox, which is the kernel's parent."""
    peak = "next(int(l.split()[1]) for l in open(f'/proc/{os.getppid()}/status') if l.startswith('VmHWM'))"
    sandbox.run_code("import os; print('x' * 99)")
    before = int(sandbox.run_code(peak).text or "")
    length = 0

    def count(message: Any) -> None:
        nonlocal length
        length += len(message.line)

    sandbox.run_code("for _ in range(500_000): print('x' * 99)", on_stdout=count)
    assert length == 50_000_000
    assert int(sandbox.run_code(peak).text or "") - before < 40_000  # KiB


def test_nobody_else_in_a_sandbox_speaks_to_a_kernel(shared: Sandbox) -> None:
    """Only the kernel's user may read the file with the kernel's key, and commands run as another user."""
    shared.run_code("console.log(1)", language="js")
    whose = shared.run_code("import os; os.getuid()").text
    if whose == shared.commands.run("id -u").stdout.strip():
        pytest.skip("this sandbox has one user")
    found = shared.commands.run("cat /tmp/k-*/*.json 2>&1 || true").stdout
    assert "denied" in found or "No such file" in found
    assert "key" not in found
    with pytest.raises(CommandExitException):
        shared.commands.run("ls /tmp/k-*/")
