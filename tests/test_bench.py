"""Every benchmark runs once at toy size and gives rows with the fixed keys."""

import importlib
import subprocess

import pytest
import torch

from alexnet.bench import doctor, train, turns
from alexnet.data import pack as packs
from alexnet.data.sources import open_source
from alexnet.net import AlexNet
from alexnet.spec import change, preset


@pytest.fixture(scope="module")
def jpeg_pack(pictures, tmp_path_factory) -> str:
    """The tiny pictures as 256-pixel JPEG squares."""
    out = tmp_path_factory.mktemp("bench") / "jpeg.pack"
    packs.pack(open_source(pictures), out, size_px=256)
    return str(out)


@pytest.mark.parametrize("name", ["lrn", "conv", "loader", "predict", "doctor", "train"])
def test_it_runs_at_toy_size(name, jpeg_pack):
    rows = importlib.import_module(f"alexnet.bench.{name}").rows(True, jpeg_pack)
    assert rows
    for row in rows:
        assert {"name", "value", "unit", "peer", "ratio"} <= row.keys()
        assert row["value"] > 0


def test_a_row_says_where_it_was_measured():
    where = turns.place()
    assert where["threads"] >= 1
    assert {"torch", "cpu", "python", "alexnet"} <= where["versions"].keys()
    assert where["date"].count("-") == 2


def test_a_row_has_the_commit_of_the_packages_own_repository_alone(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    (tmp_path / "turns.py").write_text("")
    monkeypatch.setattr(turns, "__file__", str(tmp_path / "turns.py"))
    assert "commit" not in turns.place()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "somebody's project")
    assert "commit" not in turns.place()
    git("add", "turns.py")
    git("commit", "-q", "-m", "ours")
    assert len(turns.place()["commit"]) >= 7
    monkeypatch.setenv("PATH", "")
    assert "commit" not in turns.place()


def test_calls_take_turns():
    order = []
    turns.in_turns_s({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert "".join(order) == "ababab"


def test_operations_of_a_training_step():
    """4.14 GFLOP a picture with 1000 classes: three passes of 724.4 M multiply-adds, less conv1's input gradient."""
    assert train.training_flops(AlexNet(preset("as_run").net)) / 1e9 == pytest.approx(4.136, abs=0.001)


@pytest.mark.parametrize("name", list(train.PEERS))
def test_a_peer_computes_what_our_net_does(name):
    """With the same weights, in order, and dropout as it is at test."""
    narrow = ["net.fc6.outputs=32", "net.fc7.outputs=32", "net.dropout_inverted=true"]
    ours, peer = AlexNet(change(preset(name, classes=10), narrow).net).eval(), train.PEERS[name](10, 32).eval()
    peer.load_state_dict(dict(zip(peer.state_dict(), ours.state_dict().values(), strict=True)))
    images_nchw = 50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        given, wanted = peer(images_nchw), ours(images_nchw)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_the_doctor_names_the_limit():
    assert "the net is the limit" in doctor.advice(feed=1000, compute=100, threads=2)
    assert "run.workers=4" in doctor.advice(feed=100, compute=200, threads=2)
