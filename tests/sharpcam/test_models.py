from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from tiny_models import rgb_graph, write_model, write_yuv_model, yuv_graph

import sharpcam.models
from sharpcam.errors import ModelError
from sharpcam.graphs import Port, infer_manifest
from sharpcam.manifest import Layout, resolve_shape
from sharpcam.models import Model, find_model, find_models, read_manifest

Folders = tuple[Path, Path]


def replaced(folder: Path, old: str, new: str) -> Path:
    path = folder / "model.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def failure(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The manifest


def test_the_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    import textwrap

    import sharpcam.manifest

    text = (sharpcam.manifest.__doc__ or "").split("::\n", 1)[1].split("\n`inputs`", 1)[0]
    path = tmp_path / "model.toml"
    path.write_text(textwrap.dedent(text).replace('"..."', f'"{"a" * 64}"'))
    manifest = read_manifest(path).manifest
    assert manifest.state[0].shape == (1, 96, "H/8", "W/8")
    assert manifest.metrics[0].psnr_after == 31.2
    assert manifest.variants["cuda"].precision == "float16"
    assert str(manifest.created) == "2026-01-31"


def test_yuv420_tensors_need_not_be_written(yuv_model: Path) -> None:
    manifest = read_manifest(yuv_model / "model.toml").manifest
    assert [(t.name, t.shape, t.dtype) for t in manifest.inputs + manifest.outputs] == [
        ("y", (1, 1, "H", "W"), "uint8"),
        ("uv", (1, 2, "H/2", "W/2"), "uint8"),
        ("y_out", (1, 1, "H", "W"), "uint8"),
        ("uv_out", (1, 2, "H/2", "W/2"), "uint8"),
    ]


def test_written_tensors_must_be_the_contracts(yuv_model: Path) -> None:
    path = yuv_model / "model.toml"
    good = '[[inputs]]\nname = "y"\nshape = [1, 1, "H", "W"]\n'
    good += '[[inputs]]\nname = "uv"\nshape = [1, 2, "H/2", "W/2"]\n'
    text = path.read_text()
    path.write_text(text + good)
    assert len(read_manifest(path).manifest.inputs) == 2
    path.write_text(text + good.replace('"uv"', '"vu"'))
    assert "inputs of a yuv420 model are" in failure(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('layout = "yuv420"', 'layout = "bgr"', "layout"),
        ('precision = "uint8"', 'precision = "uint4"', "precision"),
        ('version = "1.0"', "version = 1.0", "version"),
        ('version = "1.0"\n', "", "version: field required"),
        ('version = "1.0"', 'version = "1.0"\nsharpness = 3', "sharpness: this key is not known"),
        ('file = "model.onnx"', 'file = "../model.onnx"', "file"),
        ('file = "model.onnx"', 'file = "/etc/passwd"', "file"),
        ('name = "tiny"', 'name = "ti/ny"', "name"),
        ('sha256 = "', 'sha256 = "x', "sha256"),
        ('shape = [1, 96, "H/8", "W/8"]', 'shape = [1, 96, "H/0", "W/8"]', "state.0.shape"),
        ('shape = [1, 96, "H/8", "W/8"]', 'shape = [1, 96, "H*8", "W/8"]', "state.0.shape"),
        ('shape = [1, 96, "H/8", "W/8"]', 'shape = [1, 0, "H/8", "W/8"]', "state.0.shape"),
        ("strength_input = true", 'strength_input = "yes"', "strength_input"),
        ("macs_per_pixel = 2.5", "macs_per_pixel = -1.0", "macs_per_pixel"),
        ("parameters = 7", "parameters = 7\nsize_multiple = 0", "size_multiple"),
        ('name = "tiny"', "name = ", "is not TOML"),
    ],
)
def test_bad_manifests_name_the_key(yuv_model: Path, old: str, new: str, said: str) -> None:
    path = replaced(yuv_model, old, new)
    text = failure(path)
    assert said in text
    assert str(path) in text


