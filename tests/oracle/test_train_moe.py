"""Training sparse models: fifty steps against a loop on transformers with Megatron's balancing loss, bitwise resume, and what the log says of the experts."""
import pytest
import torch
import transformers
from parity import Probe, batch, load_transformers
from test_convert_golden import hf_tensors
from test_moe_parity import Settings, balancing_loss
from test_tensorboard import curves, histograms
from test_train_reference import BATCH, SETTINGS, assert_same_course, assert_weights_near, reference, train_some_steps
from training import Training, assert_same_tensors, expect_bitwise_resume, load_checkpoint, series, write_corpus

COEFFICIENT = 0.02
SHAPE = dict(pad_token_id=None, num_hidden_layers=2, router_aux_loss_coef=COEFFICIENT)


def balanced(model, micro, coefficient=COEFFICIENT, balancing=None):
    """Backward of the mean over micro-batches of cross entropy and each layer's balancing loss; says both. balancing: another one, given the router logits
    and the number of the micro-batch in its step."""

    def backward(rows):
        entropy, balance = 0.0, 0.0
        for number, part in enumerate(rows.split(micro)):
            out = model(part[:, :-1], output_router_logits=True)
            cross_entropy = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), part[:, 1:].flatten())
            layers = balancing(out.router_logits, number) if balancing else balancing_loss(out.router_logits, model.config.num_experts_per_tok)
            share = len(part) / BATCH
            (share * (cross_entropy + coefficient * layers)).backward()
            entropy += share * cross_entropy.item()
            balance += share * layers.item() / len(out.router_logits)
        return entropy, balance

    return backward


def shares_of_experts(model, rows):
    """For each layer, how often each expert is chosen, as a multiple of an even share."""
    with torch.no_grad():
        logits = model(torch.tensor(rows)[:, :-1], output_router_logits=True).router_logits
    counts = [torch.bincount(layer.topk(model.config.num_experts_per_tok).indices.flatten(), minlength=layer.size(-1)).double() for layer in logits]
    return [(count / count.mean()).tolist() for count in counts]


