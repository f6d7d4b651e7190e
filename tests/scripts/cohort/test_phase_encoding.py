"""Phase encoding: the same way in the world however the scan is stored, and whatever words a sidecar has for it."""

import nibabel as nib
import numpy as np
import pytest

from scripts.cohort.phase_encoding import phase_encoding


@pytest.mark.parametrize("code", ["i", "i-", "j", "j-", "k", "k-"])
@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS", "PIR", "SLA"])
def test_phase_encoding_points_the_same_way_in_the_world_after_reorientation(code, orientation):
    affine = np.eye(4)
    affine[:3, :3] = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(orientation), (2, 2, 2))[:3, :3]

    def in_world(code, linear):
        return linear[:, "ijk".index(code[0])] * (-1 if code.endswith("-") else 1)

    np.testing.assert_array_equal(
        in_world(phase_encoding({"PhaseEncodingDirection": code}, affine)[0]["PhaseEncodingDirection"], np.eye(3)),
        in_world(code, affine[:3, :3]),
    )


LAS = np.diag([-2.0, 2.0, 2.5, 1.0])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"PhaseEncodingDirection": "j-"}, {"PhaseEncodingDirection": "j-"}),
        ({"PhaseEncodingDirection": "i"}, {"PhaseEncodingDirection": "i-"}),
        ({"PhaseEncodingDirection": "y-"}, {"PhaseEncodingDirection": "j-"}),
        ({"PhaseEncodingDirection": "z+"}, {"PhaseEncodingDirection": "k"}),
        # lines advance from anterior to posterior
        ({"PhaseEncodingDirection": "AP"}, {"PhaseEncodingDirection": "j-"}),
        ({"PhaseEncodingDirection": "PA"}, {"PhaseEncodingDirection": "j"}),
        ({"PhaseEncodingDirection": "LR"}, {"PhaseEncodingDirection": "i"}),
        ({"PhaseEncodingAxis": "i"}, {"PhaseEncodingAxis": "i"}),
        ({"PhaseEncodingDirection": "", "PhaseEncodingAxis": "j"}, {"PhaseEncodingAxis": "j"}),
        ({"EchoTime": 0.1}, {}),
    ],
)
def test_plain_words_are_read_as_they_are_meant(words, code):
    assert phase_encoding(words, LAS) == (code, None)


@pytest.mark.parametrize("value", ["col_dir", 1, ["j", "j-"], "jj", {}])
def test_what_has_no_plain_meaning_is_noted_as_unknown(value):
    code, note = phase_encoding({"PhaseEncodingDirection": value}, LAS)
    assert code == {}
    assert note.startswith("PhaseEncodingDirection is not known: found ")
    assert repr(value) in note
