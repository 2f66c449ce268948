# SPDX-License-Identifier: Apache-2.0
"""Outputs that would replace an input, by whichever way it is reached."""

import pytest

from deeplab_infer.commands.output_names import OutputNames
from deeplab_infer.errors import DeepLabError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "a.png").symlink_to(folder / "a.png")
    return tmp_path


@pytest.mark.parametrize("given", ["photos/a.png", "linked/a.png", "alone/a.png", "alone/../photos/a.png"])
@pytest.mark.parametrize("folder", ["photos", "linked"])
@pytest.mark.parametrize("known", [True, False])
def test_inputs_in_the_output_folder(photos, monkeypatch, given, folder, known):
    monkeypatch.chdir(photos)
    for name in (given, str(photos / given)):
        names = OutputNames([name] if known else [], folder=folder)
        with pytest.raises(DeepLabError, match=r"the output a\.png would overwrite an input image"):
            names.stem(name, [".png"])
        assert OutputNames([name] if known else [], folder=folder).stem(name, ["_overlay.png"]) == "a"


def test_an_input_that_came_before_on_stdin(photos):
    names = OutputNames(folder=photos / "photos")
    assert names.stem(str(photos / "photos" / "a.png"), ["_overlay.png"]) == "a"
    with pytest.raises(DeepLabError, match=r"the output a\.png would overwrite"):
        names.stem("elsewhere/a.jpg", [".png"])


def test_an_output_that_is_a_link_to_an_input(photos):
    out = photos / "out"
    out.mkdir()
    (out / "a.png").symlink_to(photos / "photos" / "a.png")
    with pytest.raises(DeepLabError, match=r"the output a\.png would overwrite"):
        OutputNames([photos / "linked" / "a.png"], folder=out).stem(photos / "linked" / "a.png", [".png"])
    (out / "a.png").unlink()
    (out / "a.png").symlink_to(photos / "nothing")
    assert OutputNames([photos / "linked" / "a.png"], folder=out).stem(photos / "linked" / "a.png", [".png"]) == "a"


def test_inputs_elsewhere(photos):
    names = [photos / "photos" / "a.png", photos / "alone" / "b.png"]
    found = OutputNames(names, folder=photos / "out")
    assert [found.stem(name, [".png"]) for name in names] == ["a", "b"]
    found = OutputNames(names)
    assert [found.stem(name, [".png"]) for name in names] == ["a", "b"]
