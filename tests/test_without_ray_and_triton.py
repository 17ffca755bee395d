"""No Ray and no Triton are needed to import the engine and to generate tokens, in one process or over the pools."""

import os
import subprocess
import sys
from pathlib import Path

from workers.weights.model_dir import TINY_MODEL

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "triton"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for name in ("ray", "triton"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported: the test tests nothing")

from pathlib import Path
from workers.config import CacheConfig, EngineConfig
from workers.engine.build import build_engine
from workers.pools.decode_worker import DecodeWorker
from workers.pools.kv_frames import frames_of
from workers.pools.prefill_worker import PrefillWorker
from workers.request import GenerationRequest, SamplingParams

config = EngineConfig(cache=CacheConfig(memory_bytes=8 * 2**20))
prefill, decode = (pool(build_engine(Path(sys.argv[1]), config)) for pool in (PrefillWorker, DecodeWorker))
request = GenerationRequest("r", tuple(range(2, 40)), SamplingParams(max_tokens=8, temperature=0, ignore_eos=True))
prefill.add_request(request)
while prefill.has_work:
    for _, (prefilled, blocks) in prefill.step():
        received = decode.expect(request, prefilled)
        for frame in frames_of(blocks, received.first_block):
            received.add(frame)
        decode.add_prefilled(request, prefilled, received)
tokens = [prefilled.first_token]
while decode.has_work:
    tokens += [token for _, output in decode.step() for token in output.token_ids]
assert not {"ray", "triton"} & set(sys.modules)
print(*tokens)
"""


def test_tokens_without_ray_and_triton() -> None:
    command = [sys.executable, "-c", SCRIPT, str(TINY_MODEL)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    tokens = [int(token) for token in result.stdout.split()]
    assert len(tokens) == 8
    assert all(0 <= token < 4096 for token in tokens)
