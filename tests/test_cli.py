"""The command line, run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from allcnn_zoo.cli import main

from .conftest import EXAMPLES
from .neon.writer import neon_file, python2_pickle

CAT, SHIP = str(EXAMPLES / "cat.png"), str(EXAMPLES / "ship.png")


@pytest.fixture
def legacy(tmp_path) -> Path:
    path = tmp_path / "old.p"
    path.write_bytes(python2_pickle(neon_file()))
    return path


@pytest.fixture
def run(capsys):
    """Run a command; gives its status, its output (parsed if JSON was asked for), its errors."""

    def run(*words: object):
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        out = json.loads(captured.out) if "--json" in words and status == 0 else captured.out
        return status, out, captured.err

    return run


def test_convert_writes_a_file_that_loads(run, legacy, tmp_path) -> None:
    status, out, _ = run("convert", legacy, tmp_path / "new.safetensors")
    assert status == 0
    assert "new.safetensors" in out
    assert "dropout_folded" in out
    status, out, _ = run("predict", "--weights", tmp_path / "new.safetensors", CAT)
    assert status == 0
    assert "cat.png" in out


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_name_that_the_terminal_cannot_show_is_no_error(words, tmp_path) -> None:
    picture = tmp_path / "猫.png"
    picture.write_bytes(Path(CAT).read_bytes())
    command = [sys.executable, "-m", "allcnn_zoo", "predict", "--weights", "cifar10_best"]
    done = subprocess.run(
        [*command, picture, *words],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=True,
    )
    if words:
        assert json.loads(done.stdout)["images"][0]["image"] == str(picture)
    else:
        assert b"\\u732b.png" in done.stdout


def test_convert_reports_for_machines(run, legacy, tmp_path) -> None:
    destination = tmp_path / "new.safetensors"
    _, report, _ = run("convert", legacy, destination, "--keep-padding", "--json")
    assert report["file"] == str(destination)
    assert report["bytes"] == destination.stat().st_size
    assert report["padding_outputs_dropped"] == 0


def test_predict_takes_a_neon_file_and_says_which_weights_it_used(run, legacy) -> None:
    status, report, _ = run("predict", "--weights", legacy, CAT, SHIP, "--top-k", 2, "--json")
    assert status == 0
    assert [image["image"] for image in report["images"]] == [CAT, SHIP]
    assert all(len(image["top"]) == 2 for image in report["images"])
    assert report["weights"]["tag"].startswith("neon-")


def test_eval_measures_on_the_test_images(run, legacy, small_cifar10) -> None:
    status, report, _ = run("eval", "--weights", legacy, "--data", small_cifar10, "--json")
    assert status == 0
    assert report["images"] == 20
    assert 0 <= report["accuracy"] <= 1
    assert sum(map(sum, report["confusion"])) == 20
    status, out, _ = run("eval", "--weights", legacy, "--data", small_cifar10, "--split", "train")
    assert status == 0
    assert "100 (train)" in out


def test_list_shows_every_network(run) -> None:
    _, out, _ = run("list")
    assert "convpool_cnn_b" in out
    assert "neon_e350 (89.5 %)" in out
    _, report, _ = run("list", "*_c", "--json")
    assert report["allcnn_c"][0]["tag"] == "neon_e350"


def test_inspect_tells_a_neon_model_from_our_weights_and_from_danger(run, legacy, tmp_path) -> None:
    _, report, _ = run("inspect", legacy, "--json")
    assert report["kind"] == "neon model"
    assert report["neon_version"] == "2.3.0"
    assert report["globals"] == [
        "numpy.core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
    ]
    run("convert", legacy, tmp_path / "new.safetensors")
    _, report, _ = run("inspect", tmp_path / "new.safetensors", "--json")
    assert report["architecture"]["name"] == "allcnn_c"
    assert len(report["tensors"]) == 18
    (tmp_path / "evil.p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    status, report, _ = run("inspect", tmp_path / "evil.p", "--json")
    assert status == 0
    assert report["verdict"] == "refused"
    assert report["globals"] == ["os.system"]
    for path in (legacy, tmp_path / "new.safetensors", tmp_path / "evil.p"):
        status, out, _ = run("inspect", path)
        assert status == 0
        assert path.name in out


def test_data_counts_what_is_there(run, small_cifar10) -> None:
    _, report, _ = run("data", "--data", small_cifar10, "--json")
    assert (report["train"], report["test"]) == (100, 20)


def test_whiten_fit_writes_statistics(run, small_cifar10, tmp_path) -> None:
    _, report, _ = run(
        "whiten", "fit", tmp_path / "w.safetensors", "--data", small_cifar10, "--json"
    )
    assert report["count"] == 100
    assert report["bytes"] == (tmp_path / "w.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "nothing.png", "--weights", "LEGACY"], "nothing.png"),
        (["predict", CAT, "--weights", "nothing.p"], "nothing.p"),
        (["predict", CAT, "--weights", "neon_e350"], "ALLCNN_ZOO_OFFLINE"),
        (["predict", CAT, "--weights", "LEGACY", "--device", "warp"], "warp"),
        (["eval", "--data", "nowhere"], "--download"),
        (["convert", "nothing.p", "x.safetensors"], "nothing.p"),
        (["convert", "LEGACY", "no/such/folder/x.safetensors"], "no/such/folder"),
        (["inspect", "nothing.p"], "nothing.p"),
        (["data", "--data", "nowhere"], "nowhere"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(run, legacy, words, message) -> None:
    status, out, err = run(*(legacy if word == "LEGACY" else word for word in words))
    assert status == 1
    assert out == ""
    assert err.startswith("allcnn-zoo: error: ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["predict"], ["predict", CAT, "--batch-size", "0"], ["list", "--jso"]]
)
def test_wrong_usage_exits_with_2(words, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert "usage:" in capsys.readouterr().err


def shell(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=100,
        check=False,
    )


def test_the_module_runs_like_the_command() -> None:
    done = shell("-m", "allcnn_zoo", "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("allcnn-zoo ")


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, contextlib\nfrom allcnn_zoo.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "assert not {'torch', 'numpy', 'requests', 'PIL'} & sys.modules.keys()"
    )
    done = shell("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", [["list"], ["cache", "ls"], ["data", "--data", "SET"], ["inspect", "SET/test_batch"]]
)
def test_what_runs_no_network_waits_for_no_pytorch(command, small_cifar10) -> None:
    folder = next(small_cifar10.rglob("test_batch")).parent
    words = [word.replace("SET", str(folder)) for word in command]
    code = (
        f"import sys\nfrom allcnn_zoo.cli import main\nassert main({words!r}) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = shell("-c", code)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_needs_no_heavy_library() -> None:
    code = (
        "import sys, allcnn_zoo\n"
        "assert not {'torch', 'numpy', 'requests', 'PIL', 'safetensors'} & sys.modules.keys()\n"
        "assert 'allcnn_c' in dir(allcnn_zoo)"
    )
    done = shell("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_whole_public_face_is_there() -> None:
    import allcnn_zoo

    for name in allcnn_zoo.__all__:
        assert getattr(allcnn_zoo, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = allcnn_zoo.nonsense


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """The published key under a mirror, and the cache filled from it."""
    path = tmp_path / "mirror" / "cifar10_allcnn" / "cifar10_allcnn_e350.p"
    path.parent.mkdir(parents=True)
    path.write_bytes(python2_pickle(neon_file()))
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(tmp_path / "mirror"))
    return path


def test_download_prepares_a_machine_without_a_network(run, mirror, monkeypatch) -> None:
    _, report, _ = run("download", "neon_e350", "--json")
    assert Path(report["neon_e350"]).is_file()
    monkeypatch.delenv("ALLCNN_ZOO_MIRRORS")
    status, out, _ = run("predict", "--weights", "neon_e350", CAT)
    assert status == 0
    assert "neon_e350" in out


def test_the_cache_can_be_listed_verified_and_emptied(run, mirror, private_environment) -> None:
    _, out, _ = run("cache", "path")
    assert out.strip() == str(private_environment)
    run("download", "neon_e350")
    _, entries, _ = run("cache", "ls", "--json")
    keys = [entry["key"] for entry in entries]
    assert "cifar10_allcnn/cifar10_allcnn_e350.p" in keys
    assert len(keys) == 2
    status, out, _ = run("cache", "ls")
    assert "2 files" in out
    status, report, _ = run("cache", "verify", "--json")
    assert status == 0
    assert all(entry["intact"] for entry in report)
    _, freed, _ = run("cache", "rm", "cifar10_allcnn/cifar10_allcnn_e350.p", "--json")
    assert freed["freed_bytes"] == sum(entry["size"] for entry in entries)
    assert run("cache", "ls", "--json")[1] == []
    assert run("cache", "prune", "--json")[1] == {"freed_bytes": 0}


def test_damage_in_the_cache_is_found(run, mirror) -> None:
    run("download", "neon_e350")
    _, entries, _ = run("cache", "ls", "--json")
    with Path(entries[0]["path"]).open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    status, out, err = run("cache", "verify")
    assert status == 1
    assert "DAMAGED" in out
    assert entries[0]["key"] in err


def test_a_changed_publication_is_an_error_until_it_is_trusted(run, mirror) -> None:
    run("download", "neon_e350")
    run("cache", "rm", "cifar10_allcnn/cifar10_allcnn_e350.p")
    mirror.write_bytes(python2_pickle(neon_file(widths=(3, 4))))
    status, _, err = run("download", "neon_e350")
    assert status == 1
    assert "--trust-new" in err
    status, _, _ = run("download", "neon_e350", "--trust-new")
    assert status == 0
