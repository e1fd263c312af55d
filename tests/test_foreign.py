"""Models of other libraries: read, or refused with a next step that works.  Libraries that are not installed skip."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac.loading.foreign import about_object, about_untraced

POINTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.pt", "weights_only=True"), ("m.pth", "load_state_dict"), ("m.pkl", "rj.load(estimator)"),
        ("m.safetensors", "safetensors.torch.load_file"), ("m.keras", "keras.models.load_model"),
        ("m.H5", "format='onnx'"), ("agent.zip", "rj.load(agent.policy, obs)"), ("m.tflite", "tf2onnx"),
        ("m.txt", "files of type .txt"),
    ],
)  # fmt: skip
def test_a_file_of_another_library_is_refused_with_a_next_step(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"never read")
    with pytest.raises(rj.InvalidRequest) as caught:
        rj.load(tmp_path / name)
    assert words in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def test_the_steps_for_checkpoints_and_pickles_work(tmp_path: Path) -> None:
    original, module, example = small(), small(), POINTS[:1]
    torch.save(original.state_dict(), tmp_path / "m.pt")
    with torch.no_grad():
        next(module.parameters()).zero_()
    module.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    torch.export.save(torch.export.export(module, (example,)), tmp_path / "model.pt2")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(original))
    unpickled = pickle.loads((tmp_path / "m.pkl").read_bytes())  # noqa: S301  (written above)
    for network in (rj.load(module, example), rj.load(tmp_path / "model.pt2"), rj.load(unpickled, example)):
        torch.testing.assert_close(network(POINTS.double()).float(), original(POINTS))


class Policy(nn.Module):
    """A policy in the form of stable-baselines3, whose action is random."""

    def __init__(self) -> None:
        super().__init__()
        self.pi_features_extractor = nn.Flatten()
        self.mlp_extractor = nn.Module()
        self.mlp_extractor.policy_net = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        self.action_net = nn.Linear(3, 2)

    def mean(self, obs: Tensor) -> Any:
        hidden: Any = self.mlp_extractor.policy_net
        return self.action_net(hidden(self.pi_features_extractor(obs)))

    def forward(self, obs: Tensor) -> Any:
        mean = self.mean(obs)
        return mean if torch.rand(()) > 2 else mean + torch.randn_like(mean)


class Agent:
    """An agent of stable-baselines3."""


Policy.__module__, Agent.__module__ = "stable_baselines3.common.policies", "stable_baselines3.ppo.ppo"


def advised(policy: Any, obs: Tensor) -> Any:
    """The network that the message about an unread policy makes."""
    with pytest.raises(rj.InvalidNetwork) as caught:
        rj.load(policy, obs)
    code = "rj.load(torch" + str(caught.value).split("rj.load(torch")[1].split("; images")[0]
    return eval(code, {"rj": rj, "torch": torch, "policy": policy, "actor": policy, "obs": obs})  # noqa: S307


def test_a_random_policy_is_refused_with_the_call_that_reads_its_mean() -> None:
    policy = Policy()
    torch.testing.assert_close(advised(policy, POINTS[:1])(POINTS.double()).float(), policy.mean(POINTS))
    assert "give its policy" in about_object(Agent())
    assert "control flow" in about_untraced(small())


def environment(actions: Any) -> Any:
    gym = pytest.importorskip("gymnasium")

    class Still(gym.Env):  # type: ignore[misc, name-defined]
        observation_space, action_space = gym.spaces.Box(-1, 1, (4,), np.float32), actions

        def reset(self, **_: Any) -> Any:
            return np.zeros(4, np.float32), {}

        def step(self, _: Any) -> Any:
            return np.zeros(4, np.float32), 0.0, False, False, {}

    return Still()


@pytest.mark.parametrize("kind", ["PPO", "A2C", "SAC", "TD3", "DQN"])
def test_policies_of_stable_baselines3(kind: str) -> None:
    library, gym = pytest.importorskip("stable_baselines3"), pytest.importorskip("gymnasium")
    actions = gym.spaces.Discrete(3) if kind == "DQN" else gym.spaces.Box(-1, 1, (2,), np.float32)
    policy = getattr(library, kind)("MlpPolicy", environment(actions), device="cpu").policy
    if kind == "DQN":
        network, wanted = rj.load(policy.q_net, POINTS[:1]), policy.q_net(POINTS)
    else:
        network = rj.load(policy, POINTS[:1]) if kind == "TD3" else advised(policy, POINTS[:1])
        wanted = policy._predict(POINTS, deterministic=True)
    torch.testing.assert_close(network(POINTS.double()).float(), wanted, rtol=1e-4, atol=1e-5)


def keras_models(library: Any) -> dict[str, Any]:
    layers = library.layers

    def chain(shape: tuple[int, ...], *parts: Any) -> Any:
        return library.Sequential([library.Input(shape), *parts])

    def branches() -> Any:
        x = library.Input((4,))
        a, b = layers.Dense(5, activation="relu")(x), layers.Dense(5, activation="tanh")(x)
        both = layers.Concatenate()([layers.Add()([a, b]), layers.Multiply()([a, b])])
        return library.Model(x, layers.Dense(2)(both))

    return {
        "dense": chain((4,), layers.Rescaling(0.5), layers.Dense(5, activation="swish"), layers.Dense(2)),
        "branches": branches(),
        "convolutions": chain(
            (8, 8, 2), layers.Conv2D(3, 3, activation="relu"), layers.BatchNormalization(), layers.MaxPooling2D(2),
            layers.UpSampling2D(2, interpolation="bilinear"), layers.Flatten(), layers.Dense(2),
        ),
        "recurrent": chain((3, 2), layers.LSTM(4), layers.Dense(2)),
        "normalised": chain((4,), layers.LayerNormalization(), layers.Dense(2)),  # Keras itself cannot write it as ONNX
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((n, w) for n in ("dense", "branches", "convolutions", "recurrent") for w in ("torch", "onnx")),
        ("normalised", "torch"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_of_keras(name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    library = pytest.importorskip("keras")
    if library.backend.backend() != "torch":
        pytest.skip("Keras has another backend")
    library.utils.set_random_seed(0)
    model = keras_models(library)[name]
    x = torch.randn(2, *model.input_shape[1:])
    wanted = model(x).detach()
    if way == "onnx":
        pytest.importorskip("onnxscript")
        model.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    network = rj.load(tmp_path / "model.onnx") if way == "onnx" else rj.load(model, x)
    torch.testing.assert_close(network(x.double()).float(), wanted, rtol=1e-4, atol=1e-4)
    assert bool(rj.jacobian_bounds(network, rj.LpBall(x[:1].double(), 1e-3)).upper.isfinite().all())


def estimators() -> dict[str, Callable[[Any, Any], Any]]:
    linear, neural = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.neural_network")
    steps, whole = pytest.importorskip("sklearn.preprocessing"), pytest.importorskip("sklearn.pipeline")
    return {
        "classifier": lambda x, y: neural.MLPClassifier((5,), max_iter=20).fit(x, y),
        "regressor": lambda x, y: neural.MLPRegressor(hidden_layer_sizes=(5,), max_iter=20).fit(x, y),
        "pipeline": lambda x, y: whole.make_pipeline(
            steps.StandardScaler(), neural.MLPClassifier((5,), max_iter=20)
        ).fit(x, y),
        "logistic": lambda x, y: linear.LogisticRegression().fit(x, y),
        "linear": lambda x, y: whole.make_pipeline(steps.RobustScaler(), linear.Ridge()).fit(x, y),
        "polynomial": lambda x, y: whole.make_pipeline(steps.PolynomialFeatures(2), linear.Ridge()).fit(x, y),
    }


@pytest.mark.parametrize("name", ["classifier", "regressor", "pipeline", "logistic", "linear", "polynomial"])
@pytest.mark.filterwarnings("ignore")
def test_files_of_skl2onnx(name: str, tmp_path: Path) -> None:
    """Their probabilities, or predictions."""
    to_onnx = pytest.importorskip("skl2onnx").to_onnx
    g = np.random.default_rng(0)
    x, y = g.normal(size=(60, 4)).astype(np.float32), g.integers(0, 3, 60)
    made = estimators()[name](x, y)
    chooses = hasattr(made, "predict_proba")
    file = to_onnx(made, x[:1], options={"zipmap": False} if chooses else None, target_opset=17)
    (tmp_path / "m.onnx").write_bytes(file.SerializeToString())
    network = rj.load(tmp_path / "m.onnx", output_name="probabilities" if chooses else None)
    wanted = made.predict_proba(x) if chooses else made.predict(x)
    found = network(torch.from_numpy(x).double()).reshape(wanted.shape)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-3, atol=1e-4)


class Attends(nn.Module):
    """Attention with what PyTorch's exporter writes as single operators at opset 23."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.groups = nn.Linear(8, 24), nn.RMSNorm(8, eps=1e-5), nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Any:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.mix(self.norm(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.groups(x + y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.filterwarnings("ignore")
def test_files_of_the_exporter_of_pytorch(opset: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    module, x = Attends().eval(), torch.randn(1, 4, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(module, (x,), dynamo=True, opset_version=opset, verbose=False)
    program.save(tmp_path / "m.onnx")
    kinds = {n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node}
    assert opset < 23 or {"Attention", "RMSNormalization", "GroupNormalization"} <= kinds
    network = rj.load(tmp_path / "m.onnx")
    torch.testing.assert_close(network(x.double()).float(), module(x), rtol=1e-4, atol=1e-5)
