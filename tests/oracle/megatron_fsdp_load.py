"""Run by torchrun of PONTE_BRIDGE_PYTHON's environment: Megatron Bridge builds a model and its optimizer over Megatron-FSDP, as training does, and its training
loader reads a checkpoint of fsdp_dtensor format into them, strictly. Without CUDA, Megatron-FSDP's devices become processors.

usage: megatron_fsdp_load.py HF_MODEL CHECKPOINT OUT EXPERT_PARALLEL_SIZE      OUT.<rank>.pt: what this rank holds
"""
import importlib.machinery
import sys
import warnings

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from bridge_export import NoStream, without_cuda  # noqa: E402


class OnProcessors(importlib.machinery.SourceFileLoader):
    """Megatron-FSDP names the device in its sources."""

    def get_data(self, path):
        data = super().get_data(path)
        if not path.endswith(".py"):
            raise OSError("no cached code")
        return data.replace(b"torch.device(f'cuda:{torch.cuda.current_device()}')", b"torch.device('cpu')").replace(
            b'torch.device(f"cuda:{torch.cuda.current_device()}")', b"torch.device('cpu')").replace(b'"cuda"', b'"cpu"')


class FindFsdp:
    def find_spec(self, name, path=None, target=None):
        if not name.startswith("megatron.core.distributed.fsdp"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = OnProcessors(spec.loader.name, spec.loader.path)
        return spec


class Stream(NoStream):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def no_cards():
    sys.meta_path.insert(0, FindFsdp())
    without_cuda()
    state = lambda *_, **__: torch.zeros(16, dtype=torch.uint8)  # noqa: E731  as long as a card's
    torch.cuda.Stream = torch.cuda.Event = Stream
    torch.cuda.stream = torch.cuda.current_stream = lambda *_, **__: Stream()
    torch.cuda.get_rng_state = state
    torch.cuda.memory_allocated = torch.cuda.memory_reserved = torch.cuda.manual_seed = lambda *_, **__: 0
    torch.cuda.get_device_capability = lambda *_: (8, 0)
    torch.cuda.get_device_properties = lambda *_: type("Card", (), dict(major=8, minor=0, multi_processor_count=1, total_memory=0, name="none"))()
    import megatron.core.tensor_parallel.random as random
    random._get_cuda_rng_state, random._set_cuda_rng_state = state, lambda *_, **__: None


def state_of_empty_shards():
    """torch's AdamW keeps nothing for a parameter of which a rank holds no element, Transformer Engine's does; the loader wants the same keys on every rank."""
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    first_step = DistributedOptimizer._init_optimizer_states_with_dummy_values

    def all_states(self):
        first_step(self)
        state, parameters = self.optimizer.state, [p for group in self.optimizer.param_groups for p in group["params"]]
        for p in parameters:
            if "exp_avg" not in state[p]:
                state[p] = dict(step=torch.tensor(1.0), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        ordered = {p: state[p] for p in parameters}
        state.clear()
        state.update(ordered)

    DistributedOptimizer._init_optimizer_states_with_dummy_values = all_states


def build(hf_model, expert_parallel):
    from megatron.bridge import AutoBridge
    from megatron.bridge.training.config import OptimizerConfig
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import get_megatron_optimizer
    provider = AutoBridge.from_hf_pretrained(hf_model, torch_dtype=torch.bfloat16).to_megatron_provider(load_weights=False)
    provider.expert_model_parallel_size = expert_parallel
    provider.pipeline_dtype = provider.params_dtype = torch.bfloat16
    provider.gradient_accumulation_fusion = provider.moe_permute_fusion = False
    provider.finalize()
    provider.initialize_model_parallel(seed=0)
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, use_megatron_fsdp=True, data_parallel_sharding_strategy="optim_grads_params")
    model = provider.provide_distributed_model(ddp_config=ddp, use_megatron_fsdp=True, use_torch_fsdp2=False, overlap_param_gather_with_optimizer_step=False,
                                               data_parallel_random_init=False)
    settings = OptimizerConfig(optimizer="adam", lr=1.0, min_lr=0.0, use_distributed_optimizer=True, bf16=True, params_dtype=torch.bfloat16)
    return provider, ddp, model, settings, get_megatron_optimizer(settings, model)


def load(checkpoint, provider, ddp, model, settings, optimizer):
    import megatron.bridge.training.checkpointing as checkpointing
    from megatron.bridge.training.config import CheckpointConfig, ConfigContainer, LoggerConfig, RNGConfig
    from megatron.bridge.training.state import GlobalState
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
    scheduler = OptimizerParamScheduler(optimizer, init_lr=0.0, max_lr=1.0, min_lr=0.0, lr_warmup_steps=0, lr_decay_steps=1, lr_decay_style="linear", start_wd=0.0,
                                        end_wd=0.0, wd_incr_steps=1, wd_incr_style="constant", use_checkpoint_opt_param_scheduler=True, override_opt_param_scheduler=False)
    state = GlobalState()
    state.cfg = ConfigContainer(model=provider, train=None, optimizer=settings, ddp=ddp, scheduler=None, dataset=None, logger=LoggerConfig(), tokenizer=None, rng=RNGConfig(),
                                dist=None, checkpoint=CheckpointConfig(load=checkpoint, ckpt_format="fsdp_dtensor", strict_fsdp_dtensor_load=True))
    checkpointing.update_num_microbatches = lambda *_, **__: None
    checkpointing.load_checkpoint(state=state, model=model, optimizer=optimizer, opt_param_scheduler=scheduler, strict=True)
    return state.train_state, scheduler


def main(hf_model, checkpoint, out, expert_parallel):
    no_cards()
    import torch.distributed as dist
    dist.init_process_group("gloo")
    provider, ddp, model, settings, optimizer = build(hf_model, int(expert_parallel))
    state_of_empty_shards()
    progress, scheduler = load(checkpoint, provider, ddp, model, settings, optimizer)
    from megatron.core.distributed.fsdp.src.megatron_fsdp.uneven_dtensor import gather_and_compute_chunk_metadata
    from megatron.core.transformer.fsdp_dtensor_checkpoint import handle_experts_in_state_dict
    inner = getattr(optimizer, "chained_optimizers", [optimizer])
    named = handle_experts_in_state_dict(dict(model[0].named_parameters()), provider.num_moe_experts)
    held = {("param", name): value for name, value in named.items()}
    for one in inner:
        held.update({(kind, one._param_name(p)): value for p, state in one.optimizer.state.items() for kind, value in state.items()})
    steps = {float(held.pop(key)) for key in list(held) if key[0] == "step"}
    pieces = {}
    for key in sorted(held):  # the same order on every rank
        where = gather_and_compute_chunk_metadata(held[key])
        pieces[key] = tuple(held[key].shape), tuple(where.offsets), held[key].to_local().detach().clone()
    torch.save({"pieces": pieces, "steps": steps, "iteration": progress.step, "samples": progress.consumed_train_samples, "scheduler": scheduler.state_dict()},
               f"{out}.{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