def test_a_byte_order_mark_is_read_over(yuv_model: Path) -> None:
    path = yuv_model / "model.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert find_model(yuv_model).name == "tiny"


def test_manifest_that_is_not_text(yuv_model: Path) -> None:
    (yuv_model / "model.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not TOML" in failure(yuv_model / "model.toml")


def test_shapes_are_resolved() -> None:
    assert resolve_shape((1, 96, "H/8", "W/8"), 1280, 720) == (1, 96, 90, 160)
    assert resolve_shape(("W", "H/2"), 64, 48) == (64, 24)


def test_variant_takes_the_place_of_the_default_file(yuv_model: Path) -> None:
    digest = hashlib.sha256(b"half").hexdigest()
    path = yuv_model / "model.toml"
    text = f'[variants.cuda]\nfile = "half.onnx"\nsha256 = "{digest}"\nprecision = "float16"\n'
    path.write_text(path.read_text() + text)
    model = read_manifest(path)
    cpu, cuda = model.for_provider("cpu"), model.for_provider("cuda")
    assert (cpu.file, cpu.precision) == ("model.onnx", "uint8")
    assert (cuda.file, cuda.precision, cuda.sha256) == ("half.onnx", "float16", digest)
    assert cuda.state == cpu.state
    (yuv_model / "half.onnx").write_bytes(b"half")
    assert model.read(cuda) == b"half"
    state = '[[variants.cuda.state]]\ninput = "state"\noutput = "state_out"\nshape = [1]\ndtype = "float16"\n'
    path.write_text(path.read_text() + state)
    assert read_manifest(path).for_provider("cuda").state[0].dtype == "float16"


# The checksum


def test_right_checksum_gives_the_graph(yuv_model: Path) -> None:
    model = find_model(yuv_model)
    assert model.read(model.manifest) == yuv_graph()


def test_one_changed_byte_is_refused(yuv_model: Path) -> None:
    path = yuv_model / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    model = find_model(yuv_model)
    with pytest.raises(ModelError, match=r"checksum of .*model\.onnx") as caught:
        model.read(model.manifest)
    assert caught.value.hint


def test_missing_graph(yuv_model: Path) -> None:
    (yuv_model / "model.onnx").unlink()
    model = find_model(yuv_model)
    with pytest.raises(ModelError, match="No such file"):
        model.read(model.manifest)


# Finding


def test_bundled_folder_is_the_checkouts() -> None:
    root = Path(sharpcam.models.__file__).resolve().parent.parent
    assert sharpcam.models.bundled_folder() in (root / "models", root / "sharpcam" / "_models")


def test_user_folder_follows_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpcam.models.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert sharpcam.models.user_folder() == tmp_path / "sharpcam" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert sharpcam.models.user_folder() == Path.home() / ".local/share/sharpcam/models"
    monkeypatch.setattr(sharpcam.models.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert sharpcam.models.user_folder() == tmp_path / "local" / "sharpcam" / "models"
    monkeypatch.setattr(sharpcam.models.sys, "platform", "darwin")
    assert "Application Support" in str(sharpcam.models.user_folder())


@pytest.mark.parametrize("what", ["", "model.toml", "model.onnx"])
def test_explicit_paths(yuv_model: Path, what: str) -> None:
    model = find_model(yuv_model / what)
    assert model.bare == (what == "model.onnx")
    assert model.manifest.layout is Layout.YUV420
    assert model.manifest.strength_input


def test_path_of_a_folder_without_manifest(yuv_model: Path) -> None:
    (yuv_model / "model.toml").unlink()
    assert find_model(yuv_model).bare


def test_relative_path_and_home(yuv_model: Path, monkeypatch: pytest.MonkeyPatch, no_models: Folders) -> None:
    monkeypatch.chdir(yuv_model.parent)
    assert find_model("tiny").name == "tiny"
    assert find_model("./tiny/model.toml").name == "tiny"
    monkeypatch.setenv("HOME", str(yuv_model.parent))
    assert find_model("~/tiny").name == "tiny"


def test_names_from_both_folders(no_models: Folders) -> None:
    bundled, user = no_models
    write_yuv_model(bundled / "l", macs_per_pixel=9.0)
    write_yuv_model(bundled / "s", macs_per_pixel=1.0)
    write_yuv_model(user / "mine", macs_per_pixel=3.0)
    assert [m.name for m in find_models()[0]] == ["s", "mine", "l"]
    assert find_model("mine").folder == user / "mine"


def test_bundled_model_is_not_shadowed(no_models: Folders) -> None:
    bundled, user = no_models
    write_yuv_model(bundled / "m")
    write_yuv_model(user / "m")
    assert find_model("m").folder == bundled / "m"
    assert len(find_models()[0]) == 1


def test_auto_prefers_m_then_the_marked_one_then_the_smallest(no_models: Folders) -> None:
    bundled, _ = no_models
    write_yuv_model(bundled / "big", macs_per_pixel=9.0)
    write_yuv_model(bundled / "small", macs_per_pixel=1.0)
    assert find_model("auto").name == "small"
    write_yuv_model(bundled / "good", macs_per_pixel=5.0, default=True)
    assert find_model("auto").name == "good"
    write_yuv_model(bundled / "m", macs_per_pixel=7.0)
    assert find_model().name == "m"


def test_auto_without_any_model(no_models: Folders) -> None:
    with pytest.raises(ModelError, match="no model is installed") as caught:
        find_model("auto")
    assert "--model" in caught.value.hint


def test_unknown_name_lists_the_known(no_models: Folders) -> None:
    write_yuv_model(no_models[0] / "m")
    write_yuv_model(no_models[0] / "s")
    with pytest.raises(ModelError, match='no model "xl"') as caught:
        find_model("xl")
    assert "m, s" in caught.value.hint


@pytest.mark.parametrize("spec", ["gone.onnx", "./gone", "a/b/c", "gone.toml", ""])
def test_missing_paths(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        find_model(spec)


def test_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither model\.toml nor model\.onnx"):
        find_model(tmp_path)


def test_a_broken_manifest_does_not_hide_the_others(no_models: Folders) -> None:
    write_yuv_model(no_models[0] / "m")
    replaced(write_yuv_model(no_models[0] / "s"), 'version = "1.0"', "version = 1")
    models, errors = find_models()
    assert [m.name for m in models] == ["m"]
    assert len(errors) == 1
    with pytest.raises(ModelError, match="version"):
        find_model("s")


def test_card(yuv_model: Path) -> None:
    model = find_model(yuv_model)
    assert model.card() == ""
    (yuv_model / "CARD.md").write_text("# Tiny\n")
    assert model.card() == "# Tiny\n"


# Bare graphs


def bare(path: Path, graph: bytes) -> Model:
    path.write_bytes(graph)
    return find_model(path)


def test_bare_yuv_graph(tmp_path: Path) -> None:
    manifest = bare(tmp_path / "a student.onnx", yuv_graph()).manifest
    assert (manifest.name, manifest.layout, manifest.size_multiple) == ("a_student", Layout.YUV420, 8)
    assert manifest.strength_input
    assert [(s.input, s.output, s.shape, s.initial) for s in manifest.state] == [
        ("state", "state_out", (1, 96, "H/8", "W/8"), 0)
    ]


def test_bare_still_yuv_graph(tmp_path: Path) -> None:
    manifest = bare(tmp_path / "still.onnx", yuv_graph(state=False, strength=False)).manifest
    assert not manifest.strength_input
    assert not manifest.state


def test_bare_rgb_graph(tmp_path: Path) -> None:
    manifest = bare(tmp_path / "x.onnx", rgb_graph()).manifest
    assert (manifest.layout, manifest.size_multiple) == (Layout.RGB, 16)
    assert [(t.name, t.shape, t.dtype) for t in manifest.inputs] == [("picture", (1, 3, "H", "W"), "float32")]
    assert manifest.outputs[0].name == "sharp"


def test_bare_state_that_is_the_picture_before() -> None:
    last = Port("state_y", "uint8", (1, 1, "H", "W")), Port("state_uv", "uint8", (1, 2, "H/8", "W/8"))
    after = [Port(f"{port.name}_out", port.dtype, port.shape) for port in last]
    manifest = infer_manifest(Path("x.onnx"), [Y, UV, *last], [Y_OUT, UV_OUT, *after], "0" * 64)
    assert [state.initial for state in manifest.state] == ["y", 0]


def test_bare_state_of_what_a_student_added() -> None:
    added = Port("state_added_y", "uint8", (1, 1, "H", "W"))
    after = Port("state_added_y_out", "uint8", (1, 1, "H", "W"))
    manifest = infer_manifest(Path("x.onnx"), [Y, UV, added], [Y_OUT, UV_OUT, after], "0" * 64)
    assert [state.initial for state in manifest.state] == [128]


PICTURE = Port("x", "float32", (1, 3, "h", "w"))
Y, UV = Port("y", "uint8", (1, 1, "H", "W")), Port("uv", "uint8", (1, 2, "H/2", "W/2"))
Y_OUT, UV_OUT = Port("y_out", "uint8", Y.shape), Port("uv_out", "uint8", UV.shape)


@pytest.mark.parametrize(
    "inputs",
    [
        [Port("tokens", "int64", (1, "n"))],
        [PICTURE, Port("mask", "float32", (1, 1, "h", "w"))],
        [Port("x", "float32", (1, 1, "h", "w"))],
        [Port("x", "uint8", (1, 3, "h", "w"))],
        [Port("x", "float32", (1, "h", "w", 3))],
        [Y],
        [Port("y", "float32", Y.shape), Port("uv", "float32", UV.shape)],
    ],
)
def test_graphs_that_cannot_be_fed_say_what_they_are(inputs: list[Port]) -> None:
    with pytest.raises(ModelError) as caught:
        infer_manifest(Path("x.onnx"), inputs, [PICTURE], "0" * 64)
    assert all(f"{p.name} {p.dtype}" in str(caught.value) for p in inputs)
    assert "(1,3,H,W)" in caught.value.hint


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        (
            [Port("h", "uint8", (1, 4, "a", "b"))],
            [Port("h_out", "uint8", (1, 4, "a", "b"))],
            "cannot tell what",
        ),
        ([Port("h", "int64", (1, 4))], [Port("h_out", "int64", (1, 4))], "cannot tell what"),
        ([Port("h", "uint8", (1, 4, "H/8", "W/8"))], [], "no output h_out"),
        ([], [Port("extra", "uint8", (1,))], "promises"),
    ],
)
def test_yuv_graphs_with_something_strange(inputs: list[Port], outputs: list[Port], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        infer_manifest(Path("x.onnx"), [Y, UV, *inputs], [Y_OUT, UV_OUT, *outputs], "0" * 64)


def test_manifest_that_does_not_fit_its_graph(tmp_path: Path) -> None:
    """Refused when it is loaded: a wrong promise would be found out only by looking at the picture."""
    from sharpcam.engine import Engine

    for name, fields, text in (
        ("no-strength", {"strength_input": False}, None),
        ("no-state", {"strength_input": True}, ""),
        ("other-state", {"strength_input": True}, '[[state]]\ninput="h"\noutput="h_out"\nshape=[1]\n'),
        (
            "half-state",
            {"strength_input": True},
            '[[state]]\ninput="state"\noutput="state_out"\nshape=[1,48,"H/8","W/8"]\n',
        ),
        ("rgb", {"layout": "rgb", "strength_input": True}, None),
    ):
        folder = write_yuv_model(tmp_path / name, **fields)
        if text is not None:
            shutil.rmtree(folder)
            write_model(folder, yuv_graph(), text, **fields)
        with pytest.raises(ModelError, match="promises") as caught:
            Engine.load(folder, (64, 48), "cpu", 1)
        assert "\n" not in str(caught.value)


def test_not_an_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        bare(tmp_path / "x.onnx", b"hello")
