"""Q-space: what SH of an order can hold is exact, the rest is what algebra, DIPY and real data say."""

from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.core.sphere import Sphere
from dipy.data import get_fnames
from dipy.reconst.dti import TensorModel
from dipy.reconst.shm import sf_to_sh, sh_to_sf
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation
from scipy.special import eval_legendre
from sphere_signals import band_limited, fibre_signal, random_axes, tilt

from scripts.io.gradients import read_gradients
from transforms.attenuation import Attenuation
from transforms.diffusion.gradients import angles_between_axes, b0_volumes, shell_volumes
from transforms.diffusion.scheme import default_scheme
from transforms.diffusion.sh import (
    SMOOTHING,
    sh_basis,
    sh_interpolation_matrix,
)
from transforms.qspace import InterpolateQSpace, InterpolateQSpaced

TURN = Rotation.from_euler("zyx", [37, -64, 111], degrees=True)


# exact where it can be


@pytest.mark.parametrize(("degree", "n_source"), [(8, 60), (6, 60), (4, 60), (6, 40), (4, 20), (2, 8)])
def test_band_limited_signals_are_interpolated_exactly(axes_on_sphere, degree, n_source):
    source, target = axes_on_sphere(n_source), TURN.apply(axes_on_sphere(37))
    matrix = sh_interpolation_matrix(source, target, smoothing=0)
    expected = band_limited(target, degree)
    np.testing.assert_allclose(matrix @ band_limited(source, degree), expected, atol=1e-5 * np.abs(expected).max())


def test_orders_above_the_highest_are_not_represented(axes_on_sphere):
    source, target = axes_on_sphere(90), TURN.apply(axes_on_sphere(37))
    matrix = sh_interpolation_matrix(source, target, max_order=6, smoothing=0)
    signal, expected = band_limited(source, 8), band_limited(target, 8)
    assert np.abs(matrix @ signal - expected).max() > 1e-2 * np.abs(expected).max()


def test_signals_on_antipodes_are_the_same(axes_on_sphere):
    """Diffusion is symmetric: the sign of a direction, measured or asked for, changes nothing."""
    source, target = axes_on_sphere(50), TURN.apply(axes_on_sphere(23))
    signs = np.where(np.arange(50) % 3, 1.0, -1.0)[:, None]
    expected = sh_interpolation_matrix(source, target)
    np.testing.assert_allclose(sh_interpolation_matrix(source * signs, -target), expected, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.002, 0.1])
def test_a_constant_signal_stays_constant(axes_on_sphere, smoothing):
    """The constant harmonic is not penalised, so that no smoothing changes the mean level."""
    matrix = sh_interpolation_matrix(axes_on_sphere(33), default_scheme(), smoothing=smoothing)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-10)


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_smoothing_damps_a_degree_as_the_formula_says(axes_on_sphere, degree):
    """On n evenly spread axes Y^T Y is n / 4 pi times the identity, so this smoothing halves the degree."""
    n = 600
    smoothing = n / (4 * np.pi * degree**2 * (degree + 1) ** 2)
    source, target, pole = axes_on_sphere(n), TURN.apply(axes_on_sphere(30)), random_axes(1)[0]
    found = sh_interpolation_matrix(source, target, smoothing=smoothing) @ eval_legendre(degree, source @ pole)
    np.testing.assert_allclose(found, 0.5 * eval_legendre(degree, target @ pole), atol=0.02)


# the same axes, and axes nearby


BASIS = {"basis_type": "descoteaux07", "legacy": False}


def test_a_scheme_to_itself_is_the_regularised_fit_of_dipy():
    scheme = default_scheme()
    coefficients = sf_to_sh(np.eye(64), Sphere(xyz=scheme), sh_order_max=8, smooth=0.002, **BASIS)
    expected = sh_to_sf(coefficients, Sphere(xyz=scheme), sh_order_max=8, **BASIS).T
    found = sh_interpolation_matrix(scheme, scheme)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.abs(found - np.eye(64)).max() > 0.1, "64 signals of 45 coefficients are fitted, not copied"


