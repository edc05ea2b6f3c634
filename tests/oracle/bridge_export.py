"""Run by the Python of PONTE_BRIDGE_PYTHON: Megatron Bridge exports a checkpoint. Without CUDA its unconditional torch.cuda calls become no-ops.

usage: bridge_export.py HF_MODEL MEGATRON_PATH HF_PATH
"""
import sys

import torch


class NoStream:
    """Stands for a CUDA stream or event; a mixture of experts makes one when it is built."""

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, _):
        return lambda *_, **__: None


def without_cuda():
    def on_cpu(make):
        def call(*arguments, **named):
            if str(named.get("device", "")).startswith("cuda"):
                named["device"] = "cpu"
            return make(*arguments, **named)
        return call

    for name in ("set_device", "synchronize", "empty_cache", "set_rng_state"):
        setattr(torch.cuda, name, lambda *_, **__: None)  # one function each: torch.compile keeps them apart by identity
    torch.cuda.Stream = torch.cuda.Event = NoStream
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.device_count = lambda: 0
    torch.cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    torch.cuda.get_device_capability = lambda *_, **__: (8, 0)
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    for name in ("arange", "zeros", "ones", "empty", "tensor", "full", "zeros_like", "empty_like"):
        setattr(torch, name, on_cpu(getattr(torch, name)))
    from megatron.core.tensor_parallel import layers
    layers._grad_accum_fusion_available = True  # asked for by the output layer's constructor; no backward pass runs here


if __name__ == "__main__":
    if not torch.cuda.is_available():
        without_cuda()
    from megatron.bridge import AutoBridge
    hf_model, megatron_path, hf_path = sys.argv[1:]
    AutoBridge.from_hf_pretrained(hf_model).export_ckpt(megatron_path, hf_path, show_progress=False)