def test_fifty_steps(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3_moe", **SHAPE)
    steps, result, samples = train_some_steps(ponte, tmp_path, folder, f"logger.tensorboard_dir={tmp_path / 'tensorboard'}")
    assert "load_balancing_loss:" in result.out + result.err and "busiest expert:" in result.out + result.err
    model = load_transformers(folder, attention="sdpa")
    assert steps[0]["expert_load"] == [pytest.approx(shares) for shares in shares_of_experts(model, samples[:BATCH])]
    found = curves(tmp_path / "tensorboard")
    for layer in range(2):
        for name, extreme in (("busiest", max), ("idlest", min)):
            assert [value for _, value in found[f"moe/layer_{layer}/{name}_expert"]] == pytest.approx([extreme(s["expert_load"][layer]) for s in steps])
    drawn = histograms(tmp_path / "tensorboard")
    assert drawn.keys() == {f"moe/layer_{layer}/expert_load" for layer in range(2)}
    for layer in range(2):  # a bucket for each expert, in their order
        assert drawn[f"moe/layer_{layer}/expert_load"] == [(s["iteration"], [(e - 0.5, e + 0.5, load) for e, load in enumerate(s["expert_load"][layer])]) for s in steps]
    said, norms = reference(model, samples, balanced(model, micro=2))
    assert_same_course(steps, [entropy for entropy, _ in said], norms)
    for step, (_, balance) in zip(steps, said):
        assert step["load_balancing_loss"] == pytest.approx(balance, rel=1e-5), step["iteration"]
        assert len(step["expert_load"]) == 2 and all(sum(layer) == pytest.approx(len(layer)) for layer in step["expert_load"])
    assert_weights_near(ponte, tmp_path, model)


def test_experts_in_every_second_layer(ponte, tmp_path, tiny):
    """moe_layer_freq=2, with new weights: the first and the third layer have experts, in training, in the log, in the checkpoint and in what is exported."""
    folder, _ = tiny("qwen3_moe", **SHAPE)
    corpus = write_corpus(tmp_path / "corpus")
    sizes = dict(model_type="qwen3_moe", hf_architecture="Qwen3MoeForCausalLM", num_layers=3, hidden_size=32, ffn_hidden_size=64, num_attention_heads=4,
                 num_query_groups=2, kv_channels=8, vocab_size=8192, qk_layernorm="true", max_position_embeddings=64, num_moe_experts=4, moe_router_topk=2,
                 moe_ffn_hidden_size=24, moe_layer_freq=2, seq_length=32)
    training = Training(ponte, tmp_path, *(f"model.{key}={value}" for key, value in sizes.items()), f"tokenizer.tokenizer_model={folder}",
                        f"dataset.data_path=[{corpus}]", "train.train_iters=2", "train.global_batch_size=2", "optimizer.lr=1e-3", f"checkpoint.save={tmp_path / 'save'}")
    steps, _ = training.run()
    assert len(steps[0]["expert_load"]) == 2
    resumed, _ = training.run("train.train_iters=3", "scheduler.override_opt_param_scheduler=true", f"checkpoint.load={tmp_path / 'save'}", name="resumed")
    assert [step["iteration"] for step in resumed] == [3]
    ponte("export", "--megatron-path", tmp_path / "save", "--hf-path", tmp_path / "hf")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and model.config.mlp_only_layers == [1]
    assert [hasattr(layer.mlp, "experts") for layer in model.model.layers] == [True, False, True]
    ponte("verify", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "save", "--forward", "--prompt", "a b c")


def test_expert_bias_over_steps(ponte, tmp_path, tiny, monkeypatch):
    """Sigmoid scores with a bias that decides the choice and not the weight, moved after each step by what each expert got in it; the losses, the choices they
    follow from and the biases that are saved."""
    rate, count = 0.03, 8
    route = Settings(sigmoid=True, scale=2.5, bias_rate=rate)
    monkeypatch.setattr(transformers.models.qwen3_moe.modeling_qwen3_moe.Qwen3MoeTopKRouter, "forward", lambda gate, hidden: route(gate, hidden))
    folder, _ = tiny("qwen3_moe", **SHAPE)
    steps, _, samples = train_some_steps(ponte, tmp_path, folder, "model.moe_router_score_function=sigmoid", "model.moe_router_topk_scaling_factor=2.5",
                                         "model.moe_router_enable_expert_bias=true", f"model.moe_router_bias_update_rate={rate}",
                                         "model.moe_router_load_balancing_type=none", count=count)
    model = load_transformers(folder, attention="sdpa")
    backward = balanced(model, micro=2, coefficient=0.0)

    def backward_and_move(rows):
        said = backward(rows)
        route.move_biases()
        return said

    said, norms = reference(model, samples, backward_and_move)
    for step, (loss, _), norm in zip(steps, said, norms, strict=True):
        assert step["lm_loss"] == pytest.approx(loss, rel=1e-5), step["iteration"]
        assert step["grad_norm"] == pytest.approx(norm, rel=1e-4), step["iteration"]
    biases = load_checkpoint(tmp_path / f"save/iter_{count:07d}")["decoder.layers.mlp.router.expert_bias"]
    theirs = torch.stack(list(route.bias.values()))
    assert biases.dtype == torch.float32 and torch.allclose(biases, theirs, rtol=0, atol=1e-6)
    assert theirs.unique().numel() > 3, "the biases must have gone different ways"
    assert_comes_back(ponte, tmp_path, route, biases)


def assert_comes_back(ponte, tmp_path, route, biases):
    """A router of the run's own through both formats: the bias to the bit, the scores in config.json; what is computed from it is what was trained."""
    exported = ponte("export", "--megatron-path", tmp_path / "save", "--hf-path", tmp_path / "hf")
    assert "sigmoid scores, a bias for each expert, a factor on the experts' weights" in exported.err
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "again", "--torch-dtype", "bf16")
    assert torch.equal(load_checkpoint(tmp_path / "again/iter_0000000")["decoder.layers.mlp.router.expert_bias"], biases)
    ponte("export", "--megatron-path", tmp_path / "again", "--hf-path", tmp_path / "hf_again")
    kept = hf_tensors(tmp_path / "hf_again")
    for layer, bias in enumerate(biases):
        assert torch.equal(kept[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"], bias)
    model = load_transformers(tmp_path / "hf").eval()
    route.bias = {layer.mlp.gate: bias for layer, bias in zip(model.model.layers, biases)}
    data = batch(511)
    with torch.no_grad():
        wanted = model(input_ids=data[0], use_cache=False).logits
    assert (Probe(tmp_path / "hf", data, tmp_path / "probe").logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_global_balancing_over_micro_batches(ponte, tmp_path, tiny):
    """Shares counted over the micro-batches of the step so far, probabilities of the one at hand."""
    counted = {}

    def balancing(router_logits, number):
        total = 0
        for layer, logits in enumerate(router_logits):
            probabilities = torch.softmax(logits, -1)
            counts = probabilities.topk(2, -1).indices.flatten().bincount(minlength=logits.shape[1])
            before, tokens = counted.get(layer, (0, 0)) if number else (0, 0)
            counted[layer] = before + counts, tokens + len(logits)
            share = counted[layer][0] / (2 * counted[layer][1])
            total = total + logits.shape[1] * (share * probabilities.mean(0)).sum()
        return total

    folder, _ = tiny("qwen3_moe", **SHAPE)
    (step,), _, samples = train_some_steps(ponte, tmp_path, folder, "model.moe_router_load_balancing_type=global_aux_loss", "model.moe_aux_loss_coeff=1.0",
                                           "train.micro_batch_size=1", count=1)
    model = load_transformers(folder, attention="sdpa")
    [(loss, balance)], [norm] = reference(model, samples, balanced(model, 1, 1.0, balancing))
    for key, wanted in (("lm_loss", loss), ("grad_norm", norm), ("load_balancing_loss", balance)):
        assert step[key] == pytest.approx(wanted, rel=1e-5), key


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
def test_resumed_equals_uninterrupted(ponte, tmp_path, tiny, precision):
    folder, _ = tiny("qwen3_moe", **SHAPE)
    end = expect_bitwise_resume(ponte, tmp_path, folder, precision, "model.moe_router_load_balancing_type=global_aux_loss",
                                "model.moe_router_score_function=sigmoid", "model.moe_router_enable_expert_bias=true")
    assert end["decoder.layers.mlp.router.expert_bias"].abs().sum() > 0
    if precision == "fp32":
        return
    # The bias is no parameter of the optimizer, and goes through the other format with those that are.
    ponte("convert", "--megatron-path", tmp_path / "whole", "--save", tmp_path / "fsdp", "--ckpt-format", "fsdp_dtensor")
    ponte("convert", "--megatron-path", tmp_path / "fsdp", "--save", tmp_path / "back", "--ckpt-format", "torch_dist")
    bias = "decoder.layers.{}mlp.router.expert_bias"
    fsdp = load_checkpoint(tmp_path / "fsdp/iter_0000006")
    assert torch.equal(torch.stack([fsdp["model.module." + bias.format(f"{layer}.")] for layer in range(2)]), end[bias.format("")])
    assert [name for name in fsdp if "optimizer" in name and "expert_bias" in name] == []
    assert_same_tensors(load_checkpoint(tmp_path / "back/iter_0000006"), end)
    assert tuple(end["optimizer.state.exp_avg.decoder.layers.mlp.experts.experts.linear_fc1.weight"].shape) == (2, 8, 96, 64)


def test_sequence_balancing_does_not_depend_on_the_micro_batches(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3_moe", **{**SHAPE, "router_aux_loss_coef": 1.0})
    corpus = write_corpus(tmp_path / "corpus", vocab=8192, documents=60)
    runs = {}
    for micro in (1, 4):
        training = Training(ponte, tmp_path, "--hf-model", folder, *SETTINGS, f"dataset.data_path=[{corpus}]", "train.train_iters=3",
                            f"train.micro_batch_size={micro}", "scheduler.lr_warmup_iters=0", "model.moe_router_load_balancing_type=seq_aux_loss",
                            "model.moe_z_loss_coeff=0.1", "checkpoint.save=")
        runs[micro], _ = training.run(name=f"micro{micro}")
    for key in ("lm_loss", "grad_norm", "load_balancing_loss", "z_loss"):
        for iteration, value in series(runs[4], key).items():
            assert series(runs[1], key)[iteration] == pytest.approx(value, rel=5e-6), (key, iteration)
