"""The artifact as a file format: a folder or one zip file, whole and signed, or refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PRICES, Finished, Workplace, make_problem, make_table
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_architecture import run_guarded

import router
from router.artifact.archive import open_artifact
from router.artifact.export import Description, copy_artifact, write_artifact
from router.artifact.manifest import SCHEMA_VERSION, amend_manifest, read_manifest
from router.artifact.storage import pack
from router.errors import RouterError
from router.estimators import Ridge
from router.estimators.head import Head
from router.json_record import content_hash, text_of
from router.policies import Utility

RunRouter = Callable[..., Finished]
FIXTURES = Path(__file__).parent / "fixtures"
OLD = FIXTURES / "artifact-schema-1"
VERSIONS = sorted(path.name for path in FIXTURES.glob("artifact-schema-?"))
SMALL = ("head.onnx", "tokenizer.json")  # parts of the old fixture, beside encoder.onnx
PROMPTS = ("algebra question number 7", "poetry question number 7", "Füße 🇵🇪")
anywhere = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The old fixture, to change."""
    return Path(shutil.copytree(OLD, tmp_path / "artifact", copy_function=shutil.copyfile))


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """The old fixture in one file, to change."""
    return packed(OLD, tmp_path / "artifact.zip")


def packed(source: Path, target: Path) -> Path:
    pack(source, [path.name for path in source.iterdir()], target)
    return target


def decisions_of(place: Path, **options: Any) -> list[dict[str, Any]]:
    """What the router says of some prompts, without the name of the request."""
    loaded = router.load(place, **options)
    records = [loaded.route(prompt).to_dict() for prompt in PROMPTS]
    return [{key: value for key, value in one.items() if key != "request_id"} for one in records]


# ---- Every schema version -----------------------------------------------------------------------


