"""Learning rates, weight decays and loss scales computed by megatron-core 0.16.1 itself (needs it installed): python make.py > schedules.json"""
import json
import torch
from megatron.core.optimizer.grad_scaler import DynamicGradScaler
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler


class Optimizer:
    def __init__(self):
        self.param_groups = [{"lr": 0.0, "weight_decay": 0.0, "wd_mult": 1.0}]


BASE = dict(init_lr=0.0, max_lr=3e-4, min_lr=3e-5, lr_warmup_steps=40, lr_decay_steps=400, lr_decay_style="cosine", start_wd=0.1, end_wd=0.1,
            wd_incr_steps=400, wd_incr_style="constant", wsd_decay_steps=None, lr_wsd_decay_style=None)
CASES = [{}]
CASES += [dict(lr_decay_style=s) for s in ("constant", "linear", "inverse-square-root")]
CASES += [dict(lr_decay_style="inverse-square-root", lr_warmup_steps=0), dict(lr_warmup_steps=0), dict(init_lr=1e-5), dict(min_lr=0.0),
          dict(lr_warmup_steps=20.5)]
CASES += [dict(lr_decay_style="WSD", wsd_decay_steps=100, lr_wsd_decay_style=s) for s in ("linear", "cosine", "exponential", "minus_sqrt")]
CASES += [dict(start_wd=0.0, end_wd=0.2, wd_incr_style=s) for s in ("linear", "cosine")]
STEPS = [0, 4, 20, 21, 40, 44, 100, 200, 299, 300, 301, 350, 396, 400, 401, 1000]


def row(case):
    arguments = {**BASE, **case}
    out = []
    for steps in STEPS:
        optimizer = Optimizer()
        scheduler = OptimizerParamScheduler(optimizer, **arguments)
        scheduler.step(steps)
        group = optimizer.param_groups[0]
        out.append([steps, group["lr"], group["weight_decay"]])
    return {"arguments": arguments, "expected": out}


def scales():
    tensor = torch.tensor
    torch.tensor = lambda *a, device=None, **k: tensor(*a, **k)
    scaler = DynamicGradScaler(65536.0, 1.0, 2.0, 0.5, 4, 2)
    found = [0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1] + [1] * 20
    out = []
    for f in found:
        scaler.update(bool(f))
        out.append([f, scaler.scale.item(), scaler._growth_tracker, scaler._hysteresis_tracker])
    return out


print(json.dumps({"schedules": [row(c) for c in CASES], "loss_scales": scales()}, indent=None))