def test_order_and_sign_of_the_source_do_not_matter():
    scheme = default_scheme()
    order = np.random.default_rng(5).permutation(64)
    signs = np.where(np.arange(64) % 2, 1.0, -1.0)[:, None]
    found = sh_interpolation_matrix((signs * scheme)[order], scheme)
    np.testing.assert_allclose(found, sh_interpolation_matrix(scheme, scheme)[:, order], atol=1e-10)


def test_the_result_does_not_jump_as_directions_move_off_the_scheme():
    """64 directions up to 1 degree from the scheme were copied once, those at 1.5 degrees lost their high degrees."""
    scheme, (first, second) = default_scheme(), Rotation.from_rotvec([[0.3, 0.5, -0.4]] * 2).apply(np.eye(3)[:2])
    degrees = [0.0, 0.5, 0.9, 1.1, 1.5, 2.0, 3.0]
    found = []
    for angle in degrees:
        source = tilt(scheme, angle)
        signal = 0.5 * (fibre_signal(source, first, 3000) + fibre_signal(source, second, 3000))
        found.append(sh_interpolation_matrix(source, scheme) @ signal)
    steps = np.array([np.sqrt(np.mean((b - a) ** 2)) for a, b in pairwise(found)]) / np.diff(degrees)
    # per degree of tilt no step is out of line, and all are far below the signal, of 0.0 to 0.4
    assert steps.max() < 1.5 * steps.mean()
    assert steps.max() < 2e-3
    powers = np.array([np.linalg.norm(sh_of_degree(signal, 4)) for signal in found])
    np.testing.assert_allclose(powers, powers[0], rtol=0.05)


def sh_of_degree(signal, degree):
    """Coefficients of one degree of a signal on the scheme, by least squares."""
    coefficients = np.linalg.lstsq(sh_basis(default_scheme(), 8), signal, rcond=None)[0]
    first = degree * (degree - 1) // 2
    return coefficients[first : first + 2 * degree + 1]


def test_fewer_directions_of_the_scheme_are_interpolated_to_all():
    scheme = default_scheme()
    assert sh_interpolation_matrix(scheme[:60], scheme).shape == (64, 60)


# frames


@pytest.mark.parametrize("smoothing", [0.0, 0.002])
@pytest.mark.parametrize("n_source", [90, 30])
def test_turning_scan_and_scheme_together_changes_nothing(axes_on_sphere, n_source, smoothing):
    source, target = axes_on_sphere(n_source), default_scheme()
    expected = sh_interpolation_matrix(source, target, smoothing=smoothing)
    found = sh_interpolation_matrix(TURN.apply(source), TURN.apply(target), smoothing=smoothing)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_turning_the_directions_alone_turns_the_fibre(axes_on_sphere):
    """The table, not the order of the volumes, says where a fibre points."""
    source, fibre = axes_on_sphere(90), random_axes(1, seed=4)[0]
    found = sh_interpolation_matrix(TURN.apply(source), default_scheme()) @ fibre_signal(source, fibre)
    error = np.abs(found - fibre_signal(default_scheme(), TURN.apply(fibre))).max()
    assert error < 0.03  # the damping of degree 2 by a few percent, of a signal that spans 0.18 to 0.74
    assert np.abs(found - fibre_signal(default_scheme(), fibre)).max() > 0.2


# another implementation


@pytest.mark.parametrize(("n_source", "order"), [(64, 8), (90, 8), (32, 6), (20, 4)])
def test_dipy_gives_the_same_signal(axes_on_sphere, n_source, order):
    source, target = TURN.apply(axes_on_sphere(n_source)), default_scheme()
    signal = np.random.default_rng(2).random((7, n_source))
    coefficients = sf_to_sh(signal, Sphere(xyz=source), sh_order_max=order, smooth=0.002, **BASIS)
    expected = sh_to_sf(coefficients, Sphere(xyz=target), sh_order_max=order, **BASIS)
    np.testing.assert_allclose(signal @ sh_interpolation_matrix(source, target).T, expected, atol=1e-6)


