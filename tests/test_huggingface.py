"""Hugging Face's format: folders without a network, the Hub as a server on the loopback."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import itertools
import json
import re
import sys
import threading
from http import HTTPStatus
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import allcnn_zoo
from allcnn_zoo import AllCNN, Architecture, Classifier, Metadata, huggingface
from allcnn_zoo.cli import main
from allcnn_zoo.errors import CheckpointError, HubError, OfflineError

from .conftest import EXAMPLES

TOKEN = "hf_write"
NUMBERS = itertools.count()
BUNDLED = allcnn_zoo.download("cifar10_best")
SMALL = Architecture(widths=(4, 6), num_classes=3)
FILES = {"model.safetensors", "config.json", "README.md"}


class Hub(http.server.ThreadingHTTPServer):
    """As much of the Hugging Face Hub's protocol as downloads and commits need.

    Repositories are dictionaries of files; a commit is a digest of them, "main" the last one.
    Writing needs the token, and so does reading what is private.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []

    def commit_of(self, repo: str) -> str:
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        pattern = r"(/api/models)?/(\w+/\w+)(/resolve/([^/]+)/(.+)|/.*|\?.*)?"
        asked = re.fullmatch(pattern, self.path)
        repo, revision, name = asked.group(2, 4, 5)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo not in self.server.repos or (repo in self.server.private and not allowed):
            return self.refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        commit = revision if revision not in (None, "main") else self.server.commit_of(repo)
        if asked[1]:
            return self.answer({"id": repo, "sha": commit, "siblings": []})
        latest = {self.server.commit_of(repo): self.server.repos[repo]}
        files = (self.server.commits | latest).get(commit)
        if files is None:
            return self.refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        if name not in files:
            return self.refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", commit)
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(files[name], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/api/validate-yaml":
            self.answer({})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(HTTPStatus.UNAUTHORIZED, "")
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif "/preupload/" in self.path:
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{**file, **mode} for file in json.loads(body)["files"]]})
        elif commit := re.fullmatch(r"/api/models/(\w+/\w+)/commit/main", self.path):
            self.commit(commit[1], [json.loads(line) for line in body.splitlines()])

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":  # as huggingface_hub 0.34 commits
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def create(self, asked: dict) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        status = HTTPStatus.CONFLICT if repo in self.server.repos else HTTPStatus.OK
        self.server.repos.setdefault(repo, {})
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(repo)
        self.answer({"url": f"{self.server.url}/{repo}"}, status=status)

    def commit(self, repo: str, lines: list[dict]) -> None:
        for line in lines:
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.repos[repo][line["value"]["path"]] = content
        commit = self.server.commit_of(repo)
        self.server.commits[commit] = dict(self.server.repos[repo])
        url = f"{self.server.url}/{repo}/commit/{commit}"
        self.answer({"commitUrl": url, "commitOid": commit})

    def refuse(self, status: HTTPStatus, code: str, commit: str = "") -> None:
        self.answer({}, {"X-Error-Code": code, "X-Repo-Commit": commit}, status)

    def answer(
        self, content: object, headers: dict[str, str] | None = None, status: int = HTTPStatus.OK
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def new_process(**variables: str):
    """huggingface_hub as a new process would import it: it reads its variables only then."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            patch.delitem(sys.modules, name)
        yield


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory):
    pytest.importorskip("huggingface_hub")
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with new_process(
        HF_ENDPOINT=server.url,
        HF_HOME=str(tmp_path_factory.mktemp("hf")),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    ):
        yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(running_hub, monkeypatch) -> Hub:
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    running_hub.requests.clear()
    return running_hub


@pytest.fixture
def repo() -> str:
    """A repository that no other test uses."""
    return f"somebody/repo{next(NUMBERS)}"


@pytest.fixture
def model() -> AllCNN:
    torch.manual_seed(0)
    model = AllCNN(SMALL).eval()
    model.weights = Metadata("mine", SMALL, ("a", "b", "c"), metrics={"test": {"accuracy": 0.5}})
    return model


@pytest.fixture
def bundled() -> AllCNN:
    return allcnn_zoo.load("cifar10_best")


def front_matter(card: str) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(card.split("---\n")[1])


# Folders


def test_a_folder_holds_weights_config_and_card_and_needs_no_package(
    model, tmp_path, monkeypatch, noise
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = "~/new/folder"
    huggingface.save_pretrained(model, Path(folder), licence="apache-2.0")
    written = {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").iterdir()}
    assert written.keys() == FILES
    assert written["model.safetensors"] == model.to_bytes(model.weights)
    config = json.loads(written["config.json"])
    assert config["architecture"]["name"] == "allcnn_c"
    assert config["num_classes"] == 3
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert config["label2id"] == {"a": 0, "b": 1, "c": 2}
    assert config["preprocessing"]["name"] == "cifar10_gcn_zca"
    assert config["library_name"] == "allcnn_zoo"
    assert config["library_version"] == allcnn_zoo.__version__
    for loaded in (huggingface.from_pretrained(Path(folder)), allcnn_zoo.load(folder)):
        assert loaded.weights == model.weights
        assert not loaded.training
        assert torch.equal(loaded(noise(2, 3, 32, 32)), model(noise(2, 3, 32, 32)))


def test_the_card_states_licence_data_and_the_measured_accuracy(bundled, tmp_path) -> None:
    huggingface.save_pretrained(bundled, tmp_path, licence="apache-2.0")
    header = front_matter((tmp_path / "README.md").read_text())
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "allcnn_zoo"
    assert header["pipeline_tag"] == "image-classification"
    assert header["datasets"] == ["cifar10"]
    hub = pytest.importorskip("huggingface_hub")  # which understands the card
    (result,) = hub.ModelCard.load(tmp_path / "README.md").data.eval_results
    assert (result.dataset_type, result.metric_type) == ("cifar10", "accuracy")
    assert result.metric_value == bundled.weights.metrics["test"]["accuracy"]


def test_the_card_of_weights_for_cifar100_names_that_data_set() -> None:
    architecture = Architecture(num_classes=100, widths=(4, 6))
    metrics = {"test": {"accuracy": 0.5}}
    metadata = Metadata("hundred", architecture, allcnn_zoo.CIFAR100.classes, metrics=metrics)
    header = front_matter(huggingface._card(metadata, None, "owner/name"))
    assert header["datasets"] == ["cifar100"]
    assert header["model-index"][0]["results"][0]["dataset"]["name"] == "CIFAR-100"


def test_the_card_claims_nothing_that_is_not_known(model, tmp_path) -> None:
    model.weights = dataclasses.replace(model.weights, metrics={})
    huggingface.save_pretrained(model, tmp_path)
    header = front_matter((tmp_path / "README.md").read_text())
    assert not {"license", "datasets", "model-index", "metrics"} & header.keys()
    assert "None have been recorded" in (tmp_path / "README.md").read_text()


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_no_name_breaks_out_of_the_cards_header(name: str) -> None:
    architecture = Architecture(widths=(4, 6))
    metadata = Metadata(name, architecture, allcnn_zoo.get_weights("cifar10_best").classes)
    metadata = dataclasses.replace(metadata, metrics={"test": {"accuracy": 0.5}})
    header = front_matter(huggingface._card(metadata, name, "owner/name"))
    assert (header["license"], header["model-index"][0]["name"]) == (name, name)


def test_a_card_that_is_there_stays(model, tmp_path) -> None:
    (tmp_path / "README.md").write_text("my prose")
    huggingface.save_pretrained(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "my prose"


def test_weights_of_a_new_problem_take_their_own_description(bundled, tmp_path) -> None:
    bundled.reset_classifier(2)
    with pytest.raises(CheckpointError, match=r"metadata=Metadata"):
        huggingface.save_pretrained(bundled, tmp_path / "folder")
    metadata = Metadata("pets", bundled.architecture, ("cat", "dog"))
    huggingface.save_pretrained(bundled, tmp_path / "folder", metadata=metadata)
    assert huggingface.from_pretrained(tmp_path / "folder").weights.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: setattr(model, "weights", None), "no description.*metadata="),
        (lambda model: setattr(model, "preprocess", torch.nn.Identity()), "only a Preprocessor"),
        (lambda model: torch.nn.init.constant_(model.classifier.bias, torch.nan), "not finite"),
        (lambda model: model.reset_classifier(3), "no description.*metadata="),
        (lambda model: setattr(model, "final_activation", torch.nn.Tanh()), "final_activation"),
    ],
    ids=["fresh", "own preprocessing", "nan", "fresh head", "own activation"],
)
def test_what_cannot_be_described_truly_is_not_written(model, tmp_path, spoil, message) -> None:
    spoil(model)
    with pytest.raises(CheckpointError, match=message):
        huggingface.save_pretrained(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_folder_of_pickles_is_refused_unread(tmp_path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*no such file"):
        huggingface.from_pretrained(tmp_path)


# The Hub


def test_there_and_back_again(hub, repo, bundled) -> None:
    url = huggingface.push_to_hub(bundled, repo, token=TOKEN, licence="apache-2.0")
    assert url == f"{hub.url}/{repo}/commit/{hub.commit_of(repo)}"
    assert hub.repos[repo].keys() == FILES
    assert hub.repos[repo]["model.safetensors"] == bundled.to_bytes(bundled.weights)
    assert f"hf://{repo}" in hub.repos[repo]["README.md"].decode()
    assert huggingface.from_pretrained(repo).weights == bundled.weights


def test_what_was_downloaded_is_not_downloaded_again(hub, repo, model, monkeypatch) -> None:
    huggingface.push_to_hub(model, repo, token=TOKEN)
    huggingface.from_pretrained(repo)
    hub.requests.clear()
    huggingface.from_pretrained(repo)
    assert not [request for request in hub.requests if request.startswith("GET")]
    hub.requests.clear()
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "1")
    assert huggingface.from_pretrained(repo).weights == model.weights
    assert not hub.requests


def test_names_with_hf_work_wherever_weights_are_named(hub, repo, model, capsys) -> None:
    huggingface.push_to_hub(model, repo, token=TOKEN)
    commit = hub.commit_of(repo)
    assert Classifier.from_pretrained(f"hf://{repo}").weights == model.weights
    assert allcnn_zoo.load(f"hf://{repo}@{commit}").weights == model.weights
    assert huggingface.from_pretrained(f"hf://{repo}").weights == model.weights
    assert main(["predict", "--weights", f"hf://{repo}", str(EXAMPLES / "cat.png")]) == 0
    assert "weights: mine" in capsys.readouterr().out


def test_a_revision_and_a_cache_can_be_chosen(hub, repo, model, tmp_path) -> None:
    huggingface.push_to_hub(model, repo, token=TOKEN)
    old, bias = hub.commit_of(repo), model.classifier.bias.detach().clone()
    torch.nn.init.ones_(model.classifier.bias)
    huggingface.push_to_hub(model, repo, token=TOKEN)
    loaded = huggingface.from_pretrained(repo, revision=old, cache_dir=tmp_path / "mine")
    assert torch.equal(loaded.classifier.bias, bias)
    assert list((tmp_path / "mine").rglob("model.safetensors"))
    with pytest.raises(HubError, match="RevisionNotFound"):
        huggingface.from_pretrained(repo, revision="v9")


def test_a_second_push_replaces_the_weights_and_keeps_the_card(hub, repo, model) -> None:
    huggingface.push_to_hub(model, repo, token=TOKEN)
    hub.repos[repo]["README.md"] = b"my prose"
    torch.nn.init.ones_(model.classifier.bias)
    huggingface.push_to_hub(model, repo, token=TOKEN)
    assert hub.repos[repo]["README.md"] == b"my prose"
    assert torch.equal(huggingface.from_pretrained(repo).classifier.bias, torch.ones(3))


def test_private_repositories_and_pushes_need_the_token(hub, repo, model) -> None:
    with pytest.raises(HubError, match=r"cannot push to somebody/.*token="):
        huggingface.push_to_hub(model, repo)
    assert repo not in hub.repos
    huggingface.push_to_hub(model, repo, token=TOKEN, private=True)
    with pytest.raises(HubError, match=r"somebody/.*token=.*hf auth login"):
        huggingface.from_pretrained(repo)
    assert huggingface.from_pretrained(repo, token=TOKEN).weights == model.weights


def test_a_repository_of_pickles_is_refused_undownloaded(hub, repo) -> None:
    hub.repos[repo] = {"pytorch_model.bin": b"cos\nabort\n(tR."}
    message = rf"(?s)^{repo} is not a folder, and unavailable on the Hugging.*model\.safetensors"
    with pytest.raises(HubError, match=message):
        huggingface.from_pretrained(repo)
    assert not [request for request in hub.requests if "pytorch_model" in request]


def test_what_the_hub_delivers_is_believed_only_as_far_as_it_proves_true(hub, repo) -> None:
    hub.repos[repo] = {"model.safetensors": BUNDLED.read_bytes()[:-1]}
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        huggingface.from_pretrained(repo)


@pytest.mark.parametrize("variable", ["ALLCNN_ZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_means_no_request(hub, repo, model, variable) -> None:
    with new_process(**{variable: "1"}):
        with pytest.raises(OfflineError, match=variable):
            huggingface.from_pretrained(repo)
        with pytest.raises(OfflineError, match=variable):
            huggingface.push_to_hub(model, repo, token=TOKEN)
    assert not hub.requests


def test_a_hub_that_cannot_be_reached_is_an_error_of_ours(hub, repo, model) -> None:
    with (
        new_process(HF_ENDPOINT="http://127.0.0.1:9"),
        pytest.raises(HubError, match=f"cannot push to {repo}.*Connect"),
    ):
        huggingface.push_to_hub(model, repo, token=TOKEN)


@pytest.mark.parametrize(
    "source",
    [
        *("no/such/folder", "../up", "a b", "~/missing", "~nosuchuser/folder", "/nowhere"),
        *("a\x1b[2J", "a b" * 2000, Path("owner/name")),
    ],
)
@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_missing_folder_is_named(hub, monkeypatch, source, offline) -> None:
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", offline)
    with pytest.raises(CheckpointError, match="no such folder") as error:
        huggingface.from_pretrained(source)
    assert str(error.value).isprintable()
    assert not hub.requests


def test_text_that_is_not_unicode_is_escaped(model, tmp_path) -> None:
    described = {"provenance": {"\udfff": "\ud800"}, "metrics": {"\ud800": {"accuracy": 1}}}
    model.weights = dataclasses.replace(model.weights, **described)
    huggingface.save_pretrained(model, tmp_path)
    assert r"\udfff" in (tmp_path / "README.md").read_text("utf-8")
    assert huggingface.from_pretrained(tmp_path).weights == model.weights


@pytest.mark.parametrize("is_there", ["nothing", "a folder of this name"])
def test_without_huggingface_hub_the_message_says_how_to_get_it(
    monkeypatch, tmp_path, is_there
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if is_there != "nothing":
        (tmp_path / "huggingface_hub").mkdir()
    with pytest.raises(HubError, match=r"pip install 'allcnn-zoo\[huggingface\]'"):
        huggingface.from_pretrained("owner/name")
    sys.modules.pop("huggingface_hub", None)  # the folder
