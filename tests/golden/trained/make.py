"""Makes a checkpoint of trained/ again: Megatron Bridge builds a model and its distributed optimizer from a Hugging Face configuration, the optimizer takes three
steps on seeded random gradients, and Bridge's own save_checkpoint writes it. For the Python of Megatron Bridge (0.3.1, or 0.7.0); without CUDA the unconditional
calls of torch.cuda do nothing, and modules with Transformer Engine's names and state have to be importable in its place.

usage: torchrun --nproc-per-node N tests/golden/trained/make.py HF_MODEL FOLDER [name=value...]
FOLDER/mcore is the checkpoint, FOLDER/optimizer_values.json what the ranks held; HF_MODEL is the hf/ of the one to make again, and the rest

                                               release   N  name=value
    qwen3_opt_fully_reshardable                  0.3.1   2  fully=1
    qwen3_opt_dp_reshardable                     0.3.1   2
    qwen3_opt_tp2dp2_fully_reshardable           0.3.1   4  tp=2 fully=1
    qwen3_moe_opt_ep2_fully_reshardable          0.3.1   2  ep=2 fully=1
    qwen3_opt_tp2pp2dp2_dp_reshardable           0.7.0   8  tp=2 pp=2 first=1 divisible=16 bucket=1500
    qwen3_moe_opt_ep2_dp_reshardable             0.7.0   2  ep=2
    qwen3_moe_opt_tp2pp2vp2ep2_dp_reshardable    0.7.0   4  tp=2 pp=2 vp=2 ep=2
    qwen3_moe_opt_pp2ep2_dp_reshardable          0.7.0   4  pp=2 ep=2 grouped=0
    qwen3_moe_opt_ep2_expert_bias                0.7.0   2  ep=2 bias=1
    qwen3_next_opt_dp_reshardable                0.7.0   2
    qwen3_next_mtp_opt_tp2pp2_dp_reshardable     0.7.0   4  tp=2 pp=2
"""
import json
import pathlib
import re
import sys
import warnings
import zlib

warnings.filterwarnings("ignore")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "oracle"))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from megatron_fsdp_load import no_cards  # noqa: E402

STATE = ("param", "exp_avg", "exp_avg_sq")


def provider_of(hf_model, options):
    from megatron.bridge import AutoBridge
    from transformers import AutoConfig
    whole = (pathlib.Path(hf_model) / "model.safetensors").exists()
    bridge = AutoBridge.from_hf_pretrained(hf_model, torch_dtype=torch.bfloat16) if whole else AutoBridge.from_hf_config(AutoConfig.from_pretrained(hf_model))
    provider = bridge.to_megatron_provider(load_weights=False)
    provider.tensor_model_parallel_size, provider.pipeline_model_parallel_size = options["tp"], options["pp"]
    provider.sequence_parallel = options["tp"] > 1
    provider.virtual_pipeline_model_parallel_size = options["vp"] or None
    provider.expert_model_parallel_size = options["ep"]
    provider.moe_grouped_gemm = bool(options["grouped"])
    provider.num_layers_in_first_pipeline_stage = options["first"] or None
    if options["divisible"]:
        provider.make_vocab_size_divisible_by, provider.should_pad_vocab = options["divisible"], True
    if options["bias"]:
        provider.moe_router_enable_expert_bias, provider.moe_router_score_function, provider.moe_router_load_balancing_type = True, "sigmoid", "none"
    provider.pipeline_dtype = provider.params_dtype = torch.bfloat16
    provider.bf16, provider.seq_length = True, 16
    provider.gradient_accumulation_fusion = provider.moe_permute_fusion = False
    provider.finalize()
    provider.initialize_model_parallel(seed=0)
    return provider


def named_parameters(provider, model, experts_of_a_rank):
    """(tp<rank>.<name in the whole model>, parameter) of every parameter that this rank holds."""
    from megatron.core import parallel_state
    tensor, expert = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_expert_model_parallel_rank()
    for chunk in model:
        modules = dict(chunk.named_modules())
        for name, parameter in chunk.named_parameters():
            key = name.replace("module.", "")
            if layer := re.match(r"(.*?decoder\.layers\.)\d+(?=\.)", name):
                key = f"decoder.layers.{modules[layer[0]].layer_number - 1}." + key.split(".", 3)[3]
            if provider.share_embeddings_and_output_weights and key == "output_layer.weight":
                key = "embedding.word_embeddings.weight"
            if number := re.search(r"experts\.linear_fc\d\.weight(\d+)$", key):
                key = key[:number.start(1)] + str(int(number[1]) + expert * experts_of_a_rank)
            elif number := re.search(r"local_experts\.(\d+)\.", key):
                key = key.replace(number[0], "") + str(int(number[1]) + expert * experts_of_a_rank)
            split = getattr(parameter, "tensor_model_parallel", False) or "eh_proj" in key
            rank = parallel_state.get_expert_tensor_parallel_rank() if number else tensor if split else 0
            yield f"tp{rank}.{key.replace('mtp_model_layer', 'transformer_layer')}", parameter


def set_expert_biases(model):
    """Buffers, which no optimizer moves: layer + expert / 100."""
    for chunk in model:
        for module in chunk.modules():
            if getattr(module, "expert_bias", None) is not None:
                module.expert_bias.copy_(torch.arange(module.expert_bias.numel()) * 0.01 + (module.layer_number - 1))


def seeded(shape, *words):
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(" ".join(words).encode())))


