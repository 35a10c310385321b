"""The command line, run as a user runs it."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from allcnn_zoo import CIFAR100, Preprocessor, load
from allcnn_zoo.cli import main
from allcnn_zoo.from_neon import convert_neon

from .conftest import EXAMPLES, KEY
from .neon.writer import neon_file, python2_pickle

CAT, SHIP = str(EXAMPLES / "cat.png"), str(EXAMPLES / "ship.png")


@pytest.fixture(scope="module")
def legacy(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("legacy") / "old.p"
    path.write_bytes(python2_pickle(neon_file()))
    return path


@pytest.fixture(scope="module")
def weights(legacy, tmp_path_factory) -> Path:
    """The same, converted."""
    path = tmp_path_factory.mktemp("weights") / "new.safetensors"
    convert_neon(legacy, path)
    return path


def test_convert_writes_a_file_that_loads(run, legacy, tmp_path) -> None:
    destination = tmp_path / "new.safetensors"
    _, report, _ = run("convert", legacy, destination, "--keep-padding", "--json")
    assert report["file"] == str(destination)
    assert report["bytes"] == destination.stat().st_size
    assert report["padding_outputs_dropped"] == 0
    status, out, _ = run("convert", legacy, destination)
    assert status == 0
    assert "new.safetensors" in out
    assert "dropout_folded" in out
    assert not re.search(r"[][{}]", out.replace(str(tmp_path), ""))  # nested facts are lines
    status, out, _ = run("predict", "--weights", destination, CAT)
    assert status == 0
    assert "cat.png" in out


def test_a_name_that_the_terminal_cannot_show_is_no_error(legacy, tmp_path) -> None:
    file = tmp_path / "猫.p"
    file.write_bytes(legacy.read_bytes())
    done = subprocess.run(
        command("inspect", str(file)),
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=True,
    )
    assert b"\\u732b.p" in done.stdout


def test_predict_takes_a_neon_file_and_says_which_weights_it_used(run, legacy) -> None:
    status, report, _ = run("predict", "--weights", legacy, CAT, SHIP, "--top-k", 2, "--json")
    assert status == 0
    assert [image["image"] for image in report["images"]] == [CAT, SHIP]
    assert all(len(image["top"]) == 2 for image in report["images"])
    assert report["weights"]["tag"].startswith("neon-")


def test_predict_takes_folders_globs_and_standard_input(
    run, weights, tmp_path, monkeypatch
) -> None:
    (tmp_path / "some [1]").mkdir()
    for name in ("b.png", "a.png"):
        (tmp_path / "some [1]" / name).write_bytes(Path(CAT).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(Path(SHIP).read_bytes())))
    words = ("some [1]", "-", "*/b.png", "**/a.png", "some [1]/a.png")
    status, report, err = run("predict", "--weights", weights, *words, "--json")
    assert (status, err) == (0, "")
    assert [image["image"] for image in report["images"]] == [
        "some [1]/a.png", "some [1]/b.png", "-", "some [1]/b.png", "some [1]/a.png",
        "some [1]/a.png",
    ]  # fmt: skip
    assert (report["engine"], report["precision"]) == ("torch", "float32")


def test_a_tilde_that_no_shell_replaced_is_the_home_folder(
    run, weights, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(CAT, tmp_path / "cat.png")
    shutil.copy(weights, tmp_path / "w.safetensors")
    status, _, err = run("explain", "~/cat.png", "--out=~/maps", "--weights=~/w.safetensors")
    assert (status, err) == (0, "")
    assert (tmp_path / "maps" / "cat-guided.png").is_file()
    assert run("predict", "~/*.png", "--weights", weights)[0] == 0
    assert run("inspect", "~/w.safetensors")[0] == 0
    assert not (tmp_path / "~").exists()


def test_one_bad_file_does_not_lose_the_others(run, weights, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("bad", "no\x1bimage"):
        (tmp_path / "a" / f"{name}.png").write_bytes(b"nonsense")
    words = ("predict", "--weights", weights, CAT, tmp_path / "a", "*.nothing", SHIP)
    status, out, err = run(*words)
    assert status == 1
    assert "cat.png" in out
    assert "ship.png" in out
    assert "images left out: 3" in err
    assert err.count("*.nothing") == 1
    assert all(name in err for name in ("bad.png", "no\\x1bimage.png", "*.nothing"))
    status, out, _ = run(*words, "--json")
    assert status == 1
    assert len(json.loads(out)["images"]) == 2
    status, out, err = run("predict", "--weights", weights, tmp_path / "a")
    assert (status, out) == (1, "")
    assert "none of the images can be read" in err


def test_eval_takes_a_folder_with_a_subfolder_for_each_class(run, tmp_path) -> None:
    for name in ("cat", "ship", "Frog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            picture = (EXAMPLES / f"{name.lower()}.png").read_bytes()
            (tmp_path / name / f"{number}.png").write_bytes(picture)
    weights = ("--weights", "cifar10_best")
    _, report, _ = run("eval", tmp_path, *weights, "--json")
    assert (report["images"], report["folder"]) == (6, str(tmp_path))
    assert report["per_class"]["frog"] == report["per_class"]["ship"] == 1.0
    (tmp_path / "ship" / "bad.png").write_bytes(b"nonsense")
    status, out, err = run("eval", tmp_path, *weights)
    assert (status, "bad.png" in err) == (1, True)
    (row,) = (line.split() for line in out.splitlines() if line.startswith("ship"))
    assert row == ["ship", "100.00%", *"00000000", "2", "0"]
    assert re.search(r"^dog +- +0 ", out, re.MULTILINE)  # a class without images
    status, _, err = run("eval", tmp_path, *weights, "--limit", 3)
    assert (status, err) == (0, "")
    (tmp_path / "shipp").mkdir()
    status, out, err = run("eval", tmp_path, *weights)
    assert (status, out) == (1, "")
    assert "did you mean 'ship'" in err


def test_eval_measures_on_the_test_images(run, weights, small_cifar10) -> None:
    words = ("eval", "--weights", weights, "--data", small_cifar10)
    status, report, _ = run(*words, "--json")
    assert status == 0
    assert report["images"] == 20
    assert 0 <= report["accuracy"] <= 1
    assert sum(map(sum, report["confusion"])) == 20
    status, out, _ = run(*words, "--split", "train", "--limit", 7)
    assert status == 0
    assert "7 (train)" in out


def test_eval_measures_on_the_data_set_that_has_the_classes(run, small_cifar10, tmp_path) -> None:
    data = ("--data", small_cifar10)
    _, report, _ = run("eval", "--weights", "allcnn_c.cifar100", *data, "--json")
    labels = CIFAR100(small_cifar10).test.labels
    assert [sum(row) for row in report["confusion"]] == np.bincount(labels, minlength=100).tolist()
    model = load("cifar10_plain")
    model.save(tmp_path / "own.safetensors", classes=[f"kind {n}" for n in range(10)], tag="own")
    status, _, err = run("eval", "--weights", tmp_path / "own.safetensors", *data)
    assert (status, "give a FOLDER" in err) == (1, True)


def test_list_shows_every_network(run) -> None:
    _, out, _ = run("list")
    assert "convpool_cnn_b" in out
    assert re.search(r"neon_e350 .* 89.50 % +no +90.92 %", out)
    _, report, _ = run("list", "*_c", "--json")
    assert report["allcnn_c"][0]["tag"] == "neon_e350"


def test_inspect_tells_a_neon_model_from_our_weights_and_from_danger(
    run, legacy, weights, tmp_path
) -> None:
    _, report, _ = run("inspect", legacy, "--json")
    assert report["kind"] == "neon model"
    assert report["neon_version"] == "2.3.0"
    assert report["globals"] == [
        "numpy.core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
    ]
    _, report, _ = run("inspect", weights, "--json")
    assert report["architecture"]["name"] == "allcnn_c"
    assert len(report["tensors"]) == 19
    for path in (legacy, weights):
        status, out, _ = run("inspect", path)
        assert status == 0
        assert path.name in out
    (tmp_path / "evil.p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    status, out, err = run("inspect", tmp_path / "evil.p", "--json")
    report = json.loads(out)
    assert (status, report["verdict"], report["globals"]) == (1, "refused", ["os.system"])
    assert report["refusal"] in err


def test_inspect_takes_the_tags_of_published_weights(run, mirrored) -> None:
    for tag in ("cifar10_best", "neon_e350"):
        status, report, _ = run("inspect", tag, "--json")
        assert (status, report["kind"]) == (0, "weights of allcnn_zoo")


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_inspect_reads_the_safetensors_of_any_program(run, tmp_path, name) -> None:
    tensors = {"a": np.zeros((2, 3), np.int32), "b": np.zeros(5, np.float16)}
    save_file(tensors, tmp_path / name, {"format": "np\x1b[2J"})
    status, report, _ = run("inspect", tmp_path / name, "--json")
    assert (status, report["metadata"]) == (0, {"format": "np\x1b[2J"})
    assert [(row["dtype"], row["shape"], row["bytes"]) for row in report["tensors"]] == [
        ("int32", [2, 3], 24),
        ("float16", [5], 10),
    ]
    status, out, _ = run("inspect", tmp_path / name)
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("size", [ord("<"), int.from_bytes(b"#!", "little")])
def test_the_size_of_a_header_is_not_taken_for_text(run, tmp_path, size) -> None:
    header = b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'.ljust(size)
    (tmp_path / "x.bin").write_bytes(size.to_bytes(8, "little") + header)
    status, report, _ = run("inspect", tmp_path / "x.bin", "--json")
    assert (status, report["tensors"][0]["name"]) == (0, "a")


@pytest.mark.parametrize("metadata", [None, [], {"a": 5}])
def test_a_damaged_header_is_an_error_that_names_the_file(run, tmp_path, metadata) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    status, out, err = run("inspect", tmp_path / "x.safetensors")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "x.safetensors" in err


@pytest.mark.parametrize("suffix", [".p", ".safetensors"])
def test_inspect_names_a_file_of_another_kind(run, tmp_path, suffix) -> None:
    path = tmp_path / f"x{suffix}"
    for head, kind in (
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"PK\x03\x04", "a zip archive"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x7fELF\x02", "a program"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP image"),
    ):
        path.write_bytes(head.ljust(600, b"\0"))
        status, out, err = run("inspect", path)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert kind in err


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder where nobody may write")
def test_a_temporary_name_is_in_no_message(run, legacy) -> None:
    status, _, err = run("convert", legacy, "/proc/x.safetensors")
    assert (status, err.count("\n")) == (1, 1)
    assert "/proc/x.safetensors" in err
    assert ".tmp" not in err


def test_data_counts_and_whiten_fit_writes_statistics(
    run, small_cifar10, tmp_path, monkeypatch
) -> None:
    fitted_on = []

    def fit(images) -> Preprocessor:  # the real one takes seconds
        fitted_on.append(images.shape)
        return Preprocessor.shipped()

    monkeypatch.setattr(Preprocessor, "fit", fit)
    _, counts, _ = run("data", "--data", small_cifar10, "--json")
    assert (counts["train"], counts["test"]) == (100, 20)
    destination = tmp_path / "statistics"  # any name will do
    _, report, _ = run("whiten", "fit", destination, "--data", small_cifar10, "--json")
    assert fitted_on == [(100, 3, 32, 32)]
    assert report["bytes"] == destination.stat().st_size
    assert report["count"] == Preprocessor.load(destination).fitted_with.count


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("predict nothing.png --weights LEGACY", "nothing.png"),
        (f"predict {CAT} --weights nothing.p", "nothing.p"),
        (f"predict {CAT} --weights neon_e350", "ALLCNN_ZOO_OFFLINE"),
        (f"predict {CAT} --weights LEGACY --device warp", "warp"),
        ("eval --weights cifar10_plain --data nowhere", "--download"),
        ("convert nothing.p x.safetensors", "nothing.p"),
        ("inspect nothing.p", "nothing.p"),
        ("data --data nowhere", "nowhere"),
        # Destinations of no use are refused before any work.
        ("convert LEGACY new.pt", "ends in .safetensors"),
        ("convert LEGACY new", "ends in .safetensors"),
        ("export new.bin", "ends in .onnx or .pt2"),
        ("whiten fit folder.safetensors", "not a regular file"),
        ("bench --out new.jpg", "ends in .png"),
        ("convert LEGACY fifo.safetensors", "not a regular file"),
        ("convert LEGACY folder.safetensors", "not a regular file"),
        ("export fifo.onnx", "not a regular file"),
        ("bench --out no/such/folder/new.png", "there is no folder no/such/folder"),
        ("convert LEGACY file/new.safetensors", "there is no folder file"),
        (f"explain {CAT} --out file", "not a folder"),
        ("train --out file", "not a folder"),
        ("convert LEGACY -", "not supported here"),
        ("export -", "not supported here"),
        ("whiten fit -", "not supported here"),
        ("bench --out -", "not supported here"),
        (f"explain {CAT} --out -", "not a folder"),
        ("features --out -", "not a folder"),
        ("train --out -", "not a folder"),
    ],
)
def test_an_error_is_one_message_and_leaves_nothing(
    run, legacy, tmp_path, monkeypatch, words, message
) -> None:
    (tmp_path / "here").mkdir()  # beside the cache
    monkeypatch.chdir(tmp_path / "here")
    os.mkfifo("fifo.safetensors")
    os.mkfifo("fifo.onnx")
    Path("folder.safetensors").mkdir()
    Path("file").touch()
    before = sorted(Path().iterdir())
    status, out, err = run(*(legacy if word == "LEGACY" else word for word in words.split()))
    assert (status, out) == (1, "")
    assert err.count("\n") == (4 if "neon_e350" in words else 1)  # its sources have a line each
    assert err.startswith("allcnn-zoo: error: ")
    assert message in err
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        [], ["fly"], ["predict"], ["predict", CAT, "--batch-size", "0"], ["list", "--jso"],
        ["predict", ""], ["predict", CAT, "--weights="], ["explain", CAT, "--out", ""],
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2(words, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert "usage:" in capsys.readouterr().err


def status_of(words: Sequence[str]) -> object:
    try:
        return main(words)
    except SystemExit as wrong_usage:
        return wrong_usage.code


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["pred"], "predict"),
        (["PREDICT"], "predict"),
        (["cache", "lss"], "ls"),
        (["predict", CAT, "--engine", "Torch"], "torch"),
        (["predict", CAT, "--weights", "AllCNN_C"], "allcnn_c"),
        (["download", "NEON_E350"], "neon_e350"),
    ],
)
def test_a_word_that_is_nearly_right_brings_a_suggestion(words, hint, capsys) -> None:
    assert status_of(words) in (1, 2)
    assert f"did you mean {hint!r}?" in capsys.readouterr().err


HOSTILE = "a\x1b[2J\u202e\u2028\nb"


@pytest.mark.parametrize(
    "words",
    [
        ("predict", CAT, "--weights", "cifar10_best", f"{HOSTILE}.png"),
        ("predict", CAT, "--weights", f"{HOSTILE}.safetensors"),
        ("predict", CAT, "--weights", HOSTILE * 10_000),
        ("inspect", HOSTILE),
        ("convert", HOSTILE, "x.safetensors"),
        ("convert", CAT, HOSTILE),
        ("eval", "--weights", "cifar10_plain", "--data", HOSTILE),
        ("download", HOSTILE),
        ("cache", "rm", HOSTILE),
        (HOSTILE,),
        ("list", f"--{HOSTILE}"),
    ],
)
def test_a_hostile_name_reaches_no_terminal(words, capsys) -> None:
    assert status_of(words) in (1, 2) or words[0] == "cache"
    captured = capsys.readouterr()
    assert all(map(str.isprintable, (captured.out + captured.err).split("\n")))
    assert len(captured.err.splitlines()) < 12
    assert len(captured.err) < 6000


def test_hostile_names_of_files_are_shown_escaped(run, legacy, tmp_path) -> None:
    destination = tmp_path / f"{HOSTILE}.safetensors"
    for words in (("convert", legacy, destination), ("inspect", destination)):
        status, out, _ = run(*words)
        assert status == 0
        assert "a\\x1b[2J\\u202e\\u2028\\nb.safetensors" in out
        assert all(map(str.isprintable, out.split("\n")))


def test_json_has_no_numbers_that_json_does_not_have(run, monkeypatch) -> None:
    facts = {"a": float("nan"), "b": [float("inf"), (1.5, -float("inf"))], "NaN": "NaN"}
    monkeypatch.setattr("allcnn_zoo.cli.files.facts_of", lambda _: facts)
    _, report, _ = run("inspect", CAT, "--json")
    assert report == {"file": CAT, "a": None, "b": [None, [1.5, None]], "NaN": "NaN"}


def test_reports_name_the_weights_without_their_training_recipe(run) -> None:
    _, report, _ = run("predict", "--weights", "cifar10_best", CAT, "--json")
    assert report["weights"]["tag"] == "cifar10_best"
    assert "commit" in report["weights"]["provenance"]
    assert "recipe" not in report["weights"]["provenance"]


def test_bash_completes_commands_options_and_actions() -> None:
    script = f"""
        eval "$({sys.executable} -m allcnn_zoo completion)"
        try() {{
            COMP_WORDS=(allcnn-zoo "$@"); COMP_CWORD=$#; _allcnn_zoo; echo "${{COMPREPLY[*]}}"
        }}
        try pre; try cache v; try predict x.png --pre; try whiten fit --da"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["predict", "verify", "--precision", "--dataset --data", ""]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "allcnn_zoo", *words]


