"""Sharing: checkpoints by their name on the hub, and to it. No test uses the network."""

from pathlib import Path

import numpy as np
import pytest
from tiny import DIM

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.models import hub
from v2t_cli.models.hub import check_push, checkpoint_folder, packaged_folder


class Hub:
    """What of HfApi is used."""

    def __init__(self):
        self.calls = []

    def create_repo(self, name, **options):
        self.calls.append((name, options))
        return type("Url", (str,), {"repo_id": name})(f"https://huggingface.co/{name}")

    def upload_folder(self, **options):
        self.calls.append(options)


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")


def train(v2t, texts_file, labse, *options):
    sets = [f"encoder.model={labse}", f"data.texts={texts_file}", "train.epochs=0.2", "train.samples=0"]
    sets += ["decoder.scratch={n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}"]
    return v2t("train", "--device", "cpu", *(part for item in sets for part in ("--set", item)), *options)


def test_a_finished_checkpoint_is_pushed(v2t, texts_file, labse, monkeypatch, logged_in):
    there = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: there)
    result = train(v2t, texts_file, labse, "--push-to-hub", "me/inverter")
    assert result.exit_code == 0 and result.stdout == "checkpoint\n"
    assert "pushed to https://huggingface.co/me/inverter" in result.stderr
    (name, options), upload = there.calls
    assert name == "me/inverter" and options == {"private": True, "exist_ok": True}
    assert upload["repo_id"] == "me/inverter" and str(upload["folder_path"]) == "checkpoint"
    from huggingface_hub.utils import filter_repo_objects

    files = ["v2t.json", "model.safetensors", ".resume/step-000000001/optimizer.bin", ".new-1/x"]
    assert list(filter_repo_objects(files, ignore_patterns=upload["ignore_patterns"])) == ["v2t.json", "model.safetensors"]


def test_without_a_network_the_checkpoint_stays(v2t, texts_file, labse, monkeypatch, logged_in, tmp_path):
    def unreachable(self, *arguments, **options):
        raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    result = train(v2t, texts_file, labse, "--push-to-hub", "me/inverter")
    assert result.exit_code == 1 and result.stdout == "checkpoint\n" and "Traceback" not in result.stderr
    assert "checkpoint is complete, but was not pushed to 'me/inverter'" in result.stderr and "hf upload me/inverter" in result.stderr
    assert "--private --exclude '.*' --exclude '.*/**' --exclude 'v2t/**'" in result.stderr
    assert (tmp_path / "checkpoint" / "v2t.json").exists()


def test_a_push_that_must_fail_is_refused_before_training(v2t, texts_file, labse, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = train(v2t, texts_file, labse, "--push-to-hub", "me/inverter")
    assert result.exit_code == 2 and "not logged in" in result.stderr and not list(tmp_path.iterdir())
    with pytest.raises(RequestError, match="--push-to-hub a/b/c: "):
        check_push("a/b/c")


def test_a_checkpoint_by_its_name(v2t, checkpoint, monkeypatch, tmp_path):
    asked = []

    def download(name, **options):
        asked.append((name, options))
        return str(checkpoint)

    monkeypatch.setattr(hub, "_ask", lambda name, revision: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    np.save(tmp_path / "v.npy", np.zeros((2, DIM), np.float32))
    result = v2t("decode", "v.npy", "--checkpoint", "me/inverter", "--quality", "fast")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 2
    ((name, options),) = asked
    assert name == "me/inverter" and not any("bin" in pattern for pattern in options["allow_patterns"]), "no pickles are fetched"


def test_a_name_that_is_nowhere(v2t, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_ask", lambda name, revision: ConnectionError())
    np.save(tmp_path / "v.npy", np.zeros((2, DIM), np.float32))
    result = v2t("decode", "v.npy", "--checkpoint", "me/inverter")
    assert (
        result.exit_code == 2
        and "checkpoint 'me/inverter': not a folder, not in the cache, and the hub cannot be reached; v2t train makes one" in result.stderr
    )
    for name in ("checkpoint", "./me/inverter", "/me/inverter", "a/b/c"):
        assert str(checkpoint_folder(name)) == name.removeprefix("./"), "no name on the hub"
        assert "no such checkpoint folder" in v2t("decode", "v.npy", "--checkpoint", name).stderr


def test_pushing_fails_in_one_line(monkeypatch, tmp_path):
    def refused(self, *arguments, **options):
        raise PermissionError("403 Forbidden:\nyou may not")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refused)
    with pytest.raises(V2TError, match="403 Forbidden: you may not; to push it later, run: hf upload"):
        hub.push(tmp_path, "me/inverter")


def test_a_packaged_model_needs_no_hub(monkeypatch):
    folder = packaged_folder("all-MiniLM-L6-v2")
    assert folder == packaged_folder("sentence-transformers/all-MiniLM-L6-v2") and (Path(folder) / "modules.json").is_file()
    assert packaged_folder("sentence-transformers/LaBSE") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert packaged_folder("all-MiniLM-L6-v2") is None