def trained(model, named):
    """The optimizer and its schedule after three steps of four samples each."""
    from megatron.bridge.training.config import OptimizerConfig
    from megatron.core.optimizer import get_megatron_optimizer
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
    for key, parameter in named:
        parameter.data.copy_(seeded(parameter.shape, key) * 0.05 + (parameter.ndim == 1))
    settings = OptimizerConfig(optimizer="adam", lr=1e-3, min_lr=1e-4, use_distributed_optimizer=True, bf16=True, params_dtype=torch.bfloat16, clip_grad=1.0,
                               weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95)
    settings.finalize()
    optimizer = get_megatron_optimizer(settings, model)
    optimizer.reload_model_params()
    schedule = OptimizerParamScheduler(optimizer, init_lr=0.0, max_lr=1e-3, min_lr=1e-4, lr_warmup_steps=8, lr_decay_steps=400, lr_decay_style="cosine", start_wd=0.1, end_wd=0.1,
                                       wd_incr_steps=400, wd_incr_style="constant", use_checkpoint_opt_param_scheduler=False, override_opt_param_scheduler=False)
    for step in range(3):
        for key, parameter in named:
            parameter.main_grad.copy_(seeded(parameter.shape, key, str(step)) * 0.1)
        optimizer.step()
        schedule.step(4)
    return settings, optimizer, schedule


def write_values(named, optimizer, vocabulary, path):
    """What the ranks hold of the main parameters and moments, put together over the data-parallel ranks."""
    pieces = []
    for key, parameter in named:
        for one in getattr(optimizer, "chained_optimizers", [optimizer]):
            if parameter in one.model_param_gbuf_map and parameter in one.model_param_group_index_map:
                held = one._get_main_param_and_optimizer_states(parameter)
                pieces.append((key, tuple(parameter.shape), one._get_model_param_range_map(parameter)["param"], {kind: held[kind].clone().float() for kind in STATE}))
    gathered = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(pieces, gathered)
    if dist.get_rank() != 0:
        return
    whole, shapes = {}, {}
    for key, shape, place, held in (piece for rank in gathered for piece in rank):
        tensors = whole.setdefault(key, {kind: torch.full([torch.Size(shape).numel()], torch.nan) for kind in STATE})
        shapes[key] = list(shape)
        for kind in STATE:
            tensors[kind][place.start:place.end] = held[kind]
    params = {}
    for key, tensors in whole.items():
        if "word_embeddings" in key or "output_layer" in key:  # without padding
            shapes[key][0] = max(0, min(shapes[key][0], vocabulary - int(key[2]) * shapes[key][0]))
        params[key] = {"local_shape": shapes[key]}
        for kind in STATE:
            assert not tensors[kind].isnan().any(), key
            flat = tensors[kind][:torch.Size(shapes[key]).numel()].double()
            params[key][kind] = {"first5": flat[:5].tolist(), "last5": flat[-5:].tolist(), "sum": flat.sum().item(), "abs_sum": flat.abs().sum().item()}
    path.write_text(json.dumps({"params": params}))


def save(folder, provider, ddp, model, settings, optimizer, schedule, fully):
    import megatron.bridge.training.checkpointing as checkpointing
    from megatron.bridge.training import config
    from megatron.bridge.training.state import GlobalState
    scheduler = config.SchedulerConfig(lr_warmup_iters=2, lr_decay_iters=100, lr_decay_style="cosine", start_weight_decay=0.1, end_weight_decay=0.1,
                                       weight_decay_incr_style="constant", override_opt_param_scheduler=False)
    scheduler.lr_warmup_steps, scheduler.lr_decay_steps, scheduler.wd_incr_steps = 8, 400, 400
    state = GlobalState()
    state.cfg = config.ConfigContainer(
        model=provider, train=None, optimizer=settings, ddp=ddp, scheduler=scheduler, dataset=None, logger=config.LoggerConfig(), rng=config.RNGConfig(), dist=None,
        tokenizer=config.TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model="model"), profiling=config.ProfilingConfig(),
        rerun_state_machine=config.RerunStateMachineConfig(),
        checkpoint=config.CheckpointConfig(save=str(folder / "mcore"), ckpt_format="torch_dist", save_rng=True, dist_ckpt_optim_fully_reshardable=bool(fully),
                                           save_tokenizer_assets=False))
    state.train_state.step, state.train_state.consumed_train_samples = 3, 12
    checkpointing.save_checkpoint(state=state, model=model, optimizer=optimizer, opt_param_scheduler=schedule, num_floating_point_operations_so_far=0)


def main(hf_model, folder, *changes):
    options = dict(tp=1, pp=1, vp=0, ep=1, bucket=0, fully=0, grouped=1, first=0, divisible=0, bias=0)
    options.update((word.split("=")[0], int(word.split("=")[1])) for word in changes)
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(exist_ok=True)
    no_cards()
    type_of = torch.Tensor.type  # the optimizer takes parameters of cards only
    torch.Tensor.type = lambda self, *a, **k: type_of(self, *a, **k).replace("torch.", "torch.cuda.") if not a and not k else type_of(self, *a, **k)
    dist.init_process_group("gloo")
    from megatron.core.distributed import DistributedDataParallelConfig
    provider = provider_of(hf_model, options)
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True, overlap_grad_reduce=bool(options["bucket"]),
                                        bucket_size=options["bucket"] or None)
    model = provider.provide_distributed_model(ddp_config=ddp, data_parallel_random_init=False)
    named = list(named_parameters(provider, model, (provider.num_moe_experts or 0) // options["ep"]))
    set_expert_biases(model)
    settings, optimizer, schedule = trained(model, named)
    vocabulary = json.loads((pathlib.Path(hf_model) / "config.json").read_text())["vocab_size"]
    write_values(named, optimizer, vocabulary, folder / "optimizer_values.json")
    save(folder, provider, ddp, model, settings, optimizer, schedule, options["fully"])


if __name__ == "__main__":
    main(*sys.argv[1:])