def test_order_2_spans_the_diffusion_tensors():
    """Quadratic forms on the sphere and the six harmonics up to degree 2 are one space."""
    g = random_axes(25)
    forms = np.stack([g[:, i] * g[:, j] for i in range(3) for j in range(i, 3)], axis=1)
    basis = sh_basis(g, 2)
    assert basis.shape == (25, 6)
    assert np.abs(basis @ np.linalg.lstsq(basis, forms, rcond=None)[0] - forms).max() < 1e-10


# schemes


def test_the_default_scheme_is_spread_evenly():
    scheme = default_scheme()
    assert scheme.shape == (64, 3)
    np.testing.assert_allclose(np.linalg.norm(scheme, axis=1), 1.0, atol=1e-12)
    angles = angles_between_axes(scheme, scheme)
    assert angles[np.triu_indices(64, 1)].min() > 10
    assert np.linalg.cond(sh_basis(scheme, 8)) < 2
    np.testing.assert_allclose(scheme.T @ scheme / 64, np.eye(3) / 3, atol=0.01)


# images


def test_image_and_table_become_those_of_the_scheme(axes_on_sphere, affine, caplog):
    source, scheme = axes_on_sphere(30), TURN.apply(axes_on_sphere(21))
    bvals = np.where(np.arange(30) % 5, 1000.0, 995.0)
    signal = torch.rand((30, 4, 5, 6), generator=torch.Generator().manual_seed(3))
    data = {
        "raw_scan": "folder/sub-03_dwi.nii.gz",
        "image": MetaTensor(signal.clone(), affine=torch.tensor(affine), meta={"note": "kept"}),
        "gradients": np.column_stack([source, bvals]),
    }
    result = InterpolateQSpaced("image", scheme=scheme)(data)

    matrix = sh_interpolation_matrix(source, scheme)
    voxels = result["image"].as_tensor().numpy()
    np.testing.assert_allclose(voxels[:, 3, 1, 4], matrix @ signal[:, 3, 1, 4].numpy(), atol=1e-5)
    np.testing.assert_allclose(voxels, np.tensordot(matrix, signal.numpy(), axes=1), atol=1e-5)
    np.testing.assert_allclose(result["gradients"], np.column_stack([scheme, np.full(21, 1000.0)]), atol=1e-8)
    np.testing.assert_array_equal(result["image"].affine, affine)
    assert result["image"].meta["note"] == "kept"
    assert data["gradients"].shape == (30, 4), "the input is left as it was"
    assert torch.equal(data["image"].as_tensor(), signal)
    assert "sub-03_dwi.nii.gz: SH order lowered" in caplog.text


def test_a_scan_measured_on_the_scheme_is_fitted_as_any_other():
    """What the fit takes is noise above degree 8, and of the low degrees a percent or two."""
    signal = torch.rand((64, 3, 4, 5), generator=torch.Generator().manual_seed(3))
    table = np.column_stack([default_scheme(), np.full(64, 1000.0)])
    found, new_table = InterpolateQSpace(default_scheme())(signal, table)
    matrix = sh_interpolation_matrix(default_scheme(), default_scheme())
    np.testing.assert_allclose(found.numpy(), np.tensordot(matrix, signal.numpy(), axes=1), atol=1e-5)
    np.testing.assert_array_equal(new_table, table)
    smooth = band_limited(default_scheme(), 2)
    assert np.abs(matrix @ smooth - smooth).max() < 0.03 * np.ptp(smooth)


