"""int8 on the CPU: about half the time of float32 where it was measured (benchmarks/quantization.py)."""

from ..models.stages import InTIModel


def quantize_int8(model: InTIModel) -> InTIModel:
    """Turn the linear layers of the blocks to int8, for inference: weights now, activations as they come.

    torchao's dynamic quantization (`Int8DynamicActivationInt8WeightConfig`); interpolations, embedding and head stay as
    they are. Changes and returns the model, which is then not saved.

    Raises:
        ModuleNotFoundError: torchao is not installed.
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model.eval().blocks, Int8DynamicActivationInt8WeightConfig())
    return model
