"""Weights that others have trained: every kind of file comes back to the bit, or is one clear line; nothing is executed."""

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision
from fuzz import MUTATIONS, mutations, survive_all
from pretrain_xai.networks.models import CONFIGURATIONS, build_network, load_pretrained, pretrained_state
from pretrain_xai.networks.weight_files import (
    WeightsError,
    cached_file,
    fitting,
    read_state,
    save_state,
    torchvision_state,
)
from pretrain_xai.paths import Paths
from pretrain_xai.running.prerequisites import check_weights
from pretrain_xai.settings.sections import Network
from pretrain_xai.study import Run, StudyError, load_study
from safetensors.torch import save_file
from small_nets import same
from torch import nn

ARCHITECTURES = [*CONFIGURATIONS, *(f"{name}_bn" for name in CONFIGURATIONS)]
KINDS = {
    "safetensors": lambda network, path: save_file(network.state_dict(), path),
    "zip": lambda network, path: torch.save(network.state_dict(), path),
    "before 1.6": lambda network, path: torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False),
    "whole network": torch.save,
}


def theirs(architecture: str, n_classes: int = 1000, width: float = 1 / 64) -> torchvision.models.VGG:
    """Return torchvision's own class with torchvision's own kinds of layers, narrow; its ReLUs work in place as released."""
    ours = build_network(Network(architecture=architecture, width=width), n_classes, seed=0)
    with torch.device("meta"):
        network = torchvision.models.VGG(ours.features, init_weights=False)
    network.classifier = ours.classifier
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        _ = tensor.normal_(generator=generator) if tensor.is_floating_point() else tensor.fill_(3)
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
    return network


