"""Weights that others have trained: every kind of file comes back to the bit, or is one clear line; nothing is executed."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
import torchvision
from damage import DAMAGE, damaged
from hypothesis import given
from hypothesis import strategies as st
from pretrain_xai.networks import weight_files
from pretrain_xai.networks.models import CONFIGURATIONS, build_network, load_pretrained, pretrained_state
from pretrain_xai.networks.weight_files import WeightsError, cached_file, read_state, save_state, torchvision_state
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_torchvisions_networks_come_back_to_the_bit_from_every_kind_of_file(architecture, kind, tmp_path):
    network, path = theirs(architecture, n_classes=5), tmp_path / "weights.pth"
    KINDS[kind](network, path)
    assert same(read_state(path), network.state_dict())
    assert same(pretrained_state(Network(architecture=architecture, width=1 / 64), str(path)), network.state_dict())


HEADS = [("mri", 2, True, True), ("mri", 2, False, False), ("natural", 1000, True, False), ("natural", 2, True, False)]


@pytest.mark.parametrize(("corpus", "n_classes", "head_kept", "kept"), HEADS)
def test_only_the_mri_head_is_kept_and_only_as_published(root, corpus, n_classes, head_kept, kept):
    """As the authors' `MRI_pretrained_model.pt`: a VGG with two outputs, whole."""
    network = theirs("vgg11", n_classes, width=1 / 16)
    torch.save(network, root / "pretrained_model.pt")
    study = load_study("tiny").model_copy(update={"switches": {"head_kept": head_kept}})
    save_state(Paths("tiny").pretrained(corpus), pretrained_state(study.network, "pretrained_model.pt"))
    first, again, other = (load_pretrained(study, Run("best", corpus, 1, seed)).state_dict() for seed in (0, 0, 1))
    assert same(first, again) and same(first, other) == kept
    expected = network.state_dict()
    for name in expected.keys() - {"classifier.6.weight", "classifier.6.bias"}:
        assert first[name].equal(expected[name])
    assert first["classifier.6.weight"].shape[0] == 2
    assert first["classifier.6.weight"].equal(expected["classifier.6.weight"]) == kept


def test_a_head_of_other_classes_can_not_be_kept(root):
    study = load_study("tiny").model_copy(update={"switches": {"head_kept": True}})
    save_state(Paths("tiny").pretrained("mri"), theirs("vgg11", 5, width=1 / 16).state_dict())
    with pytest.raises(WeightsError, match=r"classifier\.6\.weight: \(5, 256\), expected \(2, 256\)"):
        load_pretrained(study, Run("best", "mri", 1, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_features_alone_start_with_a_fresh_classifier_of_the_runs_seed(root, dtype):
    study, state = load_study("tiny"), theirs("vgg11", width=1 / 16).state_dict()
    features = {name: tensor.to(dtype) for name, tensor in state.items() if name.startswith("features")}
    save_file(features, root / "features.safetensors")
    save_state(Paths("tiny").pretrained("natural"), pretrained_state(study.network, "features.safetensors"))
    for seed in (0, 1):
        loaded = load_pretrained(study, Run("best", "natural", 1, seed)).state_dict()
        fresh = build_network(study.network, 2, seed=seed).state_dict()
        assert same(loaded, fresh | {name: tensor.float() for name, tensor in features.items()})


def without_a_layer(state: dict[str, torch.Tensor]) -> None:
    del state["classifier.0.weight"]


def with_nan(state: dict[str, torch.Tensor]) -> None:
    state["features.3.weight"][0, 0, 1, 1] = float("nan")


MISFITS = [
    ("vgg11", 1 / 32, dict, r"features\.0\.weight: \(1, 3, 3, 3\), expected \(2, 3, 3, 3\); .* differ\)"),
    ("vgg13", 1 / 64, dict, r"features\.2\.weight: missing, expected \(1, 1, 3, 3\)"),
    ("vgg11_bn", 1 / 64, dict, r"features\.1\.weight: missing, expected \(1,\)"),
    ("vgg11", 1 / 64, without_a_layer, r"classifier\.0\.weight: missing, expected \(64, 392\) \(1 differ\)"),
    ("vgg11", 1 / 64, with_nan, r"features\.3\.weight holds values that are not finite"),
]


@pytest.mark.parametrize(("architecture", "width", "change", "words"), MISFITS)
def test_what_does_not_fit_is_one_line_with_the_first_names_and_shapes(tmp_path, architecture, width, change, words):
    state, path = theirs("vgg11").state_dict(), tmp_path / "weights.safetensors"
    change(state)
    save_file(state, path)
    with pytest.raises(WeightsError, match=rf"^{path}.*{words}"):
        pretrained_state(Network(architecture=architecture, width=width), str(path))


NO_STATE_DICTS = [({"state_dict": {"a": torch.zeros(2)}, "epoch": 3}, "holds dict under 'state_dict'")]
NO_STATE_DICTS += [([torch.zeros(2)], "holds list"), ({}, "holds dict without names")]
NO_STATE_DICTS += [({1: torch.zeros(2)}, "float32 under '1'")]
NO_STATE_DICTS += [({"a": torch.zeros(2, dtype=torch.complex64)}, "holds torch.complex64 under 'a'; plain tensors")]
NO_STATE_DICTS += [({"a": torch.zeros(2, device="meta")}, "plain tensors by name")]


@pytest.mark.parametrize(("content", "words"), NO_STATE_DICTS)
def test_what_is_no_state_dict_says_what_it_is(tmp_path, content, words):
    torch.save(content, tmp_path / "other.pt")
    assert words in refusal(tmp_path / "other.pt")


class Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["alone", "in a state dict", "in a whole network"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path, where, zipped):
    code, network, path = Code(tmp_path / "hacked"), theirs("vgg11"), tmp_path / "evil.pt"
    network.classifier[1].note = code
    content = {"alone": code, "in a state dict": {"a": torch.zeros(2), "more": code}, "in a whole network": network}
    torch.save(content[where], path, _use_new_zipfile_serialization=zipped)
    assert "nothing was executed" in refusal(path)
    path.write_bytes(pickle.dumps(code))
    assert "nothing was executed" in refusal(path)
    assert not (tmp_path / "hacked").exists()


def test_a_class_that_is_no_part_of_a_vgg_is_named(tmp_path):
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2)), tmp_path / "own.pt")
    assert "torch.nn.modules.linear.Bilinear" in refusal(tmp_path / "own.pt")


