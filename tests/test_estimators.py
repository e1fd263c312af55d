"""Networks of scikit-learn: the normal form computes what they predict, and its bounds hold."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler

import recurjac as rj

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)) * [1, 10, 0.1, 3] + [0, 5, 1, -2]
LABELS = {
    2: (X[:, 0] > 0).astype(int),
    3: np.digitize(X[:, 0] + X[:, 3], [-4, 0]),
    0: X[:, :2] @ [[1, 2, 0], [0, 1, -1]],
}
SMALL: dict[str, Any] = {"hidden_layer_sizes": (5, 4), "max_iter": 20, "random_state": 0}
CASES: dict[str, tuple[Any, int]] = {
    "three classes": (MLPClassifier(**SMALL), 3),
    "two classes": (MLPClassifier(**SMALL, activation="tanh"), 2),
    "logistic": (MLPClassifier(**SMALL, activation="logistic"), 3),
    "identity": (MLPRegressor(**SMALL, activation="identity"), 2),
    "regression": (MLPRegressor(**SMALL), 0),
    "pipeline": (make_pipeline(StandardScaler(), MLPClassifier(**SMALL)), 3),
    "robust": (make_pipeline(RobustScaler(), MLPRegressor(**SMALL)), 0),
    "scalers": (make_pipeline(MinMaxScaler((-1, 2)), "passthrough", MaxAbsScaler(), PCA(3), MLPRegressor(**SMALL)), 0),
    "plain": (make_pipeline(StandardScaler(with_mean=False), StandardScaler(with_std=False), LinearRegression()), 0),
    "logits": (LogisticRegression(), 2),
    "softmax": (make_pipeline(StandardScaler(), LogisticRegression()), 3),
}


def fitted(name: str) -> Any:
    estimator, labels = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an early end
        return estimator.fit(X, LABELS[labels])


@pytest.mark.parametrize("name", CASES)
def test_an_estimator_is_read(name: str) -> None:
    estimator = fitted(name)
    network = rj.load(estimator)
    ours = network(torch.from_numpy(X)).numpy()
    if not hasattr(estimator, "predict_proba"):
        theirs = np.asarray(estimator.predict(X)).reshape(ours.shape)
    elif ours.shape[1] == 1:
        ours, theirs = 1 / (1 + np.exp(-ours[:, 0])), estimator.predict_proba(X)[:, 1]
    else:
        ours, theirs = torch.from_numpy(ours).softmax(-1).numpy(), estimator.predict_proba(X)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["pipeline", "regression", "scalers"])
def test_bounds_of_an_estimator_hold(name: str) -> None:
    network, x = rj.load(fitted(name)), torch.from_numpy(X[:1])
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, 0.1), method=rj.Chords())
    near = x + 0.2 * torch.rand(20, 4, generator=torch.Generator().manual_seed(0), dtype=x.dtype) - 0.1
    for row in near:
        found = torch.func.jacrev(lambda t: network(t.unsqueeze(0))[0])(row)
        assert bool((bounds.lower[0] - 1e-9 <= found).all())
        assert bool((found <= bounds.upper[0] + 1e-9).all())


def test_certified_radii_are_those_of_the_classifier() -> None:
    """At the largest class, attacks by random points in the ball of a certified radius find no other class."""
    estimator = fitted("pipeline")
    network, x = rj.load(estimator), torch.from_numpy(X[:3])
    labels = estimator.predict(X[:3])
    found = rj.certified_radius(network, x, label=torch.from_numpy(labels), p=2, target="all")
    for i in range(3):
        noise = RNG.normal(size=(200, 4))
        noise *= float(found.radius[i]) / np.linalg.norm(noise, axis=1, keepdims=True)
        assert (estimator.predict(X[i] + noise) == labels[i]).all()


def test_other_estimators_are_refused() -> None:
    with pytest.raises(rj.InvalidNetwork, match="MLPClassifier is not fitted; call fit first"):
        rj.load(MLPClassifier())
    with pytest.raises(rj.UnsupportedLayer, match="the step PolynomialFeatures is not read"):
        rj.load(make_pipeline(PolynomialFeatures(), LinearRegression()).fit(X, LABELS[0]))
    with pytest.raises(rj.UnsupportedLayer, match="the step MinMaxScaler is not read"):
        rj.load(make_pipeline(MinMaxScaler(clip=True), LinearRegression()).fit(X, LABELS[0]))
    with pytest.raises(rj.UnsupportedLayer, match="PCA is not read; of scikit-learn, MLPClassifier"):
        rj.load(PCA(2).fit(X))
