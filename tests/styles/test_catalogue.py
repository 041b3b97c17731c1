"""The catalogue: the public styles, and rows of the user's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclegan_cli.errors import UsageError
from cyclegan_cli.files import home_dir
from cyclegan_cli.styles.catalogue import Digest, entries, user_catalogue
from cyclegan_cli.styles.store import find_style, list_styles, weights_file

ROW = """
[[generator]]
style = "ours"
direction = "xy"
x = "photo"
y = "ours"
file = "ours.safetensors"
addresses = ["https://styles.example/{file}", "http://second.example/sub/{file}"]
sha256 = "%s"
licence = "CC-BY-4.0"
""" % ("ab" * 32)


def write(text: str) -> None:
    home_dir().mkdir(parents=True, exist_ok=True)
    user_catalogue().write_text(text)


PUBLIC = {
    "monet-public": ("style_monet", "283b3f15edc9636048ea2a6b548e3161ccd545d0", "monet2photo"),
    "vangogh-public": ("style_vangogh", "c6fc74049615b1c71b8be287bfdb12ec4f6170d4", None),
    "cezanne": ("style_cezanne", "ec3e20a99bcf3e0c15eb601ab00b9055eaafcf12", None),
    "ukiyoe": ("style_ukiyoe", "04d13a1a7724d6aa7d22f8d49efd1762fb324a87", None),
    "horse2zebra": ("horse2zebra", "16f2795c19239c2c78a67364ce8b4664bc57e5f6", "zebra2horse"),
    "apple2orange": ("apple2orange", "a291a298b3728caa339b8fa3359d5898b3e28ee0", "orange2apple"),
    "summer2winter_yosemite": (
        "summer2winter_yosemite",
        "b8ecbd82b8a8c6b60a0b5e0a7a1c4c83c7eb38e9",
        "winter2summer_yosemite",
    ),
    "map2sat": ("map2sat", None, "sat2map"),
    "cityscapes": ("cityscapes_photo2label", None, "cityscapes_label2photo"),
    "facades": ("facades_photo2label", None, "facades_label2photo"),
    "iphone2dslr_flower": ("iphone2dslr_flower", None, None),
}


def test_the_public_styles_are_all_there() -> None:
    found = entries()
    assert set(found) == set(PUBLIC)
    base = "://efrosgans.eecs.berkeley.edu/cyclegan/pretrained_models/"
    for name, (forward, blob, back) in PUBLIC.items():
        rows = found[name]
        assert set(rows) == ({"xy", "yx"} if back else {"xy"})
        assert rows["xy"].digest == (Digest("git_blob", blob) if blob else None)
        for way, file in (("xy", forward), ("yx", back)):
            if file:
                row = rows[way]  # type: ignore[index]
                addresses = (f"https{base}{file}.pth", f"http{base}{file}.pth")
                assert row.addresses == addresses
                assert row.licence
    winter = found["summer2winter_yosemite"]["yx"].digest
    assert winter == Digest("git_blob", "80186759e5c2f6dc4d303c443d6f954c99aa57e7")


def test_available_styles_are_listed_and_found() -> None:
    monet = find_style("monet-public")
    assert (monet.origin, monet.x, monet.y, monet.ways) == (
        "available",
        "photo",
        "monet",
        ("xy", "yx"),
    )
    assert monet.directions == {}
    assert {style.name for style in list_styles()} == set(PUBLIC)
    assert list_styles(available=False) == []
    with pytest.raises(UsageError, match="not on this machine") as caught:
        weights_file(monet, False)
    assert caught.value.hint == "cyclegan pretrained download monet-public"


def test_rows_of_the_users_are_added() -> None:
    write(ROW)
    row = entries()["ours"]["xy"]
    assert row.addresses == (
        "https://styles.example/ours.safetensors",
        "http://second.example/sub/ours.safetensors",
    )
    assert row.digest == Digest("sha256", "ab" * 32)
    assert set(entries()) == {*PUBLIC, "ours"}
    assert find_style("ours").card["licence"] == "CC-BY-4.0"


def test_rows_of_the_users_replace_the_packages() -> None:
    write(ROW.replace('"ours"', '"monet-public"'))
    rows = entries()["monet-public"]
    assert rows["xy"].file == "ours.safetensors"
    assert rows["yx"].file == "monet2photo.pth"


def test_servers_are_named_once() -> None:
    text = '[servers.team]\naddresses = ["https://t.example/{file}"]\nlicence = "ours"\n'
    row = '[[generator]]\nstyle = "s"\ndirection = "yx"\nx = "a"\ny = "b"\n'
    write(text + row + 'server = "team"\nfile = "f.pth"\n')
    found = entries()["s"]["yx"]
    assert (found.addresses, found.licence) == (("https://t.example/f.pth",), "ours")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('style = "ours"', 'style = "../up"', "cannot be a name"),
        ('style = "ours"', "", "it has no 'style'"),
        ('style = "ours"', "style = 3", "number 1"),
        ('"xy"', '"up"', "direction"),
        ("https://styles", "file://styles", "https:// or http://"),
        ('"ours.safetensors"', '"../x"', "not the name of a file"),
        ('"ours.safetensors"', '".x"', "not the name of a file"),
        ("ab" * 32, "ab" * 20, "64 hexadecimal digits"),
        ("ab" * 32, "zz" * 32, "64 hexadecimal digits"),
        ('x = "photo"', 'x = "photo"\nserver = "none"', "it has no 'none'"),
        ('x = "photo"', 'x = "photo"\nsize_limit = "big"', "size_limit"),
        ("addresses = [", "addresses = [3, ", "https:// or http://"),
        ('style = "ours"', "style = ", "is not TOML"),
    ],
)
def test_a_bad_row_is_named(old: str, new: str, complaint: str) -> None:
    assert old in ROW
    write(ROW.replace(old, new))
    with pytest.raises(UsageError, match=complaint) as caught:
        entries()
    assert str(user_catalogue()) in str(caught.value)


_value = st.none() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)


@settings(deadline=None, max_examples=100)
@given(
    key=st.sampled_from(["style", "direction", "x", "file", "addresses", "sha256"]), value=_value
)
def test_any_row_is_understood_or_refused(key: str, value: object) -> None:
    from cyclegan_cli.styles.catalogue import Row, _row

    row: dict[str, object] = {"style": "s", "direction": "xy", "x": "a", "y": "b", "file": "f"}
    row = {**row, "addresses": ["https://a.example/{file}"], key: value}
    try:
        assert isinstance(_row(row, {}), Row)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        return