def refusal(path: Path) -> str:
    """Return the message of the error, which must be one line that names the file."""
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 400
    return message


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_torchvisions_networks_come_back_to_the_bit_from_every_kind_of_file(architecture, kind, tmp_path):
    network = theirs(architecture, n_classes=5)
    KINDS[kind](network, tmp_path / "weights.pth")
    state = read_state(tmp_path / "weights.pth")
    assert same(state, network.state_dict())
    assert same(
        pretrained_state(Network(architecture=architecture, width=1 / 64), str(tmp_path / "weights.pth")), state
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_classes", "head_kept"), [(1000, False), (2, False), (2, True)])
def test_the_mri_model_starts_with_its_own_head_or_a_fresh_one(root, kind, n_classes, head_kept):
    """As the authors' `MRI_pretrained_model.pt`: a VGG with two outputs, whole or as a state dict."""
    network = theirs("vgg11", n_classes, width=1 / 16)
    KINDS[kind](network, root / "MRI_pretrained_model.pt")
    study = load_study("tiny").model_copy(update={"switches": {"head_kept": head_kept}})
    state = pretrained_state(study.network, "MRI_pretrained_model.pt")
    save_state(Paths("tiny").pretrained("mri"), state)
    loaded, other = (load_pretrained(study, Run("best", "mri", 1, seed)) for seed in (0, 1))
    heads = ("classifier.6.weight", "classifier.6.bias")
    known = {name: tensor for name, tensor in loaded.state_dict().items() if not name.startswith("standardise")}
    body = {name: tensor for name, tensor in known.items() if name not in heads}
    assert same(body, {name: tensor for name, tensor in network.state_dict().items() if name not in heads})
    assert known["classifier.6.weight"].shape[0] == 2
    assert same(known, network.state_dict()) == head_kept
    assert torch.equal(loaded.classifier[6].weight, other.classifier[6].weight) == head_kept


def test_a_head_of_other_classes_can_not_be_kept(root):
    study = load_study("tiny").model_copy(update={"switches": {"head_kept": True}})
    save_state(Paths("tiny").pretrained("mri"), theirs("vgg11", 5, width=1 / 16).state_dict())
    with pytest.raises(WeightsError, match=r"classifier\.6\.weight: \(5, 256\), expected \(2, 256\)"):
        load_pretrained(study, Run("best", "mri", 1, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_features_alone_start_with_a_fresh_classifier_of_the_runs_seed(root, dtype):
    study = load_study("tiny")
    state = theirs("vgg11", width=1 / 16).state_dict()
    features = {name: tensor.to(dtype) for name, tensor in state.items() if name.startswith("features")}
    save_file(features, root / "features.safetensors")
    save_state(Paths("tiny").pretrained("natural"), pretrained_state(study.network, "features.safetensors"))
    runs = [Run("best", "natural", 1, seed) for seed in (0, 0, 1)]
    networks = [load_pretrained(study, run) for run in runs]
    for network in networks:
        assert all(torch.equal(network.state_dict()[name], tensor.float()) for name, tensor in features.items())
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    first, again, other = (network.classifier[0].weight for network in networks)
    assert torch.equal(first, again) and not torch.equal(first, other)
    fresh = build_network(study.network, 2, seed=1)
    assert torch.equal(networks[2].classifier[6].weight, fresh.classifier[6].weight)


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("kind", KINDS)
def test_another_network_is_refused_with_the_first_keys_and_shapes(tmp_path, kind):
    path = tmp_path / "weights.pt"
    KINDS[kind](theirs("vgg11", width=1 / 32), path)
    with pytest.raises(WeightsError) as error:
        pretrained_state(Network(architecture="vgg11", width=1 / 64), str(path))
    message = str(error.value)
    assert f"{path} does not fit" in message and "differ)" in message and "\n" not in message
    assert "features.0.weight: (2, 3, 3, 3), expected (1, 3, 3, 3)" in message
    with pytest.raises(WeightsError, match=r"features\.2\.weight: missing, expected \(2, 2, 3, 3\)"):
        pretrained_state(Network(architecture="vgg13", width=1 / 32), str(path))
    with pytest.raises(WeightsError, match=r"features\.1\.weight: missing, expected \(2,\)"):
        pretrained_state(Network(architecture="vgg11_bn", width=1 / 32), str(path))


def test_half_a_classifier_is_no_features_only_file(tmp_path):
    state = theirs("vgg11").state_dict()
    del state["classifier.0.weight"]
    save_file(state, tmp_path / "half.safetensors")
    with pytest.raises(WeightsError, match=r"classifier\.0\.weight: missing, expected \(64, 392\) \(1 differ\)"):
        pretrained_state(Network(architecture="vgg11", width=1 / 64), str(tmp_path / "half.safetensors"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    state = theirs("vgg11").state_dict()
    state["features.3.weight"][0, 0, 1, 1] = value
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"nan\.safetensors: features\.3\.weight holds values that are not finite"):
        pretrained_state(Network(architecture="vgg11", width=1 / 64), str(tmp_path / "nan.safetensors"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {"a": torch.zeros(2)}, "epoch": 3}, "holds dict under 'state_dict'"),
        ([torch.zeros(2)], "holds list"),
        ({}, "holds dict without names"),
        ({1: torch.zeros(2)}, "Tensor under '1'"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "not of plain numbers"),
        ({"a": torch.zeros(2, device="meta")}, "not of plain numbers"),
        ({"a": torch.zeros(1).expand(10**6, 10**6)}, "fewer numbers than its shape says"),
    ],
)
def test_what_is_no_state_dict_says_what_it_is(tmp_path, content, words):
    torch.save(content, tmp_path / "other.pt")
    assert words in refusal(tmp_path / "other.pt")


# ---------------------------------------------------------------- hostile and damaged files


class Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["alone", "in a state dict", "in a whole network"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path, where, zipped):
    code = Code(tmp_path / "hacked")
    network = theirs("vgg11")
    network.classifier[1].note = code
    content = {"alone": code, "in a state dict": {"a": torch.zeros(2), "more": code}, "in a whole network": network}
    torch.save(content[where], tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "evil.pt")
    assert "nothing was executed" in message
    assert "posix.system" in message or (where == "in a whole network" and not zipped)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(code))
    assert "nothing was executed" in refusal(tmp_path / "evil.pt")
    assert not (tmp_path / "hacked").exists()


def test_a_class_that_is_no_part_of_a_vgg_is_named(tmp_path):
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2)), tmp_path / "own.pt")
    assert "torch.nn.modules.linear.Bilinear" in refusal(tmp_path / "own.pt")


def test_a_git_lfs_pointer_says_what_to_do(tmp_path):
    pointer = tmp_path / "MRI_pretrained_model.pt"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 537097385\n")
    message = refusal(pointer)
    assert "Git LFS pointer" in message and "537,097,385 bytes" in message and "git lfs pull" in message


def test_files_that_are_none_say_so(tmp_path):
    assert "No such file" in refusal(tmp_path / "missing.pt")
    assert "Is a directory" in refusal(tmp_path)
    for content in (b"", b"<html>not found</html>" * 20):
        (tmp_path / "page.pt").write_bytes(content)
        assert "SafetensorError" in refusal(tmp_path / "page.pt")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8_000_000_000]}},
        {"a": {"dtype": "F32", "shape": [2_000_000_000], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": "code"},
        [],
    ],
)
def test_lying_safetensors_headers_are_refused(tmp_path, header):
    text = json.dumps(header).encode()
    for length in (len(text), 2**60, 2**63):
        (tmp_path / "lie.safetensors").write_bytes(struct.pack("<Q", length) + text + bytes(8))
        assert "SafetensorError" in refusal(tmp_path / "lie.safetensors")


