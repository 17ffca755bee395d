"""GGUF files compute what Transformers' own reader of GGUF makes of them; Q4_0 is kept to the last bit."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as decode
from hypothesis import given
from hypothesis import strategies as st

from kernels.int4 import PackedInt4, dequantize
from tests.gguf_models import Kind, save_gguf
from tests.helpers import generate, request_of, small_engine
from tests.parity import LogitsRecorder, generate_reference
from workers.models.rope import Llama3Rope
from workers.models.spec import ModelError, ModelSpec
from workers.tokenizer import Tokenizer
from workers.weights.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from workers.weights.gguf_tensors import read_q4_0, read_tensor
from workers.weights.model_digest import model_digest
from workers.weights.model_dir import TINY_MODEL, resolve_model_dir
from workers.weights.model_file import find_file
from workers.weights.open_checkpoint import open_checkpoint, read_spec

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def save_wide_model(path: Path, family: str) -> Path:
    """A model of one layer, wide enough for blocks of 256."""
    import transformers

    from tests.families import config_of

    torch.manual_seed(11)
    config = config_of(
        {"llama": "llama", "mistral": "mistral-window", "qwen2": "qwen2"}[family],
        hidden_size=256, intermediate_size=512, num_hidden_layers=1, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    model = getattr(transformers, f"{family.capitalize()}ForCausalLM")(config)
    for name, tensor in model.named_parameters():
        if tensor.dim() == 1:
            tensor.data.uniform_(-0.5, 0.5) if name.endswith("bias") else tensor.data.uniform_(0.5, 1.5)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama to be written in many types."""
    return save_wide_model(tmp_path_factory.mktemp("llama"), "llama")


def logits_of(path: Path, **options: Any) -> torch.Tensor:
    built = small_engine(path, **options)
    recorder = LogitsRecorder(built)
    generate(built.engine, [request_of("r", PROMPT, 1)])
    return recorder.rows["r"][0]


def reference_logits(path: Path) -> torch.Tensor:
    """By Transformers, which has a name table and a permutation of its own."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"])
    return generate_reference(model, [PROMPT], 1)[0][1][0]


@pytest.mark.parametrize(
    "kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q5_0, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
)
def test_logits_of_every_type_are_transformers_own(llama_dir: Path, tmp_path: Path, kind: Any) -> None:
    """To 1e-4 of the largest; the head and the embedding are of the type as well."""
    path = save_gguf(tmp_path / "m.gguf", llama_dir, lambda name: kind)
    expected = reference_logits(path)
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(logits_of(path), expected, rtol=0, atol=tolerance)
    if kind == Kind.Q4_0:
        torch.testing.assert_close(logits_of(path, quantization="int4"), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_logits_of_other_families_are_transformers_own(tmp_path: Path, family: str) -> None:
    source = save_wide_model(tmp_path / "source", family)
    architecture = "qwen2" if family == "qwen2" else "llama"  # the converter calls Mistral a Llama
    path = save_gguf(tmp_path / "m.gguf", source, lambda name: Kind.Q8_0, architecture)
    expected = reference_logits(path)
    found = logits_of(path)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_packed_and_decoded_shards_go_together(llama_dir: Path, tmp_path: Path) -> None:
    """As in llama.cpp's mixtures: what is not Q4_0 is rounded to int4 in groups of the configured size."""
    path = save_gguf(tmp_path / "m.gguf", llama_dir, lambda n: Kind.Q6_K if "v_proj" in n else Kind.Q4_0)
    expected = reference_logits(path)
    found = logits_of(path, quantization="int4", group_size=64)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.2 * float(expected.abs().max()))


