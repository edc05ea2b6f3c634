"""Run in a process of its own: megatron-core builds a GPT model with its distributed optimizer and loads both from a checkpoint of torch_dist format.

usage: megatron_load.py ITERATION_FOLDER HF_CONFIG TOKENS.pt OUT.pt      TOKENS: [batch, length + 1]; OUT: weights, optimizer state, loss
"""
import contextlib
import json
import sys
import warnings

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from bridge_export import without_cuda  # noqa: E402


class FusedAdam(torch.optim.Optimizer):
    """Holds state as Transformer Engine's optimizer of this name does: moments by parameter, the step by group. It never steps."""

    def __init__(self, params, lr, weight_decay, betas, eps, adam_w_mode):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, step=0))

    def step(self, closure=None):
        raise NotImplementedError


def config_of(hf, dtype):
    from megatron.core.transformer import TransformerConfig
    return TransformerConfig(
        num_layers=hf["num_hidden_layers"], hidden_size=hf["hidden_size"], num_attention_heads=hf["num_attention_heads"],
        num_query_groups=hf["num_key_value_heads"], kv_channels=hf["head_dim"], ffn_hidden_size=hf["intermediate_size"], normalization="RMSNorm",
        layernorm_epsilon=hf["rms_norm_eps"], gated_linear_unit=True, activation_func=torch.nn.functional.silu, add_bias_linear=False, qk_layernorm=True,
        attention_dropout=0.0, hidden_dropout=0.0, params_dtype=dtype, pipeline_dtype=dtype, bf16=dtype == torch.bfloat16, use_cpu_initialization=True,
        bias_activation_fusion=False, masked_softmax_fusion=False, bias_dropout_fusion=False, apply_rope_fusion=False, gradient_accumulation_fusion=False,
        persist_layer_norm=False)


def build(hf, dtype):
    import megatron.core.optimizer as optimizers
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    config = config_of(hf, dtype)
    model = GPTModel(config, get_gpt_layer_local_spec(qk_layernorm=True, normalization="RMSNorm"), vocab_size=hf["vocab_size"], max_sequence_length=64,
                     share_embeddings_and_output_weights=hf["tie_word_embeddings"], position_embedding_type="rope",
                     rotary_base=hf["rope_parameters"]["rope_theta"]).to(dtype)
    parallel = DistributedDataParallel(config, DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True), model)
    optimizers.Adam = optimizers.distrib_optimizer.Adam = FusedAdam
    optimizers.USING_PYTORCH_OPTIMIZER = False
    optimizers.distrib_optimizer.HAVE_APEX_OR_TE = optimizers.distrib_optimizer.USING_TE_OPTIMIZER = True
    if not torch.cuda.is_available():  # its constructor asks for the names of types on the GPU
        name_of_type = torch.Tensor.type
        torch.Tensor.type = lambda self, *a, **k: name_of_type(self, *a, **k) if a or k else name_of_type(self).replace("torch.", "torch.cuda.")
    settings = optimizers.OptimizerConfig(optimizer="adam", lr=1.0, bf16=dtype == torch.bfloat16, params_dtype=dtype, use_distributed_optimizer=True)
    return model, parallel, optimizers.get_megatron_optimizer(settings, [parallel])


def loss_of(model, tokens):
    length = tokens.shape[1] - 1
    mask = torch.triu(torch.ones(1, 1, length, length, dtype=torch.bool), 1)
    with torch.no_grad():
        losses = model(input_ids=tokens[:, :-1], position_ids=torch.arange(length)[None].expand(len(tokens), -1), attention_mask=mask, labels=tokens[:, 1:])
    return losses.double().mean().item()


def main(iteration, hf_config, tokens, out):
    if not torch.cuda.is_available():
        without_cuda()
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
    CudaRNGStatesTracker.fork = lambda *_, **__: contextlib.nullcontext()  # there is no dropout
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(1, 1)
    hf = json.load(open(hf_config))
    model, parallel, optimizer = build(hf, getattr(torch, hf["dtype"]))
    metadata = {"distrib_optim_sharding_type": "fully_reshardable"}
    weights = model.sharded_state_dict(metadata=metadata)
    state = dist_checkpointing.load({"model": weights, "optimizer": optimizer.sharded_state_dict(weights, is_loading=True, metadata=metadata)}, iteration)
    model.load_state_dict(state["model"], strict=True)
    optimizer.load_state_dict(state["optimizer"])
    inner = optimizer.chained_optimizers[0]
    torch.save({"weights": {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)},
                "optimizer": {name.removeprefix("module."): inner._get_main_param_and_optimizer_states(p) for name, p in parallel.named_parameters()},
                "groups": [{key: value for key, value in group.items() if key != "params"} for group in inner.optimizer.param_groups],
                "iteration": state["iteration"], "loss": loss_of(model, torch.load(tokens))}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
