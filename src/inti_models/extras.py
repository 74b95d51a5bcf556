"""Optional packages, and the extra of this package that installs each."""

# Module -> the extra that brings it, as in pyproject.toml.
EXTRAS = {
    "accelerate": "train",
    "datasets": "mteb",
    "matplotlib": "pictures",
    "mteb": "mteb",
    "omegaconf": "train",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "pyarrow": "ray",
    "ray": "ray",
    "shtab": "completion",
    "sklearn": "motiondigits",
    "tensorboard": "train",
    "torchao": "int8",
    "transformers": "tokenizers",
    "yaml": "train",
}


def missing(module: str, needed_by: str = "This") -> str:
    """Return the message for a module that is not installed: what needs it, and the extra that installs it."""
    return f"{needed_by} needs {module}, which is not installed; pip install 'inti_models[{EXTRAS[module]}]'."
