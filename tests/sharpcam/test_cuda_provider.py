"""ONNX Runtime's own CUDA provider at work, on a CUDA runtime that is made up: it takes the shipped models, records
them and replays them as SharpCam wants it. Kernels compute nothing; what they would compute is not tested here."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnxruntime as ort
import pytest
from test_cuda import HEADERS

HERE = Path(__file__).parent
PRELUDE = """
import ctypes, logging, sys, threading
def load(name):
    return ctypes.CDLL(f"{sys.argv[1]}/{name}", ctypes.RTLD_GLOBAL)
driver, runtime, *_ = map(load, sys.argv[2:])
from sharpcam import cuda
from sharpcam.engine import Engine
from sharpcam.frame import Frame
logging.basicConfig(level=logging.INFO, format="log: %(message)s")
def say(what):
    print("test:", what, file=sys.stderr, flush=True)
def frames(number):
    for i in range(number):
        say("frame")
        given.sequence = i
        engine.process(given, out)
def memory(engine):
    return Frame(64, 48, allocate=engine.allocate)
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A folder, and the names of the libraries in it that the provider wants, in the order of loading."""
    provider = Path(ort.__file__).parent / "capi/libonnxruntime_providers_cuda.so"
    headers = [folder for folder in HEADERS if (folder / "cuda_runtime_api.h").is_file()]
    tools = [shutil.which(name) for name in ("c++", "cc", "nm")]
    if not provider.is_file() or not headers or None in tools:
        pytest.skip("there is no C++ compiler with CUDA's headers, or this ONNX Runtime has no CUDA")
    folder = tmp_path_factory.mktemp("cuda")
    include = ["-fPIC", "-O1", "-w", "-I", str(headers[0])]

    def run(*command: str | Path) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    run("c++", *include, "-c", HERE / "cuda_runtime.cpp", "-o", folder / "runtime.o")
    run("cc", *include, "-c", HERE / "cuda_driver.c", "-o", folder / "driver.o")
    made = set(re.findall(r" T (\w+)", run("nm", "--defined-only", folder / "runtime.o")))
    wanted: dict[str, list[str]] = {"libcuda.so.1": ["cuTensorMapEncodeTiled"]}
    for name, library in re.findall(r" U (\w+)@(lib(?:cu\w+)\.so\.\d+)", run("nm", "-D", "-u", provider)):
        wanted.setdefault(library, []).append(name)
    for library in ("libcurand.so.10", "libcublasLt.so.13", "libcublas.so.13", "libcudart.so.13"):
        wanted.setdefault(library, [])
    with provider.open("rb") as file:  # which looks cuDNN's functions up by their names
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        wanted["libcudnn.so.9"] = [n.decode() for n in {*re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", content)}]
    for library, names in wanted.items():
        rest = folder / f"{library}.c"
        rest.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in names if name not in made))
        versions = folder / f"{library}.map"
        versions.write_text(f"{library} {{ global: *; }};\n")
        # libcudnn's few functions are found through it, in the runtime
        parts = {
            "libcuda.so.1": ["driver.o"],
            "libcudart.so.13": ["runtime.o"],
            "libcudnn.so.9": ["libcudart.so.13"],
        }
        versioned = [] if library == "libcuda.so.1" else [f"-Wl,--version-script={versions}"]
        target = ["-o", folder / library, f"-Wl,-soname,{library}"]
        linked = ["-Wl,--no-as-needed", *(folder / part for part in parts.get(library, ()))]
        run("c++", *include, "-shared", *target, *versioned, *linked, "-xc", rest)
    order = ("libcuda.so.1", "libcudart.so.13", *sorted(wanted.keys() - {"libcuda.so.1", "libcudart.so.13"}))
    return [str(folder), *order]


def told(libraries: list[str], script: str) -> list[str]:
    """What a process of its own says that runs `script` with these libraries."""
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries[0], "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, *libraries],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stderr.splitlines()


def between(lines: list[str], start: str, end: str) -> list[str]:
    first = lines.index(f"test: {start}") + 1
    return lines[first : lines.index(f"test: {end}", first)]


@pytest.mark.parametrize("model", ["s", "m", "l"])
def test_a_frame_is_one_launch_of_what_was_recorded(libraries: list[str], model: str) -> None:
    lines = told(
        libraries,
        f"""