@pytest.fixture(scope="module")
def real_scan(tmp_path_factory):
    """DIPY's piece of a brain: 10 x 10 x 10 voxels of 2 mm, 64 directions of b = 1000, one b0."""
    dwi, bval, with_nan = get_fnames(name="small_64D")
    nifti = nib.load(dwi)
    bvec = tmp_path_factory.mktemp("small_64D") / "no_nan.bvec"
    np.savetxt(bvec, np.nan_to_num(np.loadtxt(with_nan)))  # the vector of the b0 is NaN in the packaged file
    table = read_gradients(bval, bvec, nifti.affine, nifti.shape[3])
    signal = torch.from_numpy(np.moveaxis(nifti.get_fdata(dtype=np.float32), -1, 0))
    shell = shell_volumes(table, 1000)
    assert len(shell) == 64
    attenuation = Attenuation()(signal[shell], signal[b0_volumes(table)].mean(dim=0, keepdim=True))
    return attenuation, table[shell]


def tensors(attenuation, table):
    volumes = np.concatenate([np.ones((1, *attenuation.shape[1:])), attenuation.numpy().clip(1e-4)])
    gradients = gradient_table(np.r_[0, table[:, 3]], bvecs=np.vstack([np.zeros(3), table[:, :3]]))
    fit = TensorModel(gradients).fit(np.moveaxis(volumes, 0, -1))
    return fit.fa, fit.evecs[..., 0]


@pytest.mark.parametrize(("smoothing", "damping"), [(0.0, 1.0), (SMOOTHING, 1 / (1 + 0.002 * 36 * 4 * np.pi / 64))])
def test_real_tissue_keeps_its_tensors(real_scan, smoothing, damping):
    """A tensor has 6 parameters that the 64 signals determine before and after.

    What changes is the part of the signal in degree 2, which smoothing damps by 0.99, and FA with it: FA is the
    anisotropic part over the whole. On top of it the noise above degree 8 is lost and the rest weighted otherwise. That
    moves FA by a part of its own noise, which is about 0.03 here (11 % noise in a signal, 64 signals), without a
    preferred sign, and an axis by that over FA: a degree or two, more where two eigenvalues are close.
    """
    attenuation, table = real_scan
    fa, axis = tensors(attenuation, table)
    new_fa, new_axis = tensors(*InterpolateQSpace(smoothing=smoothing)(attenuation, table))
    signal = (fa > 0.05) & (attenuation.mean(dim=0).numpy() > 0.05)
    assert signal.mean() > 0.8
    assert np.abs(new_fa - fa)[signal].mean() < 0.03
    fibres = signal & (fa > 0.4)
    assert fibres.sum() > 300
    assert np.mean(new_fa[fibres] / fa[fibres]) == pytest.approx(damping, abs=0.01)
    assert np.std((new_fa - fa)[fibres]) < 0.02
    turned = np.degrees(np.arccos(np.clip(np.abs((axis * new_axis).sum(axis=-1)), 0, 1)))[fibres]
    assert np.median(turned) < 1.5
    assert np.percentile(turned, 95) < 7


def test_real_tissue_is_interpolated_to_directions_that_were_left_out(real_scan):
    """Every fourth direction is predicted from the other 48; a mirrored frame predicts nothing."""
    attenuation, table = real_scan
    fibres = tensors(attenuation, table)[0] > 0.4
    out = np.arange(64) % 4 == 1
    measured, others = attenuation.numpy()[out][:, fibres], attenuation.numpy()[~out][:, fibres]
    variance = np.mean((measured - others.mean(axis=0)) ** 2)
    errors = [
        np.mean((sh_interpolation_matrix(table[~out, :3], table[out, :3] * mirror) @ others - measured) ** 2)
        for mirror in ([1, 1, 1], [-1, 1, 1])
    ]
    # what is left is the noise of the measurement and of the prediction, more than half of the variance here
    assert errors[0] < 0.65 * variance
    assert errors[1] > 0.9 * variance