def is_close(found: Any, expected: Any) -> bool:
    """Numbers as near as float32 gets on another processor; everything else alike."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            is_close(found[key], value) for key, value in expected.items()
        )
    return found == (pytest.approx(expected, rel=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("name", VERSIONS)
def test_an_old_artifact_decides_as_it_did(name: str) -> None:
    loaded = router.load(FIXTURES / name)
    told = json.loads((FIXTURES / f"{name}.decisions.json").read_text(encoding="utf-8"))
    assert len({one["decision"]["candidate"] for one in told}) > 1
    for one in told:
        decision = loaded.route(**one["asked"]).to_dict()
        for key, expected in one["decision"].items():
            if key != "reason":  # it holds rounded figures
                assert is_close(decision[key], expected), (one["asked"], key)


def test_the_fixtures_are_of_the_versions_that_they_name() -> None:
    found = [read_manifest(FIXTURES / name)["schema_version"] for name in VERSIONS]
    assert [f"artifact-schema-{version}" for version in found] == VERSIONS
    assert found == list(range(1, SCHEMA_VERSION + 1))


# ---- A folder and a zip file --------------------------------------------------------------------


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_decides_as_its_folder(tmp_path: Path, compression: int) -> None:
    place = tmp_path / "artifact.zip"
    with zipfile.ZipFile(place, "w", compression) as target:
        for path in OLD.iterdir():
            target.write(path, path.name)
    assert decisions_of(place) == decisions_of(OLD)


def test_equal_files_make_equal_bytes(folder: Path, zipped: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        os.utime(path, (10**9 + number, 10**9 + number))
        path.chmod(0o600)
    again = packed(folder, tmp_path / "again.zip")
    assert again.read_bytes() == zipped.read_bytes()
    with zipfile.ZipFile(again) as found:
        assert {member.compress_type for member in found.infolist()} == {zipfile.ZIP_STORED}
        assert found.namelist()[0] == "manifest.json"


def test_an_archive_gives_the_bytes_of_its_parts(folder: Path, zipped: Path) -> None:
    for place in (folder, zipped):
        with open_artifact(place) as archive:
            assert (archive.encoder, archive.head) == ("encoder.onnx", "head.onnx")
            assert sorted(archive.names) == sorted([archive.encoder, *SMALL])
            for name in archive.names:
                assert archive.read(name) == (OLD / name).read_bytes()
            assert archive.path(archive.head) == (folder / "head.onnx" if place == folder else None)
            assert archive.manifest == read_manifest(place)
            assert not archive.signed


def test_an_opened_zip_file_may_be_replaced_on_disk(zipped: Path, folder: Path) -> None:
    amend_manifest(folder, policy=Utility().to_dict())
    with open_artifact(zipped) as archive:
        os.replace(packed(folder, zipped.with_name("other.zip")), zipped)
        assert archive.manifest["policy"]["name"] == "Budget"
        assert archive.read("head.onnx") == (OLD / "head.onnx").read_bytes()
    with open_artifact(zipped) as archive:
        assert archive.manifest["policy"]["name"] == "Utility"


@pytest.mark.parametrize("place", ["folder", "zipped"])
def test_amending_changes_the_manifest_alone(
    request: pytest.FixtureRequest, place: str, tmp_path: Path
) -> None:
    artifact: Path = request.getfixturevalue(place)
    names = sorted(path.name for path in tmp_path.iterdir())
    amend_manifest(artifact, policy=Utility(cost_weight=10.0).to_dict())
    manifest = read_manifest(artifact)
    assert manifest["schema_version"] == 2  # as it is written now
    assert manifest["policy"]["cost_weight"] == 10.0
    assert manifest["golden"] == read_manifest(OLD)["golden"]
    assert router.load(artifact).policy == Utility(cost_weight=10.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


# ---- Damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
@anywhere
@given(data=st.data())
def test_a_flipped_or_cut_byte_of_a_folder_is_refused(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    folder = tmp_path / name
    if not folder.is_dir():
        shutil.copytree(FIXTURES / name, folder, copy_function=shutil.copyfile)
    path = folder / data.draw(st.sampled_from(sorted(part.name for part in folder.iterdir())))
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(whole)))
        with pytest.raises(RouterError):
            router.load(folder)
    finally:
        path.write_bytes(whole)


@settings(anywhere, max_examples=300)
@given(data=st.data())
def test_a_damaged_zip_file_is_refused_or_says_the_same(zipped: Path, data: st.DataObject) -> None:
    """A zip file has bytes that say nothing of its content: a time, who made it, rights."""
    whole = zipped.read_bytes()
    content = data.draw(damaged(whole, near=headers_of(whole)))
    try:
        zipped.write_bytes(content)
        with open_artifact(zipped) as archive:
            archive.check()
            same = {name: archive.read(name) for name in archive.names}
    except RouterError:
        pass
    else:
        assert same == {name: (OLD / name).read_bytes() for name in ("encoder.onnx", *SMALL)}
    finally:
        zipped.write_bytes(whole)


@anywhere
@given(data=st.data())
def test_a_zip_file_with_damaged_content_does_not_load(zipped: Path, data: st.DataObject) -> None:
    whole = zipped.read_bytes()
    with zipfile.ZipFile(zipped) as found:
        member = data.draw(st.sampled_from(found.infolist()))
    start = member.header_offset + 30 + len(member.filename)
    place = data.draw(st.integers(start, start + member.file_size - 1))
    try:
        zipped.write_bytes(flipped(whole, place, data.draw(st.integers(0, 7))))
        with pytest.raises(RouterError):
            router.load(zipped)
        zipped.write_bytes(whole[:place])
        with pytest.raises(RouterError):
            router.load(zipped)
    finally:
        zipped.write_bytes(whole)


def flipped(whole: bytes, place: int, bit: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]


def damaged(whole: bytes, near: list[int] | None = None) -> st.SearchStrategy[bytes]:
    """One bit flipped, or cut; half of the flips are at the places `near`."""
    places = st.integers(0, len(whole) - 1)
    spots = places | st.sampled_from(near) if near else places
    flips = st.builds(flipped, st.just(whole), spots, st.integers(0, 7))
    return flips | places.map(lambda place: whole[:place])


def headers_of(whole: bytes) -> list[int]:
    """Places of a zip file's own records."""
    signatures = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
    starts = [found.start() for mark in signatures for found in re.finditer(re.escape(mark), whole)]
    return [place for start in starts for place in range(start, min(start + 46, len(whole)))]


# ---- What a manifest may say --------------------------------------------------------------------