engine = Engine.load("{model}", (64, 48), "cuda")
given, out = memory(engine), memory(engine)
say(f"records: {{engine.records}}")
frames(4)
say("thread")
other = threading.Thread(target=frames, args=(4,))
other.start()
other.join()
say("close")
engine.close()
say("closed")
""",
    )
    assert not [line for line in lines if line.startswith("log:")]
    assert "test: records: True" in lines
    assert len({number for line in lines for number in re.findall(r"kernel on (\d+)", line)}) == 1
    assert "cuda: a recorded copy reads other bytes now" not in lines
    # what CUDA allows while it records: launches and copies that wait for nothing
    during = Counter(line.split()[1] for line in lines if line.endswith("while recording"))
    assert during.keys() <= {"kernel", "copy"}
    assert during["kernel"] > 4 * 40  # two turns on two threads
    assert not [line for line in lines if "waits while recording" in line]
    # on the thread that warmed it up, but for the first frame of the scene, which runs twice, and on another once
    # its two turns are recorded there
    at = [i for i, line in enumerate(lines) if line == "test: frame"]
    assert [line.split()[1] for line in lines[at[0] + 1 : at[1]]] == ["replay", "wait"] * 2
    for i in (*at[1:4], *at[6:8]):
        assert [line.split()[1] for line in lines[i + 1 : i + 3]] == ["replay", "wait"]
        assert lines[i + 3].startswith("test: ")
    replayed = [lines[i + 1].split()[2] for i in (*at[1:4], *at[6:8])]
    assert replayed[0] == replayed[2]
    assert len(set(replayed)) == 4
    gone = between(lines, "close", "closed")
    assert {line.split()[2] for line in gone if "forget" in line} == set(replayed)
    assert sum("free" in line for line in gone) > 20


LOST = """
engine = Engine.load("m", (64, 48), "cuda", threads=1)
given, out = memory(engine), memory(engine)
frames(2)
runtime.lose_the_device()
"""


def test_a_device_that_is_lost_does_not_take_the_process_with_it(libraries: list[str]) -> None:
    lines = told(
        libraries,
        LOST
        + """
frames(3)
say(f"on {engine.provider}, {engine.fallbacks} fallback")
engine.close()
""",
    )
    assert "test: on cpu, 1 fallback" in lines
    logged = [line for line in lines if line.startswith("log:")]
    assert len(logged) == 1
    assert "going on with the CPU" in logged[0]
    assert "the device is lost" in logged[0]


def test_a_device_that_was_lost_unnoticed_does_not_either(libraries: list[str]) -> None:
    """As while nobody watched and the machine slept."""
    lines = told(
        libraries,
        LOST
        + """
driver.lose_the_device()
engine.close()
say("closed")
""",
    )
    assert lines.index("test: closed") > 0
    assert not [line for line in lines if "forget" in line]


def test_a_model_whose_nodes_are_not_all_for_cuda_runs_without_recording(libraries: list[str]) -> None:
    """ONNX Runtime refuses it when the session is made, and SharpCam tries again."""
    lines = told(
        libraries,
        """
import tempfile, onnx
from onnx import TensorProto, helper
folder = tempfile.mkdtemp()
sides = (1, 3, 48, 64)
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
# there is no Det for CUDA: it runs on the CPU, amid the others
nodes = [
    helper.make_node("Relu", ["x"], ["a"]),
    helper.make_node("Slice", ["a", "zero", "side", "axis"], ["square"]),
    helper.make_node("Det", ["square"], ["det"]),
    helper.make_node("Unsqueeze", ["det", "last"], ["b"]),
    helper.make_node("Add", ["a", "b"], ["y"]),
]
numbers = dict(zero=[0], side=[48], axis=[3], last=[2, 3])
constants = [helper.make_tensor(n, TensorProto.INT64, [len(v)], v) for n, v in numbers.items()]
graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, f"{folder}/m.onnx")
engine = Engine.load(f"{folder}/m.onnx", (64, 48), "cuda")
say(f"on {engine.provider}, records: {engine.records}")
engine.close()
""",
    )
    assert "test: on cuda, records: False" in lines
    assert any("trying without CUDA graphs" in line for line in lines)