def matrix_in(path: Path, blocks: np.ndarray[Any, Any], shape: tuple[int, int], kind: Any) -> GgufHeader:
    """A file of the bytes of one matrix."""
    path.write_bytes(blocks.tobytes())
    return GgufHeader(find_file(path.parent, path.name), {}, {"m": GgufTensor(kind, shape, 0)})


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_q4_0_is_kept_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, rows: int, groups: int, seed: int) -> None:
    """Positive scales, negative ones, and zero, whose blocks are zeros whatever their nibbles are."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (rows, groups, 18), np.uint8)
    scales = random.choice(np.array([0.5, -0.25, 0.0, 6e-8, 65504.0], np.float16), (rows, groups))
    blocks[..., :2] = scales[..., None].view(np.uint8)
    path = tmp_path_factory.mktemp("q4_0") / "m.bin"
    packed = read_q4_0(matrix_in(path, blocks, (rows, 32 * groups), Kind.Q4_0), "m", (rows, 32 * groups))
    expected = torch.from_numpy(decode(blocks.reshape(rows, -1), Kind.Q4_0))
    assert torch.equal(dequantize(packed, torch.float32), expected)
    assert (packed.scales > 0).all()
    assert torch.equal(packed.scales.half().float(), packed.scales)
    if (scales != 0).all():
        assert torch.equal(packed.scales, torch.from_numpy(np.abs(scales).astype(np.float32)))


def test_large_matrices_are_decoded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.weights.gguf_tensors.CHUNK_VALUES", 100)
    blocks = gguf.quants.quantize(np.random.default_rng(0).normal(size=(7, 64)).astype(np.float32), Kind.Q8_0)
    found = read_tensor(matrix_in(tmp_path / "m.bin", blocks, (7, 64), Kind.Q8_0), "m", (7, 64))
    assert torch.equal(found, torch.from_numpy(decode(blocks, Kind.Q8_0)))


def edit_gguf(path: Path, edit: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(data)


def replace(old: bytes, new: bytes) -> Callable[[bytearray], object]:
    def edit(data: bytearray) -> None:
        at = data.index(old)
        data[at : at + len(new)] = new

    return edit


@pytest.fixture
def gguf_path(llama_dir: Path, tmp_path: Path) -> Path:
    """A file to be damaged."""
    return save_gguf(tmp_path / "m.gguf", llama_dir, lambda name: Kind.Q4_0)


def load(path: Path) -> None:
    from workers.config import WeightConfig
    from workers.weights.loader import WeightLoader

    spec = read_spec(path)
    WeightLoader(open_checkpoint(path, spec), spec, WeightConfig(group_size=32), torch.device("cpu")).load()


DAMAGES: list[tuple[str, Callable[[bytearray], object], str]] = [
    ("empty", lambda data: data.clear(), "goes on beyond byte 0"),
    ("magic", replace(b"GGUF", b"PK\x03\x04"), "does not begin with 'GGUF'"),
    ("version", replace(struct.pack("<I", 3), struct.pack("<I", 9)), "version is 9"),
    ("header", lambda data: data.__delitem__(slice(100, None)), "goes on beyond byte 100"),
    ("data", lambda data: data.__delitem__(slice(-1, None)), r"ends at byte \d+, but the file has"),
    ("count", lambda data: data.__setitem__(slice(16, 24), b"\xff" * 8), "no GGUF file that can be read"),
    ("twice", replace(b"blk.0.attn_v.weight", b"blk.0.attn_q.weight"), "'blk.0.attn_q.weight' is there twice"),
    ("missing", replace(b"blk.0.attn_v.weight", b"blk.0.attn_x.weight"), r"lacks blk\.0\.attn_v\.weight \[128, 256\]"),
    ("architecture", replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0gemma"), "architecture is 'gemma'"),
    ("type", replace(struct.pack("<QQI", 256, 128, 2), struct.pack("<QQI", 256, 128, 99)), "no GGUF file that can be"),
    ("unserved", replace(struct.pack("<QQI", 256, 128, 2), struct.pack("<QQI", 256, 128, 10)), "is of type Q2_K"),
    ("shape", replace(struct.pack("<QQI", 256, 128, 2), struct.pack("<QQI", 128, 128, 2)), r"is \[128, 128\], but the"),
]


@pytest.mark.parametrize(("edit", "message"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_a_damaged_file_is_named(gguf_path: Path, edit: Callable[[bytearray], object], message: str) -> None:
    edit_gguf(gguf_path, edit)
    with pytest.raises(ModelError, match=rf"m\.gguf.*{message}"):
        load(gguf_path)


def test_a_tensor_without_a_place_is_named(llama_dir: Path, tmp_path: Path) -> None:
    extra = {"blk.0.attn_q.bias": np.zeros(256, np.float32), "blk.0.attn_norm_2.weight": np.ones(256, np.float32)}
    path = save_gguf(tmp_path / "m.gguf", llama_dir, lambda name: Kind.Q4_0, "qwen2", extra=extra)
    with pytest.raises(ModelError, match=r"lacks blk\.0\.attn_k\.bias"):
        load(path)
    del extra["blk.0.attn_q.bias"]
    path = save_gguf(tmp_path / "m.gguf", llama_dir, lambda name: Kind.Q4_0, extra=extra)
    with pytest.raises(ModelError, match=r"no place for: .'blk\.0\.attn_norm_2\.weight'"):
        load(path)


def test_scales_that_are_no_numbers_are_named(gguf_path: Path) -> None:
    header = read_gguf_header(gguf_path)
    offset = header.tensors["blk.0.attn_k.weight"].offset
    edit_gguf(gguf_path, lambda data: data.__setitem__(slice(offset, offset + 2), b"\x00\x7e"))
    with pytest.raises(ModelError, match=r"m\.gguf: blk\.0\.attn_k\.weight has scales that are no numbers"):
        load(gguf_path)


def spec_of(llama_dir: Path, path: Path, **metadata: Any) -> ModelSpec:
    return read_spec(save_gguf(path / "m.gguf", llama_dir, lambda name: Kind.F16, **metadata))


def test_metadata_become_the_model_shape(llama_dir: Path, tmp_path: Path) -> None:
    spec = spec_of(llama_dir, tmp_path, rope__scaling__type="linear", rope__scaling__factor=4.0)
    assert (spec.hidden_size, spec.intermediate_size, spec.num_layers, spec.vocab_size) == (256, 512, 1, 256)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.max_model_len) == (4, 2, 64, 1024)


def test_a_sliding_window_makes_a_llama_a_mistral(llama_dir: Path, tmp_path: Path) -> None:
    assert spec_of(llama_dir, tmp_path, attention__sliding_window=7).traits.windows == (7,)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"expert_count": 8}, r"llama\.expert_count is 8"),
        ({"rope__scaling__type": "longrope", "rope__scaling__factor": 4.0}, "rope type longrope is not served"),
    ],
)
def test_a_feature_that_is_not_served_is_named(
    llama_dir: Path, tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=rf"m\.gguf: {message}"):
        spec_of(llama_dir, tmp_path, **metadata)


def test_heads_that_are_rotated_in_part_are_refused(gguf_path: Path) -> None:
    key = b"llama.rope.dimension_count" + struct.pack("<I", 4)
    edit_gguf(gguf_path, replace(key + struct.pack("<I", 64), key + struct.pack("<I", 32)))
    with pytest.raises(ModelError, match=r"m\.gguf: llama\.rope\.dimension_count is 32, but heads have 64"):
        read_spec(gguf_path)


def test_divided_frequencies_are_those_of_llama_3(llama_dir: Path, tmp_path: Path) -> None:
    """llama.cpp's converter writes Llama 3.1's scaling as one divisor for each frequency."""
    rope = Llama3Rope(10000.0, 8.0, 1.0, 4.0, 64)
    plain = 10000.0 ** -(torch.arange(0, 64, 2) / 64)
    divisors = (plain / rope.inverse_frequencies(64)).numpy()
    spec = read_spec(
        save_gguf(tmp_path / "m.gguf", llama_dir, lambda name: Kind.F16, extra={"rope_freqs.weight": divisors})
    )
    torch.testing.assert_close(spec.rope.inverse_frequencies(64), rope.inverse_frequencies(64))
    load(tmp_path / "m.gguf")


def test_the_tokenizer_is_in_the_file(llama_dir: Path, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "m.gguf", llama_dir, lambda name: Kind.F16, tokenizer=TINY_MODEL)
    found, expected = Tokenizer(path), Tokenizer(TINY_MODEL)
    assert found.vocab_size == expected.vocab_size + 1  # Transformers adds <|endoftext|> where a file has none
    for text in ("Once upon a time", " two  spaces\n\tand été 日本 <|end|>", ""):
        assert found.encode(text) == expected.encode(text)
        assert found.decode(expected.encode(text)) == expected.decode(expected.encode(text))


def test_a_decoded_value_that_is_no_number_is_named(gguf_path: Path) -> None:
    """The embedding is Q4_0 too, and decoded."""
    offset = read_gguf_header(gguf_path).tensors["token_embd.weight"].offset
    edit_gguf(gguf_path, lambda data: data.__setitem__(slice(offset, offset + 2), b"\x00\x7c"))
    with pytest.raises(ModelError, match=r"m\.gguf: token_embd\.weight holds \d+ values that are NaN or infinity"):
        load(gguf_path)


def test_a_file_is_found_by_name_or_alone_in_its_directory(gguf_path: Path) -> None:
    assert resolve_model_dir(str(gguf_path)) == gguf_path
    assert resolve_model_dir(str(gguf_path.parent)) == gguf_path
    (gguf_path.parent / "other.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"several GGUF files \(m\.gguf, other\.gguf\); name the one"):
        resolve_model_dir(str(gguf_path.parent))
    with pytest.raises(ModelError, match=r"nowhere\.gguf cannot be read"):
        read_spec(resolve_model_dir(str(gguf_path.parent / "nowhere.gguf")))


def test_the_digest_is_of_the_file(gguf_path: Path) -> None:
    before = model_digest(gguf_path)
    edit_gguf(gguf_path, lambda data: data.__setitem__(-1, data[-1] ^ 1))
    assert model_digest(gguf_path) != before


def test_the_packed_matrix_has_its_rows_where_they_belong(llama_dir: Path, tmp_path: Path) -> None:
    """q is stored in pairs: packed or decoded, it comes back in halves."""
    path = save_gguf(tmp_path / "m.gguf", llama_dir, lambda name: Kind.Q4_0)
    source = open_checkpoint(path, read_spec(path))
    packed = source.read_matrix("model.layers.0.self_attn.q_proj.weight", (256, 256))
    assert isinstance(packed, PackedInt4)
    floats = source.read("model.layers.0.self_attn.q_proj.weight", (256, 256))
    assert torch.equal(dequantize(packed, torch.float32), floats)
