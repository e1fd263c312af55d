"""What to do with files and objects of other libraries that are not read themselves."""

from __future__ import annotations

from typing import Any

_FILES = {
    (".pt", ".pth", ".ckpt", ".bin"): (
        "{path} holds pickled Python objects, which are never loaded; make the module, call "
        "module.load_state_dict(torch.load(path, weights_only=True)), and give rj.load(module, example), or save it "
        "with torch.export.save(torch.export.export(module, (example,)), 'model.pt2')"
    ),
    (".pkl", ".pickle", ".joblib"): (
        "{path} holds pickled Python objects, which are never loaded; if you trust it, load it yourself and give "
        "rj.load(estimator) or rj.load(module, example)"
    ),
    (".safetensors",): (
        "{path} holds weights without their module; make the module, call "
        "module.load_state_dict(safetensors.torch.load_file(path)), and give rj.load(module, example)"
    ),
    (".keras", ".h5"): (
        "{path} is a model of Keras; set KERAS_BACKEND=torch and give rj.load(keras.models.load_model(path), example), "
        "or write it with model.export('model.onnx', format='onnx')"
    ),
    (".zip",): (
        "{path} may be an agent of stable-baselines3; load it with its class, such as PPO.load(path), and give "
        "rj.load(agent.policy, obs)"
    ),
    (".pb", ".tflite"): "{path} is a model of TensorFlow; convert it to ONNX, for example by tf2onnx",
}
"""What is said of a file, by its suffix."""


def about_file(path: str, suffix: str) -> str:
    """Why a file is not read, and what to do."""
    known = next((text for suffixes, text in _FILES.items() if suffix in suffixes), None)
    if known is not None:
        return known.format(path=path)
    return (
        f"{path}: files of type {suffix or '(none)'} are not read; give an .onnx file, a .pt2 file of "
        "torch.export.save, the weights as .npz (W0, b0, …, activation), or the PyTorch module"
    )


def about_object(source: Any) -> str:
    """Why an object is not a network, and what to do."""
    what = f"a {type(source).__name__} is not a network"
    if _is_of(source, "stable_baselines3"):
        return f"{what}; give its policy: rj.load(agent.policy, obs)"
    if _is_of(source, "keras"):
        return (
            f"{what} with this backend of Keras; set KERAS_BACKEND=torch before keras is imported, or write it with "
            "model.export('model.onnx', format='onnx')"
        )
    return f"{what}; give a path, an nn.Module or [(W, b), …]"


def about_untraced(module: Any) -> str:
    """What to do about a module that cannot be exported."""
    if not _is_of(module, "stable_baselines3"):
        return "remove control flow that depends on data"
    drawn = "a policy draws its action at random; bound its mean action (for discrete actions, the logits)"
    if _has(module, "mlp_extractor", "action_net", "pi_features_extractor"):
        parts = "policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net"
    elif _has(module, "actor"):
        actor = "policy.actor"
        parts = f"{actor}.features_extractor, {actor}.latent_pi, {actor}.mu, torch.nn.Tanh()"
    elif _has(module, "latent_pi", "mu"):
        parts = "actor.features_extractor, actor.latent_pi, actor.mu, torch.nn.Tanh()"
    else:
        return f"{drawn}, by a module of its own, as in docs/networks.md"
    return f"{drawn}: rj.load(torch.nn.Sequential({parts}), obs); images are divided by 255 first"


def _has(module: Any, *parts: str) -> bool:
    return all(getattr(module, part, None) is not None for part in parts)


def _is_of(source: Any, package: str) -> bool:
    """Whether an object's class, or one that it derives from, is of a package."""
    return any(c.__module__.split(".")[0] == package for c in type(source).__mro__)
