"""The precision that a model computes in, chosen once for inference: parameters are cast, there is no autocast.

What follows the blocks stays in float32: the final norm, pooling, the mean over frames, the head, and so the logits. So
does the softmax of the interpolations' weights.
"""

import torch

from .stages import InTIModel

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
_AFTER_BLOCKS = ("norm.", "fc_norm.", "attn_pool.", "head.")


def computes_bfloat16(device: str | torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices natively: GPUs with CUDA, CPUs with AMX or AVX-512."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return False


def choose_precision(precision: str, device: str | torch.device = "cpu") -> str:
    """Return a precision by its name; "auto" is bfloat16 where the device `computes_bfloat16`, else float32.

    Raises:
        ValueError: for a name that is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return precision
    return "bfloat16" if computes_bfloat16(device) else "float32"


@torch.no_grad()
def set_precision(model: InTIModel, precision: str, device: str | torch.device = "cpu") -> str:
    """Make a float32 model compute in another precision, for inference: its parameters change, so it is not saved.

    Args:
        model: the model; its ``precision`` says what it computes in.
        precision: "float32" leaves it as it is, logits and all; "bfloat16" and "float16" cast everything up to the last
            block, "int8" quantizes the linear layers of the blocks (torchao: weights now, activations as they come);
            "auto" keeps what was chosen before, or takes what `choose_precision` says.
        device: where the model is to run.

    Returns:
        The precision that was chosen.

    Raises:
        ValueError: for a name that is none of `PRECISIONS`, or a model that is in another precision already.
        ModuleNotFoundError: "int8" needs torchao.
    """
    chosen = choose_precision(precision, device)
    if model.precision != "float32" and precision in ("auto", model.precision):
        return model.precision
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if model.precision != "float32" or dtypes != {torch.float32}:
        names = model.precision if model.precision != "float32" else " and ".join(sorted(map(str, dtypes)))
        raise ValueError(f"The model is in {names}, not in float32; load it again to run it in {chosen}.")
    if chosen == "int8":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model.eval().blocks, Int8DynamicActivationInt8WeightConfig())
    elif chosen != "float32":
        for name, parameter in model.named_parameters():  # buffers are the angles of rotary embeddings
            if not name.startswith(_AFTER_BLOCKS):
                parameter.data = parameter.data.to(getattr(torch, chosen))
    model.precision = chosen
    return chosen
