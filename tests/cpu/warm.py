"""Scripts in forks of one process that has imported PyTorch and this package, which takes longer than most scripts.

A fork has the modules alone in common with others: no thread runs, nothing was traced and no cache was opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@contextlib.contextmanager
def warm() -> Iterator[Run]:
    """``run(script, *arguments, env=…, cwd=…)``, as ``subprocess.run`` of a Python script."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.cpu.warm"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, text=True, env=environment, cwd=ROOT, **pipes) as server,  # type: ignore[call-overload]
    ):
        out, err = Path(folder) / "out", Path(folder) / "err"

        def run(script: Path, *arguments: str, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
            argv = [str(script), *arguments]
            task = {"argv": argv, "env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err)}
            print(json.dumps(task), file=server.stdin, flush=True)
            code = server.stdout.readline()
            assert code, f"the process that is forked died with {server.wait()}"
            said = (path.read_text(encoding="utf-8") for path in (out, err))
            return subprocess.CompletedProcess(argv, int(code), *said)

        yield run
        server.stdin.close()


def serve() -> str | None:
    """Forks for each line; in a fork, the script to run."""
    import trt_stripped_backend.tracing  # noqa: F401

    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork would lack the other threads"
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(task["cwd"])
            os.environ.clear()
            os.environ.update(task["env"])
            for descriptor, name in enumerate((os.devnull, task["out"], task["err"])):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if descriptor else os.O_RDONLY
                opened = os.open(name, flags, 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)
            sys.argv = task["argv"]
            sys.path[0] = str(Path(sys.argv[0]).parent)  # as for ``python SCRIPT``
            return sys.argv[0]
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    script = serve()
    if script is not None:
        runpy.run_path(script, run_name="__main__")
