"""Reading networks of scikit-learn: multilayer perceptrons and linear models, alone or after scalers in a pipeline."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from recurjac.activations import Exp, ReLU, Sigmoid, Tanh
from recurjac.errors import InvalidNetwork, UnsupportedLayer
from recurjac.loading.expression import Builder, Expression
from recurjac.network import Network
from recurjac.operators.dense import along_last
from recurjac.operators.scale import divided, scaled

_HIDDEN = {"relu": ReLU(), "tanh": Tanh(), "logistic": Sigmoid()}
_LINEAR = ("LinearRegression", "Ridge", "Lasso", "ElasticNet", "LogisticRegression", "LinearSVC", "LinearSVR")
_PERCEPTRONS = ("MLPClassifier", "MLPRegressor")


@runtime_checkable
class Estimator(Protocol):
    """An estimator of scikit-learn, which need not be installed."""

    def fit(self, X: Any, y: Any) -> Any: ...
    def get_params(self, deep: bool = True) -> Any: ...


@final
@dataclass(frozen=True)
class Fitted:
    """A fitted estimator, and the steps of its pipeline before it.

    The network has the outputs of `predict` for regressors, and logits for classifiers: what goes into the logistic
    function or the softmax of `predict_proba`, or `decision_function`; one logit if there are two classes.
    """

    steps: tuple[Any, ...]
    last: Any

    @classmethod
    def of(cls, estimator: Any) -> Fitted:
        """An estimator or a pipeline.  Raises InvalidNetwork if it is not fitted, UnsupportedLayer for another one."""
        steps = [s for _, s in estimator.steps] if type(estimator).__name__ == "Pipeline" else [estimator]
        *before, last = [s for s in steps if s is not None and s != "passthrough"]
        name = type(last).__name__
        if name not in (*_LINEAR, *_PERCEPTRONS):
            raise UnsupportedLayer(f"{name} is not read; of scikit-learn, {', '.join((*_PERCEPTRONS, *_LINEAR))} are")
        if not all(any(key.endswith("_") for key in vars(s)) for s in (*before, last)):
            raise InvalidNetwork(f"the {name} is not fitted; call fit first")
        return cls(tuple(before), last)

    @property
    def features(self) -> int:
        return int((self.steps[0] if self.steps else self.last).n_features_in_)

    def network(self) -> Network:
        """The normal form in float64.  Raises UnsupportedLayer, naming a step that has none."""
        builder = Builder((self.features,), True, torch.float64, torch.device("cpu"))
        x = builder.input()
        for step in self.steps:
            x = _preprocessed(step, x)
        if type(self.last).__name__ in _LINEAR:
            weight = np.atleast_2d(np.asarray(self.last.coef_))
            return builder.finish(_layer(x, weight, np.broadcast_to(self.last.intercept_, len(weight))))
        *hidden, last = zip(self.last.coefs_, self.last.intercepts_, strict=True)
        for weight, bias in hidden:
            x = _layer(x, weight.T, bias)
            if self.last.activation != "identity":
                x = x.activate(_HIDDEN[self.last.activation])
        y = _layer(x, last[0].T, last[1])
        return builder.finish(y.activate(Exp()) if self.last.out_activation_ == "exp" else y)

    def compared(self, network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the network and the estimator give on x (batch, features), in the same form: (batch, outputs)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of features, which arrays lack
            return self._compared(network(x), x.cpu().numpy())

    def _compared(self, ours: Tensor, points: Any) -> tuple[Tensor, Tensor]:
        for step in self.steps:
            points = step.transform(points)
        if hasattr(self.last, "predict_proba"):
            ours = torch.sigmoid(ours) if self._logistic else ours.softmax(-1)
            theirs = np.asarray(self.last.predict_proba(points))
            theirs = theirs[:, 1] if ours.shape[1] == 1 else theirs
        elif hasattr(self.last, "decision_function"):
            theirs = self.last.decision_function(points)
        else:
            theirs = self.last.predict(points)
        return ours, torch.from_numpy(np.array(theirs, dtype=np.float64)).reshape(ours.shape)

    @property
    def _logistic(self) -> bool:
        """Whether probabilities are logistic functions of single logits."""
        if type(self.last).__name__ in _LINEAR:
            return len(self.last.classes_) == 2
        return bool(self.last.out_activation_ == "logistic")


def _layer(x: Expression, weight: Any, bias: Any) -> Expression:
    y: Expression = along_last(x, _tensor(weight))
    return y.shift(_tensor(bias))


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))


def _preprocessed(step: Any, x: Expression) -> Expression:
    """x after a fitted step that shifts and scales features, clips them, leaves out some, or projects them."""
    name = type(step).__name__
    if name == "StandardScaler":
        return _standardised(x, step.mean_ if step.with_mean else None, step.scale_ if step.with_std else None)
    if name == "RobustScaler":
        return _standardised(
            x, step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None
        )
    if name == "MaxAbsScaler" and not getattr(step, "clip", False):
        return _standardised(x, None, step.scale_)
    if name == "MinMaxScaler" and not step.clip:
        moved: Expression = scaled(x, _tensor(step.scale_))
        return moved.shift(_tensor(step.min_))
    if name == "PCA" and not step.whiten:
        projected: Expression = along_last(x.shift(-_tensor(step.mean_)), _tensor(step.components_))
        return projected
    raise UnsupportedLayer(
        f"the step {name} is not read; StandardScaler, RobustScaler, MaxAbsScaler, MinMaxScaler without clip, and PCA "
        "without whiten are"
    )


def _standardised(x: Expression, centre: Any, scale: Any) -> Expression:
    y = x if centre is None else x.shift(-_tensor(centre))
    if scale is None:
        return y
    quotient: Expression = divided(y, _tensor(scale))
    return quotient
