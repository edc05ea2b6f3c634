"""Megatron Bridge itself exports what Ponte imported. Optional: PONTE_BRIDGE_PYTHON names a Python in which megatron.bridge imports (PyPI megatron-bridge 0.3.1
and megatron-core 0.16.1 with --no-deps, transformers 4.57; or a checkout), with Transformer Engine or modules of its names in PYTHONPATH. See docs/formats.md."""
import os
import pathlib
import subprocess

import pytest
from test_convert_golden import assert_same, hf_tensors

BRIDGE = os.environ.get("PONTE_BRIDGE_PYTHON")
MODELS = os.environ.get("PONTE_BRIDGE_MODELS", "mcore016/qwen2 mcore016/qwen3 mcore016/qwen3_moe").split()  # Bridge 0.3.1 reads release 4 configurations only

if BRIDGE:

    @pytest.mark.parametrize("name", MODELS)
    def test_bridge_exports_what_ponte_imported(ponte, golden, tmp_path, name):
        ponte("import", "--hf-model", golden / name / "hf", "--megatron-path", tmp_path / "mcore")
        script = pathlib.Path(__file__).with_name("bridge_export.py")
        environment = {**os.environ, "CUDA_DEVICE_MAX_CONNECTIONS": "1", "TRANSFORMERS_OFFLINE": "1"}
        process = subprocess.run([BRIDGE, script, golden / name / "hf", tmp_path / "mcore", tmp_path / "hf"], capture_output=True, text=True,
                                 env=environment)
        assert process.returncode == 0, process.stderr[-4000:]
        # Bridge holds A_log and dt_bias in the model's type.
        wanted = {k: v.bfloat16() if k.endswith((".A_log", ".dt_bias")) else v for k, v in hf_tensors(golden / name / "hf").items()}
        assert_same(hf_tensors(tmp_path / "hf"), wanted)
