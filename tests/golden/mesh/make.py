"""Groups of ranks as megatron-core 0.16.1 makes them (needs it and einops installed): python make.py > groups.json"""
import json
from megatron.core import parallel_state
from megatron.core.parallel_state import RankGenerator, create_hierarchical_groups, default_embedding_ranks

# tensor, context, expert, expert tensor, data, pipeline, order; neighbours of the context axis that are its first level
CASES = [
    (1, 1, 1, 1, 1, 1, "tp-cp-ep-dp-pp"),
    (2, 1, 1, 2, 2, 2, "tp-cp-ep-dp-pp"),
    (2, 2, 2, 1, 2, 2, "tp-cp-ep-dp-pp"),
    (1, 2, 4, 1, 4, 1, "tp-cp-ep-dp-pp"),
    (4, 1, 2, 2, 3, 3, "tp-cp-ep-dp-pp"),
    (2, 3, 3, 2, 2, 4, "tp-cp-ep-dp-pp"),
    (2, 1, 1, 2, 3, 2, "tp-cp-ep-pp-dp"),
    (1, 2, 2, 1, 2, 2, "ep-cp-dp-tp-pp"),
    (2, 1, 1, 2, 2, 1, "tp-dp"),
    (3, 2, 1, 3, 2, 2, "cp-tp-ep-dp-pp"),
    (1, 4, 1, 1, 2, 1, "tp-cp-ep-dp-pp", 2),
    (2, 6, 2, 1, 1, 2, "tp-cp-ep-dp-pp", 3),
    (2, 4, 1, 2, 1, 1, "cp-tp-ep-dp-pp", 4),
]
DENSE = {"tensor": "tp", "context": "cp", "data": "dp", "data-context": "dp-cp", "tensor-context": "tp-cp", "pipeline": "pp", "model": "tp-pp",
         "world": "tp-cp-dp-pp"}
SPARSE = {"expert": "ep", "expert-tensor": "tp", "expert-tensor-expert": "tp-ep", "expert-data": "dp"}


def levels(contexts, inner):
    """Both levels of hierarchical context parallelism: their groups are written down in place of being made."""
    made = [[], []]
    parallel_state.create_group = lambda ranks, group_desc, **_: made[int(group_desc[-1])].append(ranks)
    for ranks in contexts:
        create_hierarchical_groups(ranks[0], ranks, [inner, len(ranks) // inner], create_gloo_process_groups=False)
    return {"context-inner": made[0], "context-outer": made[1]}


def row(tp, cp, ep, etp, dp, pp, order, inner=1):
    dense = RankGenerator(tp=tp, ep=1, dp=dp, pp=pp, cp=cp, order=order)
    sparse = RankGenerator(tp=etp, ep=ep, dp=tp * cp * dp // (etp * ep), pp=pp, cp=1, order=order)
    groups = {kind: dense.get_ranks(token) for kind, token in DENSE.items()}
    groups |= {kind: sparse.get_ranks(token) for kind, token in SPARSE.items()}
    groups |= levels(dense.get_ranks("cp"), inner)
    groups["embedding"] = [default_embedding_ranks(ranks) for ranks in dense.get_ranks("pp")]
    return {"sizes": [tp, cp, ep, etp, dp, pp, inner], "order": order, "groups": groups}


print(json.dumps([row(*case) for case in CASES], separators=(",", ":")))