def reseal(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest that somebody made on purpose: its own hash is right."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    manifest["sha256"] = content_hash(manifest)
    (folder / "manifest.json").write_text(text_of(manifest), encoding="utf-8")


def renamed(manifest: dict[str, Any], name: str) -> None:
    manifest["files"][name] = manifest["files"].pop("head.onnx")


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


ENTRY = {"sha256": "0" * 64, "bytes": 1}
CRAFTED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a path upwards": (lambda m: renamed(m, "../head.onnx"), "files"),
    "a path within": (lambda m: renamed(m, "parts/head.onnx"), "files"),
    "an absolute path": (lambda m: renamed(m, "/etc/passwd"), "files"),
    "an unknown part": (lambda m: m["files"].update({"extra.bin": ENTRY}), "files"),
    "two heads": (lambda m: m["files"].update({"head.npz": ENTRY}), "files"),
    "two encoders": (lambda m: m["files"].update({"encoder.npy": ENTRY}), "files"),
    "no encoder": (lambda m: m["files"].pop("encoder.onnx"), "files"),
    "no files": (lambda m: m.pop("files"), "files"),
    "files in a list": (lambda m: m.update(files=list(m["files"])), "files"),
    "a size below none": (lambda m: m["files"]["head.onnx"].update(bytes=-1), "files"),
    "a size beyond all": (lambda m: m["files"]["head.onnx"].update(bytes=2**40), "files"),
    "a size that is no number": (lambda m: m["files"]["head.onnx"].update(bytes="9"), "files"),
    "a size that is a truth": (lambda m: m["files"]["head.onnx"].update(bytes=True), "files"),
    "a hash too short": (lambda m: m["files"]["head.onnx"].update(sha256="ab"), "files"),
    "no candidates": (lambda m: m.update(candidates=[]), "candidates"),
    "too many candidates": (lambda m: m.update(candidates=list(map(str, range(1001)))), "candid"),
    "a candidate twice": (lambda m: m.update(candidates=["a", "a", "b"]), "candidates"),
    "a candidate that is a number": (lambda m: m.update(candidates=["a", 1, "b"]), "candidates"),
    "a policy without a name": (lambda m: m.update(policy={}), "policy"),
    "a price missing": (lambda m: m["prices"].pop("large"), "prices"),
    "a price below none": (lambda m: m["prices"]["large"].update(input=-1.0), "prices"),
    "a price of text": (lambda m: m["prices"]["large"].update(input="1"), "prices"),
    "a price without a day": (lambda m: m["prices"]["large"].pop("date"), "prices"),
    "golden figures too few": (lambda m: m["golden"][0].update(quality=[0.5]), "golden"),
    "golden text": (lambda m: m["golden"][0].update(vector=["x"]), "golden"),
    "a golden prompt missing": (lambda m: m["golden"][0].pop("prompt"), "golden"),
    "an encoder in a list": (lambda m: m.update(encoder=[1]), "encoder"),
    "content too deep": (lambda m: m.update(data=nested(40)), "levels deep"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_manifest_is_refused(folder: Path, case: str) -> None:
    change, told = CRAFTED[case]
    reseal(folder, change)
    with pytest.raises(RouterError, match=rf"manifest\.json: its .*{told}.*; export the router ag"):
        router.load(folder)
    with pytest.raises(RouterError):
        router.load(packed(folder, folder.with_name("crafted.zip")))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = ("files", "candidates", "policy", "prices", "golden", "encoder", "schema_version")


@settings(anywhere, max_examples=150)
@given(key=st.sampled_from(KEYS), value=values)
def test_no_entry_of_a_manifest_makes_another_error(folder: Path, key: str, value: Any) -> None:
    reseal(folder, lambda manifest: manifest.update({key: value}))
    try:
        with contextlib.suppress(RouterError):
            router.load(folder)
    finally:
        shutil.copyfile(OLD / "manifest.json", folder / "manifest.json")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the manifest's texts, numbers and nulls stand."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for place, inner in enumerate(value) for leaf in leaves(inner, (*path, place))]
    return [path]


LEAVES = [
    leaf
    for leaf in leaves(json.loads((OLD / "manifest.json").read_text(encoding="utf-8")))
    if leaf[0] not in ("sha256", "policy")  # a policy's parameters are its own affair
]


@settings(anywhere, max_examples=200)
@given(leaf=st.sampled_from(LEAVES), value=values)
def test_no_value_within_a_manifest_makes_another_error(
    folder: Path, leaf: tuple[Any, ...], value: Any
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        inner: Any = manifest
        for key in leaf[:-1]:
            inner = inner[key]
        inner[leaf[-1]] = value

    reseal(folder, change)
    try:
        with contextlib.suppress(RouterError):
            router.load(folder).route(PROMPTS[0])
    finally:
        shutil.copyfile(OLD / "manifest.json", folder / "manifest.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000])
def test_a_manifest_that_cannot_be_parsed_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RouterError, match="export the router again"):
        router.load(folder)


def test_a_manifest_too_large_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(2**40)  # of holes: it takes no space
    with pytest.raises(RouterError, match="too large for a router's manifest"):
        router.load(folder)


def test_a_part_larger_than_the_manifest_says_is_not_read(folder: Path) -> None:
    with (folder / "encoder.onnx").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(RouterError, match=r"encoder\.onnx: damaged"):
        router.load(folder)


def test_a_pipe_in_place_of_a_part_does_not_block(folder: Path) -> None:
    (folder / "head.onnx").unlink()
    os.mkfifo(folder / "head.onnx")
    with pytest.raises(RouterError, match=r"head\.onnx: not a file"):
        router.load(folder)


# ---- What a zip file may hold -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["extra.txt", "../evil", "/etc/passwd", "parts/head.onnx", "a/"])
def test_a_zip_file_with_another_file_is_refused(zipped: Path, name: str) -> None:
    with zipfile.ZipFile(zipped, "a") as target:
        target.writestr(name, b"")
    with pytest.raises(RouterError, match=re.escape(f"holds {name!r}, which is no part")):
        router.load(zipped)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_file_with_a_part_twice_is_refused(zipped: Path) -> None:
    with zipfile.ZipFile(zipped, "a") as target:
        target.writestr("head.onnx", b"another")
    with pytest.raises(RouterError, match="or one twice"):
        router.load(zipped)


def test_a_zip_file_with_a_thousand_files_is_refused(zipped: Path) -> None:
    with zipfile.ZipFile(zipped, "a") as target:
        for number in range(1000):
            target.writestr(str(number), b"")
    with pytest.raises(RouterError, match="more than 16 files"):
        router.load(zipped)


def test_the_artifact_lies_at_the_top_of_a_zip_file(tmp_path: Path) -> None:
    place = tmp_path / "artifact.zip"
    with zipfile.ZipFile(place, "w") as target:
        for path in OLD.iterdir():
            target.write(path, f"artifact/{path.name}")
    with pytest.raises(RouterError, match=r"no artifact here \(manifest\.json is missing\)"):
        router.load(place)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_zip_file_is_told(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "artifact.zip"
    place.write_bytes(content)
    with pytest.raises(RouterError, match=r"neither a folder nor a whole zip|no artifact here"):
        router.load(place)


def test_a_missing_part_of_a_zip_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    place = packed(folder, tmp_path / "less.zip")
    with pytest.raises(RouterError, match=r"less\.zip/tokenizer\.json: missing from the artifact"):
        router.load(place)


def deflated(folder: Path, place: Path, larger: str, size: int) -> Path:
    """The artifact with one part that unfolds to many zeros."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as target:
        for path in folder.iterdir():
            content = bytes(size) if path.name == larger else path.read_bytes()
            target.writestr(path.name, content)
    return place


@pytest.mark.parametrize("name", ["manifest.json", "head.onnx", "tokenizer.json"])
def test_a_bomb_is_refused_by_its_size(tmp_path: Path, name: str) -> None:
    place = deflated(OLD, tmp_path / "bomb.zip", name, 2**26)
    with pytest.raises(RouterError, match=r"too large for a router's|damaged"):
        router.load(place)


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """Its directory tells the size that the manifest tells; more is never unfolded."""
    place = deflated(OLD, tmp_path / "bomb.zip", "head.onnx", 2**26)
    told = struct.pack("<I", (OLD / "head.onnx").stat().st_size)
    place.write_bytes(place.read_bytes().replace(struct.pack("<I", 2**26), told))
    with pytest.raises(RouterError, match=r"head\.onnx: damaged"):
        router.load(place)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_not_read(tmp_path: Path, compression: int) -> None:
    place = tmp_path / "artifact.zip"
    with zipfile.ZipFile(place, "w", compression) as target:
        for path in OLD.iterdir():
            target.write(path, path.name)
    with pytest.raises(RouterError, match="compressed in a way that is not read here"):
        router.load(place)


# ---- Signatures ---------------------------------------------------------------------------------


def pem(path: Path, key: Any, passphrase: bytes | None = None) -> Path:
    form = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form)
    )
    return path


def public_pem(path: Path, key: Any) -> Path:
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a private and of its public key."""
    key = Ed25519PrivateKey.generate()
    return pem(tmp_path / "private.pem", key), public_pem(tmp_path / "public.pem", key)


@pytest.fixture(params=["folder", "zipped"])
def place(request: pytest.FixtureRequest) -> Path:
    """The old fixture in either form, to change."""
    found: Path = request.getfixturevalue(request.param)
    return found


def sign(run_router: RunRouter, place: Path, key: Path) -> None:
    finished = run_router("sign", "--artifact", place, "--key", key)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out == f"Signed     {place}\n"


def test_a_signed_artifact_is_loaded(
    run_router: RunRouter, place: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    sign(run_router, place, private)
    sign(run_router, place, private)  # in place of the first
    assert decisions_of(place, public_key=public) == decisions_of(OLD)
    assert decisions_of(place, public_key=str(public)) == decisions_of(place)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with open_artifact(place) as archive:
        assert archive.signed


def test_the_signature_is_the_plain_one_of_the_manifest(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path]
) -> None:
    sign(run_router, folder, keys[0])
    public = serialization.load_pem_public_key(keys[1].read_bytes())
    signature = (folder / "manifest.sig").read_bytes()
    public.verify(signature, (folder / "manifest.json").read_bytes())  # type: ignore[union-attr, call-arg]
    assert len(signature) == 64


def test_an_unsigned_artifact_is_refused_where_a_key_is_given(
    place: Path, keys: tuple[Path, Path]
) -> None:
    with pytest.raises(RouterError, match=r"not signed \(manifest\.sig is missing\); sign it with"):
        router.load(place, public_key=keys[1])


def test_the_signature_of_another_is_refused(
    run_router: RunRouter, place: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    sign(run_router, place, pem(tmp_path / "another.pem", Ed25519PrivateKey.generate()))
    with pytest.raises(
        RouterError, match=r"its signature is not one by the owner of .*public\.pem"
    ):
        router.load(place, public_key=keys[1])


def test_an_altered_artifact_is_refused(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path]
) -> None:
    sign(run_router, folder, keys[0])
    reseal(folder, lambda manifest: manifest["policy"].update(budget=0.01))
    router.load(folder)  # without a key, nobody is asked who made it
    with pytest.raises(RouterError, match="or the artifact was altered since"):
        router.load(folder, public_key=keys[1])


def test_a_part_changed_after_signing_is_refused(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path]
) -> None:
    sign(run_router, folder, keys[0])
    content = (folder / "head.onnx").read_bytes()
    (folder / "head.onnx").write_bytes(flipped(content, len(content) // 2, 0))
    with pytest.raises(RouterError, match=r"head\.onnx: damaged"):
        router.load(folder, public_key=keys[1])


@anywhere
@given(signature=st.binary(max_size=80))
def test_no_other_bytes_are_a_signature(
    folder: Path, keys: tuple[Path, Path], signature: bytes
) -> None:
    (folder / "manifest.sig").write_bytes(signature)
    with pytest.raises(RouterError, match="its signature is not one by"):
        router.load(folder, public_key=keys[1])


def test_an_appended_signature_is_none(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path]
) -> None:
    sign(run_router, folder, keys[0])
    with (folder / "manifest.sig").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(RouterError, match="its signature is not one by"):
        router.load(folder, public_key=keys[1])


def test_amending_removes_the_signature(
    run_router: RunRouter, place: Path, keys: tuple[Path, Path]
) -> None:
    sign(run_router, place, keys[0])
    amend_manifest(place, policy=Utility().to_dict())
    with pytest.raises(RouterError, match="not signed"):
        router.load(place, public_key=keys[1])
    sign(run_router, place, keys[0])
    assert router.load(place, public_key=keys[1]).policy == Utility()


def test_a_damaged_artifact_is_not_signed(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path]
) -> None:
    (folder / "head.onnx").write_bytes(b"another")
    finished = run_router("sign", "--artifact", folder, "--key", keys[0])
    assert finished.code == 2
    assert "head.onnx: damaged" in finished.err
    assert not (folder / "manifest.sig").exists()


def test_an_encrypted_key_needs_its_passphrase(
    run_router: RunRouter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Ed25519PrivateKey.generate()
    private = pem(tmp_path / "private.pem", key, b"a long passphrase")
    public = public_pem(tmp_path / "public.pem", key)
    arguments = ("sign", "--artifact", folder, "--key", private)
    for passphrase, told in (
        (None, "set the environment variable ROUTER_KEY_PASSPHRASE to its passphrase"),
        ("another", "no private key that can be read"),
    ):
        if passphrase:
            monkeypatch.setenv("ROUTER_KEY_PASSPHRASE", passphrase)
        finished = run_router(*arguments)
        assert finished.code == 2
        assert told in finished.err
        assert not (folder / "manifest.sig").exists()
    monkeypatch.setenv("ROUTER_KEY_PASSPHRASE", "a long passphrase")
    assert run_router(*arguments).code == 0
    router.load(folder, public_key=public)


def test_a_passphrase_for_a_plain_key_is_told(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER_KEY_PASSPHRASE", "needless")
    finished = run_router("sign", "--artifact", folder, "--key", keys[0])
    assert finished.code == 2
    assert "unset the environment variable ROUTER_KEY_PASSPHRASE" in finished.err


def test_a_key_that_cannot_be_used_is_told(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    sign(run_router, folder, private)
    curve = ec.generate_private_key(ec.SECP256R1())
    other, other_public = pem(tmp_path / "ec.pem", curve), public_pem(tmp_path / "ecp.pem", curve)
    text = tmp_path / "text.pem"
    text.write_text("no key")
    for key, told in (
        (other, "not an Ed25519 key; make one with openssl genpkey -algorithm ed25519"),
        (public, "no private key that can be read"),
        (text, "no private key that can be read"),
        (tmp_path / "nowhere.pem", "nowhere.pem: the key cannot be read (No such file"),
    ):
        finished = run_router("sign", "--artifact", folder, "--key", key)
        assert finished.code == 2
        assert told in finished.err
    for key, told in (
        (other_public, "not an Ed25519 key"),
        (private, "no public key in PEM"),
        (text, "no public key in PEM"),
        (tmp_path / "nowhere.pem", "the key cannot be read"),
    ):
        with pytest.raises(RouterError, match=told):
            router.load(folder, public_key=key)


def test_signatures_without_the_serve_tier_say_what_to_install(folder: Path) -> None:
    done = run_guarded(
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'cryptography':\n"
        "            raise ModuleNotFoundError('no ' + name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import router\n"
        "from router.cli import main\n"
        "main(['inspect', '--artifact', sys.argv[1]])\n"
        "try:\n"
        "    router.load(sys.argv[1], public_key='key.pem')\n"
        "except router.RouterError as error:\n"
        "    print(error)\n"
        "main(['sign', '--artifact', sys.argv[1], '--key', 'key.pem'])\n",
        folder,
    )
    told = "Signatures need the serve tier: pip install 'query-router[serve]'."
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == told
    assert done.stderr == f"router: {told}\n"


# ---- router inspect -----------------------------------------------------------------------------


def test_inspect_says_what_an_artifact_is(run_router: RunRouter, place: Path) -> None:
    finished = run_router("inspect", "--artifact", place)
    assert (finished.code, finished.err) == (0, "")
    form = "folder" if place.is_dir() else "zip file"
    for line in (
        f"Artifact   {place}, a {form} of schema version 1, 0.1 MB",
        "Files      all 3 as their hashes say",
        "Signature  none",
        "Golden     3 prompts computed alike here",
        "Encoder    encoder.onnx, onnx, precision fp32, 0.1 MB",
        "Head       head.onnx, onnx, 23.8 kB",
        "Candidates large: $10 in, $40 out per million tokens, of 2026-01-01",
        "           small: $0.1 in, $0.4 out per million tokens, of 2026-01-01",
        "Prices     version 2026-01-01-548bb6abbb85",
        "Data       table, SHA-256 70de1d1d6e8f",
    ):
        assert line in finished.out.splitlines()
    assert "Policy     Budget, budget 0.0015" in finished.out
    assert "Test       quality 0.6237 [0.4762, 0.7362], USD 0.7786 per 1,000" in finished.out
    assert "Verdict    does not pay. The router is cheaper, but worse" in finished.out


def test_inspect_as_json(run_router: RunRouter, place: Path, keys: tuple[Path, Path]) -> None:
    def record(*more: str | Path) -> dict[str, Any]:
        finished = run_router("inspect", "--json", "--artifact", place, *more)
        assert (finished.code, finished.err) == (0, "")
        content: dict[str, Any] = json.loads(finished.out)
        return content

    found, manifest = record(), read_manifest(OLD)
    for key in ("schema_version", "candidates", "policy", "prices", "metrics", "verdict", "files"):
        assert found[key] == manifest[key]
    assert found["golden"] is None
    assert found["bytes"] == sum((OLD / name).stat().st_size for name in manifest["files"])
    assert found["signature"] == "none"
    sign(run_router, place, keys[0])
    assert record()["signature"] == "not checked"
    assert record("--public-key", keys[1])["signature"] == "good"


def test_inspect_of_an_unjudged_artifact_without_prices(
    run_router: RunRouter, folder: Path
) -> None:
    # The figures of a head for tokens are no dollars, so the golden costs are others.
    amend_manifest(folder, prices=None, metrics=None, verdict=None, golden=[])
    finished = run_router("inspect", "--artifact", folder)
    assert finished.code == 0, finished.err
    assert "Candidates large, medium, small\n" in finished.out
    assert "Prices     none: costs are those of the log\n" in finished.out
    assert "Verdict    none: not judged yet\n" in finished.out
    assert "Test " not in finished.out


def test_inspect_tells_of_another_machine(run_router: RunRouter, folder: Path) -> None:
    golden = read_manifest(folder)["golden"]
    golden[0]["quality"][0] += 0.5
    amend_manifest(folder, golden=golden)
    finished = run_router("inspect", "--artifact", folder)
    assert finished.code == 2
    assert "golden vectors differ" in finished.err
    assert "Golden     " in finished.out
    assert "Policy     Budget" in finished.out


def test_inspect_refuses_what_is_damaged_or_badly_signed(
    run_router: RunRouter, folder: Path, keys: tuple[Path, Path]
) -> None:
    finished = run_router("inspect", "--artifact", folder, "--public-key", keys[1])
    assert (finished.code, finished.out) == (2, "")
    assert "not signed" in finished.err
    (folder / "tokenizer.json").write_text("{}")
    finished = run_router("inspect", "--artifact", folder)
    assert (finished.code, finished.out) == (2, "")
    assert "tokenizer.json: damaged" in finished.err


# ---- Writing ------------------------------------------------------------------------------------


class GivenEncoder:
    """Gives the old fixture's encoder, with facts beside it."""

    def __init__(self, folder: Path, facts: dict[str, Any] | None):
        self.folder = folder
        for name in ("encoder.onnx", "tokenizer.json"):
            shutil.copyfile(OLD / name, folder / name)
        if facts is not None:
            (folder / "encoder.json").write_text(json.dumps(facts), encoding="utf-8")

    def export(self) -> Path:
        return self.folder


def export(place: Path, encoder: Any) -> router.Router:
    outcomes = make_problem(60)[1]
    X = router.load(OLD).encode(outcomes.prompts)
    head = Head(Ridge(), Ridge()).fit(X, outcomes)
    description = Description(None, {"name": "table", "sha256": "0" * 64}, {})
    return write_artifact(place, encoder, head, Utility(10.0), outcomes.candidates, description)


@pytest.mark.parametrize("facts", [None, {"kind": "onnx", "precision": "int8", "tried": []}])
def test_an_artifact_tells_what_its_encoder_tells(
    tmp_path: Path, facts: dict[str, Any] | None
) -> None:
    given_encoder, out, again = tmp_path / "encoder", tmp_path / "out", tmp_path / "again"
    for place in (given_encoder, out, again):
        place.mkdir()
    encoder = GivenEncoder(given_encoder, facts)
    assert export(out, encoder).manifest["encoder"] == facts
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["manifest.json", *read_manifest(out)["files"]]
    )

    class Exported:
        def export(self) -> Path:
            return out

    assert export(again, Exported()).manifest["encoder"] == facts


def test_an_artifact_is_written_as_one_file(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "folder").mkdir()
    encoder = GivenEncoder(tmp_path / "encoder", None)
    written = export(tmp_path / "new.zip", encoder)
    beside = export(tmp_path / "folder", encoder)
    assert written.route(PROMPTS[0]).quality == beside.route(PROMPTS[0]).quality
    assert read_manifest(tmp_path / "new.zip")["schema_version"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "folder", "new.zip"]


def test_a_copy_under_another_policy_is_written_as_one_file(tmp_path: Path) -> None:
    copied = copy_artifact(OLD, tmp_path / "copy.zip", Utility(), {}, {"quality": 0.5})
    assert copied.policy == Utility()
    assert copied.manifest["metrics"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["copy.zip"]


# ---- Every verb that takes an artifact takes one file -------------------------------------------


@pytest.fixture
def workbench(tmp_path: Path, zipped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with artifact.zip, table.csv of its candidates and prices.yaml."""
    monkeypatch.chdir(tmp_path)
    make_table(80, seed=3, costs="tokens")[0].to_csv("table.csv", index=False)
    prices = [
        f"  {name}: {{input: {one.input}, output: {one.output}, date: {one.date}}}"
        for name, one in PRICES.prices.items()
    ]
    Path("prices.yaml").write_text("\n".join(["models:", *prices]))
    return tmp_path


TABLE = ("data=table", "data.path=table.csv", "data.prices=prices.yaml", "hydra.run.dir=out")


@pytest.mark.usefixtures("workbench")
def test_evaluate_takes_a_zip_file(run_router: RunRouter) -> None:
    finished = run_router(
        "evaluate", "artifact=artifact.zip", *TABLE, "split=all", "evaluation.resamples=20"
    )
    assert finished.code == 0, finished.err
    assert json.loads(Path("out/metrics.json").read_text())["policy"]["name"] == "Budget"


@pytest.mark.usefixtures("workbench")
def test_gate_takes_a_zip_file(run_router: RunRouter) -> None:
    finished = run_router(
        "gate", "candidate=artifact.zip", "incumbent=large", *TABLE, "split=all", "least_groups=20",
        "signed_off_by=Ada", "tracking=none",
    )  # fmt: skip
    assert finished.code in (0, 1), finished.err
    assert "artifact.zip for large" in finished.out
    record = json.loads(Path("out/gate.json").read_text())
    assert record["candidate"]["manifest_sha256"] == read_manifest(OLD)["sha256"]


@pytest.mark.usefixtures("workbench")
def test_drift_takes_a_zip_file(run_router: RunRouter) -> None:
    make_table(60, seed=4, costs="tokens")[0].to_csv("reference.csv", index=False)
    finished = run_router(
        "drift", "artifact=artifact.zip", *TABLE, "data@reference=table", "least_groups=20",
        "reference.path=reference.csv", "reference.prices=prices.yaml", "smallest.vectors=0.9",
    )  # fmt: skip
    assert "Verdict" in finished.out, finished.err
    record = json.loads(Path("out/drift.json").read_text())
    assert record["artifact"] == read_manifest(OLD)["sha256"]


@pytest.mark.usefixtures("workbench")
def test_allocate_takes_a_zip_file(run_router: RunRouter) -> None:
    Path("prompts.csv").write_text("query_id,prompt\n1,algebra question\n2,poetry question\n")
    finished = run_router(
        "allocate", "artifact=artifact.zip", "prompts=prompts.csv", "budget=0.01", "out=plan.csv"
    )
    assert finished.code == 0, finished.err
    assert len(Path("plan.csv").read_text().splitlines()) == 3


def test_route_takes_a_zip_file(run_router: RunRouter, zipped: Path) -> None:
    finished = run_router("route", "--artifact", zipped, "--json", PROMPTS[0])
    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["candidate"] == decisions_of(OLD)[0]["candidate"]


@pytest.mark.usefixtures("workbench")
def test_ope_takes_a_zip_file(run_router: RunRouter, workplace: Workplace) -> None:
    table = make_table(80, seed=3, costs="tokens")[0]
    drawn = np.random.default_rng(0).choice(["large", "medium", "small"], len(table))
    logged = table[table["model"].to_numpy() == drawn].drop_duplicates("query_id")
    logged.assign(propensity=1 / 3).to_csv("log.csv", index=False)
    finished = run_router(
        "ope", "artifact=artifact.zip", *TABLE, "data.path=log.csv", *workplace.encoder,
        "estimator=ridge", "evaluation.resamples=50", "evaluation.least_effective=0",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    record = json.loads(Path("out/ope.json").read_text())
    assert record["target"]["manifest_sha256"] == read_manifest(OLD)["sha256"]


@pytest.mark.usefixtures("workbench")
def test_a_model_named_like_a_file_is_still_a_model(run_router: RunRouter) -> None:
    Path("large").write_text("not an artifact")
    finished = run_router(
        "gate", "candidate=artifact.zip", "incumbent=large", *TABLE, "split=all", "least_groups=20",
        "signed_off_by=Ada", "tracking=none",
    )  # fmt: skip
    assert finished.code in (0, 1), finished.err