NO_WEIGHTS = [(None, "No such file"), (b"", "SafetensorError"), (b"<html>not found</html>" * 20, "SafetensorError")]
NO_WEIGHTS += [(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 537097385\n", "run `git lfs pull`")]


@pytest.mark.parametrize(("content", "words"), NO_WEIGHTS)
def test_files_that_are_none_say_so(tmp_path, content, words):
    if content is not None:
        (tmp_path / "page.pt").write_bytes(content)
    assert words in refusal(tmp_path / "page.pt")


DEEP_OR_CUT = [b"(" * 10**6 + b".", b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", b"\x80\x02\x8a\xff."]


@pytest.mark.parametrize("pickled", DEEP_OR_CUT)
def test_pickles_that_are_deep_or_cut_are_one_line(tmp_path, pickled):
    torch.save({"a": torch.zeros(2)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as old, zipfile.ZipFile(tmp_path / "deep.pt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry, pickled if entry.filename.endswith("data.pkl") else old.read(entry))
    assert "nothing was executed" in refusal(tmp_path / "deep.pt")


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "flipped.pt")
    content = bytearray((tmp_path / "flipped.pt").read_bytes())
    content[content.index(bytes(2000)) + 1000] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    assert "checksum" in refusal(tmp_path / "flipped.pt")


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """Return a file of each kind, and one that asks for code."""
    folder = tmp_path_factory.mktemp("originals")
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 2))
    for kind, save in KINDS.items():
        save(network, folder / kind)
    torch.save({"0.weight": Code(folder / "hacked")}, folder / "code")
    return {path.name: path for path in folder.iterdir()}


@given(kind=st.sampled_from([*KINDS, "code"]), damage=DAMAGE)
def test_damaged_files_give_weights_or_one_line_and_do_no_harm(originals, kind, damage):
    path = originals[kind].with_name("damaged.pt")
    path.write_bytes(damaged(originals[kind].read_bytes(), damage))
    try:
        state = read_state(path)
    except WeightsError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert kind != "code" and all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    assert not path.with_name("hacked").exists()


@pytest.fixture
def torchvisions(tmp_path, monkeypatch):
    """Let torchvision have weights whose name has their checksum; return them, the cached file that is to be, the entry."""
    torch.save(theirs("vgg11").state_dict(), tmp_path / "right.pth", _use_new_zipfile_serialization=False)
    right = (tmp_path / "right.pth").read_bytes()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    entry = SimpleNamespace(url=f"https://nowhere.invalid/vgg11-{hashlib.sha256(right).hexdigest()[:8]}.pth")
    monkeypatch.setattr(weight_files, "torchvision_weights", lambda name, architecture: entry)
    cached = cached_file("IMAGENET1K_V1", "vgg11")
    cached.parent.mkdir(parents=True)
    return right, cached, entry


def test_weights_are_downloaded_into_torchvisions_cache_once(torchvisions):
    right, cached, entry = torchvisions
    entry.get_state_dict = lambda **_: cached.open("xb").write(right)  # fails the second time
    for _ in range(2):
        assert same(torchvision_state("IMAGENET1K_V1", "vgg11"), theirs("vgg11").state_dict())
    cached.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(WeightsError, match=r"checksum is not .* delete it"):
        torchvision_state("IMAGENET1K_V1", "vgg11")


def test_without_a_network_the_alternative_is_named(torchvisions):
    torchvisions[2].get_state_dict = Mock(side_effect=URLError("Name or service not known"))
    words = r"^IMAGENET1K_V1 .*can't be downloaded .*not known.*; bring /.*/vgg11-.*local file"
    with pytest.raises(WeightsError, match=words):
        torchvision_state("IMAGENET1K_V1", "vgg11")


def test_torchvision_has_the_published_weights_of_every_architecture():
    for architecture in ARCHITECTURES:
        assert cached_file("IMAGENET1K_V1", architecture).name.startswith(architecture)
    with pytest.raises(WeightsError, match=r"'IMAGENET1K_V2' is no path .* vgg16 has IMAGENET1K_V1"):
        cached_file("IMAGENET1K_V2", "vgg16")


def test_missing_local_weights_are_named_before_anything_runs(root):
    study = load_study("tiny")
    study.pretraining.weights["mri"] = "data/mri.pt"
    with pytest.raises(StudyError, match=rf"pretraining\.weights\.mri: no such file: {root}/data/mri\.pt"):
        check_weights(study)
    study.pretraining.weights["mri"] = "IMAGENET1K_V1"  # may be downloaded
    check_weights(study)
    study.pretraining.weights["mri"] = "IMAGENET1K_V"
    with pytest.raises(WeightsError, match="did you mean 'IMAGENET1K_V1'"):
        check_weights(study)
