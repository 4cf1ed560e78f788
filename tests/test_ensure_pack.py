"""`ensure_pack`: a source is packed once, and a pack is opened again as long as the source is the same."""

import os
from pathlib import Path

import pytest
from PIL import Image

from alexnet.data import pack as packing
from alexnet.data.pack import ensure_pack, pack
from alexnet.data.sources import open_source
from alexnet.errors import DataError, MachineError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    for i in range(12):
        path = tmp_path / "pets" / ["cat", "dog"][i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((90, 70), 40 + i).save(path)
    return tmp_path / "pets"


def test_ensure_pack_packs_once(folder):
    said = []
    first = ensure_pack(folder, say=said.append)
    assert first.path == folder.with_name("pets.pack")
    assert "packing" in said[0]
    assert ensure_pack(folder, say=said.append).fingerprint == first.fingerprint
    assert "packed earlier" in said[-1]
    assert ensure_pack(first.path).fingerprint == first.fingerprint


def test_ensure_pack_notices_a_changed_source(folder):
    ensure_pack(folder)
    Image.effect_noise((90, 70), 99).save(folder / "cat" / "new.png")
    with pytest.raises(DataError, match=r"has changed since(.|\n)*delete .*pets\.pack"):
        ensure_pack(folder)


def test_ensure_pack_notices_other_settings(folder):
    ensure_pack(folder, size_px=64)
    ensure_pack(folder)
    with pytest.raises(DataError, match="size_px 96"):
        ensure_pack(folder, size_px=96)


def test_ensure_pack_falls_back_to_the_users_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_is_writable", lambda place: place.is_relative_to(tmp_path / "caches"))
    assert ensure_pack(folder).path.is_relative_to(tmp_path / "caches" / "alexnet")
    assert len(list((tmp_path / "caches/alexnet").iterdir())) == 1
    assert ensure_pack(folder).splits["train"].labels.size == 10


def test_ensure_pack_of_nothing_is_the_built_in_set(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("alexnet.data.sources.SHAPES_COUNTS", {"train": 20, "val": 10})
    built_in = ensure_pack(None, size_px=64)
    assert built_in.path.parent == tmp_path / "alexnet"
    assert built_in.path.name.startswith("shapes-")
    assert ensure_pack("shapes", size_px=64).fingerprint == built_in.fingerprint


def test_ensure_pack_of_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        ensure_pack(tmp_path / "nowhere")


def test_folder_and_archive_give_the_same_pack(folder, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(folder, "pets")
    prints = [
        pack(open_source(src), tmp_path / f"{i}.p")["fingerprint"]
        for i, src in enumerate((folder, tmp_path / "pets.tar"))
    ]
    assert prints[0] == prints[1]


def test_what_no_packing_looks_at_changes_nothing(folder):
    first = ensure_pack(folder)
    (folder / ".DS_Store").write_text("Finder was here")
    (folder / "cat" / "._0.png").write_text("and here")
    for run in ("runs/as_run", "runs/faces/seed-000", "cat/mine"):
        (folder / run).mkdir(parents=True)
        for name in ("run.json", "report.html", "confusion.png"):
            (folder / run / name).write_text("a run whose folder lies among the pictures")
    (folder / "runs/faces/summary.json").write_text("of several seeds")
    assert ensure_pack(folder).fingerprint == first.fingerprint
    source = open_source(folder)
    assert source.classes == ["cat", "dog"]
    assert sum(map(len, source.splits.values())) == 12
    assert any("3 runs of trainings" in note for note in source.notes)


def test_a_pack_made_by_its_verb_is_opened_again(folder):
    from alexnet.cli.pack import pack as verb

    verb(str(folder), str(folder.with_name("pets.pack")), size=64)
    assert ensure_pack(folder).size_px == 64
    Image.effect_noise((90, 70), 99).save(folder / "cat" / "new.png")
    with pytest.raises(DataError, match="has changed since"):
        ensure_pack(folder)


def test_no_place_for_the_pack(folder, monkeypatch):
    monkeypatch.setattr(packing, "_is_writable", lambda place: False)
    with pytest.raises(MachineError, match=r"can be written: .*pets\.pack, "):
        ensure_pack(folder)


def test_a_class_must_have_a_name_in_utf8(folder, tmp_path):
    import tarfile

    os.rename(folder / "cat", os.fsencode(folder) + b"/caf\xe9")
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(folder, "pets")
    for source in (folder, tmp_path / "pets.tar"):
        with pytest.raises(DataError, match=r"class folder caf\ufffd in .* is not UTF-8"):
            open_source(source)
