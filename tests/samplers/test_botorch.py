"""What `gp` chooses by against BoTorch's noisy expected hypervolume improvement, if installed.

`pip install --no-deps botorch gpytorch linear_operator pyro-ppl jaxtyping pyre-extensions
multipledispatch wadler-lindig typing_inspect mypy_extensions opt_einsum` leaves torch as it is.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from automerge.arrays import Floats
from automerge.samplers import gp
from automerge.samplers.gaussian_process import CONSTANT, Columns, Hyperparameters, condition

pytest.importorskip("botorch")

COLUMNS = Columns((0, 1, 2), 3, 3.0)
HERE = Hyperparameters(np.log([0.4, 0.6, 0.9]), math.log(1.2), -math.inf, -math.inf, math.log(1e-4))
MARGIN = gp.REFERENCE_MARGIN


def botorchs(
    inputs: Floats, losses: Floats, errors: Floats, known: Floats, new: Floats, reference: Floats
) -> Floats:
    """The logarithm of the improvement of each new point, by the same processes: (k,)."""
    import torch
    from botorch.acquisition.multi_objective.logei import (
        qLogNoisyExpectedHypervolumeImprovement,
    )
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.sampling.normal import SobolQMCNormalSampler
    from gpytorch.kernels import ConstantKernel, MaternKernel, ScaleKernel
    from gpytorch.means import ZeroMean

    def tensor(values: Floats) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(values), dtype=torch.float64)

    models = []
    for column, error in zip(losses.T, errors.T, strict=True):
        matern = MaternKernel(nu=2.5, ard_num_dims=3)
        kernel = ScaleKernel(matern) + ConstantKernel()
        model = SingleTaskGP(
            tensor(inputs),
            tensor(-column[:, None]),
            train_Yvar=tensor(error[:, None] ** 2 + math.exp(HERE.noise)),
            covar_module=kernel.double(),
            mean_module=ZeroMean(),
            outcome_transform=None,
        )
        matern.lengthscale = tensor(np.exp(HERE.lengths))
        kernel.kernels[0].outputscale = math.exp(HERE.signal)
        kernel.kernels[1].constant = tensor(np.array([CONSTANT]))
        models.append(model.eval())
    acquisition = qLogNoisyExpectedHypervolumeImprovement(
        ModelListGP(*models),
        ref_point=(-reference).tolist(),
        X_baseline=tensor(known),
        sampler=SobolQMCNormalSampler(torch.Size([512]), seed=0),
        prune_baseline=False,
    )
    with torch.no_grad():
        return np.asarray(acquisition(tensor(new)[:, None]).numpy())


@pytest.mark.parametrize("m", [2, 3])
def test_improvements_are_botorchs(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logei = pytest.importorskip("botorch.acquisition.multi_objective.logei")
    monkeypatch.setattr(logei, "_try_load_fused_kernel", lambda: None)  # compiles for minutes
    monkeypatch.setattr(gp, "N_DRAWS", 512)
    monkeypatch.setattr(gp, "N_DIRECTIONS", 256)
    rng = np.random.default_rng(m)
    inputs, new = rng.uniform(size=(15, 3)), rng.uniform(size=(40, 3))
    optima = rng.uniform(size=(m, 3))
    losses = np.stack([((inputs - optimum) ** 2).sum(axis=1) for optimum in optima], axis=1)
    errors = rng.uniform(0.05, 0.2, size=losses.shape)
    # Standardised, so that the data's unit is the process's.
    scale = losses.std(axis=0)
    losses, errors = (losses - losses.mean(axis=0)) / scale, errors / scale
    posteriors = [
        condition(inputs, column, COLUMNS, HERE, error)
        for column, error in zip(losses.T, errors.T, strict=True)
    ]
    ideal, span = losses.min(axis=0), np.ptp(losses, axis=0)
    ours = gp._Gain(posteriors, inputs, ideal, span, rng)(new)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = botorchs(inputs, losses, errors, inputs, new, ideal + (1 + MARGIN) * span)
    # Proportional; both are means over 512 draws, whose error is a few per cent.
    assert np.corrcoef(ours, np.exp(theirs))[0, 1] > 0.98
    # The one we choose gains almost as much as the best.
    assert theirs[int(np.argmax(ours))] > theirs.max() - 0.1
