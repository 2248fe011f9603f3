"""Source: levels with reasons, and author signatures by real GnuPG keys made for the test."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from starloom.skills import read_skill
from starloom.skills.errors import Changed, Expired, Revoked, Unsigned
from starloom.skills.manifest import SIGNATURE_NAME, canonical, manifest
from starloom.skills.source import AuthorKeys, Level, Publisher, assess

from skill_fixtures import made


class Gpg:
    """A GnuPG home with secret keys, for the author's side."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self.home = home

    def __call__(self, *words: str, data: bytes = b"") -> bytes:
        command = [
            "gpg",
            "--homedir",
            str(self.home),
            "--batch",
            "--yes",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]
        return subprocess.run(
            [*command, *words], input=data, capture_output=True, check=True, timeout=60
        ).stdout

    def key(self, name: str, expires: str = "never", *more: str) -> str:
        self(
            *more,
            "--quick-generate-key",
            f"{name} <{name}@example.org>",
            "ed25519",
            "sign",
            expires,
        )
        listed = self("--with-colons", "--list-keys", name).decode()
        return next(it.split(":")[9] for it in listed.splitlines() if it.startswith("fpr"))


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    made_ = Gpg(tmp_path_factory.mktemp("g") / "home")
    yield made_
    subprocess.run(
        ["gpgconf", "--homedir", str(made_.home), "--kill", "all"], check=False, timeout=20
    )


def signed(folder: Path, gpg: Gpg, key: str, *more: str) -> Path:
    skill = read_skill(
        made(folder, {"SKILL.md": "Hello.\n", "scripts/a.sh": "#!/bin/sh\necho hi\n"})
    )
    data = canonical(manifest(skill))
    (folder / SIGNATURE_NAME).write_bytes(
        gpg(*more, "--local-user", key, "--armor", "--detach-sign", data=data)
    )
    return folder


def test_a_pinned_key_gives_its_level_and_a_changed_byte_takes_it(tmp_path: Path, gpg: Gpg) -> None:
    """The full fingerprint counts; the same skill with one byte more is UNKNOWN, with the reason."""
    key = gpg.key("alice")
    folder = signed(tmp_path / "demo", gpg, key)
    alice = Publisher(
        "Alice", Level.OFFICIAL, "makes the agent", (key,), ("https://alice.test/skills",)
    )
    with AuthorKeys(gpg("--armor", "--export", key)) as keys:
        good = assess(read_skill(folder), "", [alice], keys)
        (folder / "scripts" / "a.sh").write_text("#!/bin/sh\necho ho\n")
        bad = assess(read_skill(folder), "https://alice.test/skills/demo", [alice], keys)
    assert (good.level, good.publisher) == (Level.OFFICIAL, "Alice")
    assert bad.level is Level.UNKNOWN
    assert any("not those that the author signed" in it for it in bad.reasons)


def test_a_key_that_is_in_the_home_but_not_pinned_counts_for_nothing(
    tmp_path: Path, gpg: Gpg
) -> None:
    """Gpg says `valid` for any key that it knows; we ask which."""
    key, other = gpg.key("mallory"), gpg.key("bob")
    folder = signed(tmp_path / "demo", gpg, key)
    data = canonical(manifest(read_skill(folder)))
    with AuthorKeys(gpg("--armor", "--export", key), gpg("--armor", "--export", other)) as keys:
        signature = (folder / SIGNATURE_NAME).read_bytes()
        with pytest.raises(Unsigned, match="not a pinned key"):
            keys.verify(data, signature, {other})
        assert keys.verify(data, signature, {key}).fingerprint == key
        with pytest.raises(Changed):
            keys.verify(data + b"x", signature, {key})
        with pytest.raises(Unsigned):
            keys.verify(data, b"no signature at all", {key})


def test_expired_and_revoked_keys_are_refused(tmp_path: Path, gpg: Gpg) -> None:
    """A key that ended yesterday, and one that its owner revoked after signing."""
    old = gpg.key("carol", "1d", "--faked-system-time", "20240101T000000")
    folder = signed(tmp_path / "a", gpg, old, "--faked-system-time", "20240101T010000")
    data, signature = (
        canonical(manifest(read_skill(folder))),
        (folder / SIGNATURE_NAME).read_bytes(),
    )
    with AuthorKeys(gpg("--armor", "--export", old)) as keys, pytest.raises(Expired):
        keys.verify(data, signature, {old})
    gone = gpg.key("dave")
    folder = signed(tmp_path / "b", gpg, gone)
    data, signature = (
        canonical(manifest(read_skill(folder))),
        (folder / SIGNATURE_NAME).read_bytes(),
    )
    certificate = (gpg.home / "openpgp-revocs.d" / f"{gone}.rev").read_text()
    gpg("--import", data=certificate.replace(":-----BEGIN", "-----BEGIN").encode())
    with AuthorKeys(gpg("--armor", "--export", gone)) as keys, pytest.raises(Revoked):
        keys.verify(data, signature, {gone})


def test_an_address_is_believed_only_without_pinned_keys_and_never_fully(tmp_path: Path) -> None:
    """OFFICIAL by address becomes COMMUNITY; a publisher with keys is UNKNOWN without a signature."""
    skill = read_skill(made(tmp_path / "demo", {"SKILL.md": "x"}))
    open_ = Publisher("Open", Level.OFFICIAL, "known", (), ("https://open.test/skills",))
    keyed = Publisher("Keyed", Level.OFFICIAL, "known", ("A" * 40,), ("https://keyed.test",))
    levels = {
        origin: assess(skill, origin, [open_, keyed]).level
        for origin in (
            "https://open.test/skills/a",
            "https://open.test/skillsevil/a",
            "https://keyed.test/a",
            "",
        )
    }
    assert list(levels.values()) == [Level.COMMUNITY, Level.UNKNOWN, Level.UNKNOWN, Level.UNKNOWN]


def test_provenance_has_the_hash_of_every_file(tmp_path: Path) -> None:
    """As many hashes as files, whatever the level."""
    skill = read_skill(made(tmp_path / "demo", {"SKILL.md": "x", "a/b.txt": "y"}))
    assert sorted(assess(skill).files) == ["SKILL.md", "a/b.txt"]