@pytest.mark.parametrize("words", ["--help", "list"])
def test_a_reader_that_has_seen_enough_is_no_error(words) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(words), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("redirection", "status"),
    [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("> /dev/full", 1), ("> /dev/full 2>&1", 1)],
)
def test_streams_that_are_closed_or_full_do_not_end_in_a_traceback(redirection, status) -> None:
    script = f"{shlex.join(command('list'))} {redirection}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null"])
def test_standard_input_without_a_picture_is_an_error_of_one_line(redirection, weights) -> None:
    script = f"{shlex.join(command('predict', '-', '--weights', str(weights)))} {redirection}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "cannot read an image" in done.stderr


def test_ctrl_c_is_130_and_one_line(run, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("allcnn_zoo.cli.files.facts_of", interrupted)
    assert run("inspect", CAT) == (130, "", "allcnn-zoo: interrupted\n")


def test_what_answers_at_once_needs_no_heavy_library(small_cifar10) -> None:
    folder = next(small_cifar10.rglob("test_batch")).parent
    code = f"""
import contextlib, sys
def answers(heavy, *words):
    with contextlib.suppress(SystemExit):
        assert main([*words]) == 0
    assert not heavy & sys.modules.keys(), words
import allcnn_zoo
assert "allcnn_c" in dir(allcnn_zoo)
from allcnn_zoo.cli import main
answers({{"torch", "numpy", "requests", "PIL", "safetensors"}}, "--help")
for words in (["list"], ["cache", "ls"], ["data", "--data", {str(folder)!r}],
              ["inspect", {str(folder / "test_batch")!r}]):
    answers({{"torch"}}, *words)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def mirrored(mirror, monkeypatch) -> Path:
    """The published file in a mirror that is asked first."""
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(mirror))
    return mirror / KEY


def test_download_prepares_a_machine_without_a_network(run, mirrored, monkeypatch) -> None:
    _, report, _ = run("download", "neon_e350", "--json")
    assert Path(report["neon_e350"]).is_file()
    monkeypatch.delenv("ALLCNN_ZOO_MIRRORS")
    status, out, _ = run("predict", "--weights", "neon_e350", CAT)
    assert status == 0
    assert "neon_e350" in out


def test_the_cache_can_be_listed_verified_and_emptied(run, mirrored, private_environment) -> None:
    assert run("cache", "path")[1].strip() == str(private_environment)
    for name in ("neon_e350", "allcnn_c.neon_e350", KEY):
        run("download", "neon_e350")
        _, entries, _ = run("cache", "ls", "--json")
        assert KEY in [entry["key"] for entry in entries]
        assert len(entries) == 2
        status, report, _ = run("cache", "verify", "--json")
        assert status == 0
        assert all(entry["intact"] for entry in report)
        assert "2 files" in run("cache", "ls")[1]
        _, freed, _ = run("cache", "rm", name, "--json")
        assert freed["freed_bytes"] == sum(entry["size"] for entry in entries)
    status, _, err = run("cache", "rm", "cifar10_best")
    assert (status, "comes with the package" in err) == (1, True)
    assert run("cache", "ls", "--json")[1] == []
    assert run("cache", "prune", "--json")[1] == {"freed_bytes": 0}


def test_damage_is_found_and_a_changed_publication_is_an_error_until_it_is_trusted(
    run, mirrored
) -> None:
    run("download", "neon_e350")
    _, entries, _ = run("cache", "ls", "--json")
    with Path(entries[0]["path"]).open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    status, out, err = run("cache", "verify")
    assert status == 1
    assert "DAMAGED" in out
    assert entries[0]["key"] in err
    run("cache", "rm", KEY)
    mirrored.write_bytes(python2_pickle(neon_file(widths=(3, 4))))
    status, _, err = run("download", "neon_e350")
    assert status == 1
    assert "--trust-new" in err
    assert run("download", "neon_e350", "--trust-new")[0] == 0