def rewritten(path: Path, pickled: bytes) -> Path:
    """Write the zip of `path` anew, with another pickle in it."""
    result = path.with_name("rewritten.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(result, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, pickled if entry.filename.endswith("data.pkl") else old.read(entry))
    return result


@pytest.mark.parametrize(
    "pickled", [b"(" * 10**6 + b".", b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", b"\x80\x02\x8a\xff."]
)
def test_pickles_that_are_deep_or_cut_are_one_line(tmp_path, pickled):
    torch.save({"a": torch.zeros(2)}, tmp_path / "deep.pt")
    assert "nothing was executed" in refusal(rewritten(tmp_path / "deep.pt", pickled))


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "flipped.pt")
    content = bytearray((tmp_path / "flipped.pt").read_bytes())
    content[content.index(bytes(2000)) + 1000] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    assert "checksum" in refusal(tmp_path / "flipped.pt")


def test_mutated_files_give_weights_that_fit_or_one_line_and_do_no_harm(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 2))
    expected, marker, originals = network.state_dict(), tmp_path / "hacked", {}
    for kind, save in KINDS.items():
        save(network, tmp_path / "original")
        originals[kind] = (tmp_path / "original").read_bytes()
    torch.save({"0.weight": Code(marker)}, tmp_path / "original")
    originals["code"] = (tmp_path / "original").read_bytes()
    path, reading = tmp_path / "mutated.pt", ""

    def contents() -> Iterator[bytes]:
        nonlocal reading
        for reading, content in originals.items():  # noqa: B007
            yield from mutations(content, 2 * MUTATIONS // len(originals), 0, 600)

    def read() -> None:
        state = fitting(read_state(path), expected, path)
        assert reading != "code"
        assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in expected.items()}
        assert all(torch.isfinite(tensor).all() for tensor in state.values())

    assert survive_all(path, contents(), read, WeightsError, str(path)) > MUTATIONS, "most damage is noticed"
    assert not marker.exists()


# ---------------------------------------------------------------- torchvision's own weights


@pytest.fixture
def torchvisions(tmp_path, monkeypatch):
    """Return a function that sets what torchvision's cache holds, under a name with the checksum of the right bytes."""
    torch.save(theirs("vgg11").state_dict(), tmp_path / "right.pth", _use_new_zipfile_serialization=False)
    right = (tmp_path / "right.pth").read_bytes()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    url = f"https://nowhere.invalid/vgg11-{hashlib.sha256(right).hexdigest()[:8]}.pth"

    def set_cache(content: bytes | None, download=None) -> bytes:
        entry = SimpleNamespace(url=url, get_state_dict=lambda **_: download(cached_file("IMAGENET1K_V1", "vgg11")))
        known = SimpleNamespace(__members__={"IMAGENET1K_V1": entry})
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda architecture: known)
        if content is not None:
            cached_file("IMAGENET1K_V1", "vgg11").parent.mkdir(parents=True, exist_ok=True)
            cached_file("IMAGENET1K_V1", "vgg11").write_bytes(content)
        return right

    return set_cache


def test_weights_are_downloaded_into_torchvisions_cache_once(torchvisions):
    right = torchvisions(None)

    def download(path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_bytes(right)

    torchvisions(None, download)
    for _ in range(2):  # the second time there is nothing to make a folder for
        assert same(torchvision_state("IMAGENET1K_V1", "vgg11"), theirs("vgg11").state_dict())


def test_without_a_network_the_alternative_is_named(torchvisions):
    def fail(path: Path) -> None:
        raise URLError("Name or service not known")

    torchvisions(None, fail)
    with pytest.raises(WeightsError) as error:
        torchvision_state("IMAGENET1K_V1", "vgg11")
    message = str(error.value)
    assert "\n" not in message
    for words in (
        "can't be downloaded",
        "Name or service not known",
        "a local file",
        "pretraining.weights",
        "checkpoints",
    ):
        assert words in message


def test_a_damaged_cached_file_is_noticed_by_its_checksum(torchvisions):
    right = bytearray(torchvisions(None))
    right[-1] ^= 1
    torchvisions(bytes(right))
    with pytest.raises(WeightsError, match=r"checksum is not .* delete it"):
        torchvision_state("IMAGENET1K_V1", "vgg11")


def test_torchvision_has_the_published_weights_of_every_architecture():
    for architecture in ARCHITECTURES:
        assert cached_file("IMAGENET1K_V1", architecture).name.startswith(architecture)
    with pytest.raises(WeightsError, match=r"'IMAGENET1K_V2' is no path .* vgg16 has IMAGENET1K_V1"):
        cached_file("IMAGENET1K_V2", "vgg16")


# ---------------------------------------------------------------- in a study


def with_weights(**weights):
    study = load_study("tiny")
    pretraining = study.pretraining.model_copy(update={"weights": weights})
    return study.model_copy(update={"pretraining": pretraining})


def test_missing_local_weights_are_named_before_anything_runs(root):
    with pytest.raises(StudyError, match=rf"pretraining\.weights\.mri: no such file: {root}/data/mri\.pt; bring it"):
        check_weights(with_weights(mri="data/mri.pt"))
    check_weights(with_weights(natural="IMAGENET1K_V1"))  # may be downloaded
    with pytest.raises(WeightsError, match="did you mean 'IMAGENET1K_V1'"):
        check_weights(with_weights(natural="IMAGENET1K_V"))
