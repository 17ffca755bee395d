"""Train the bundled checkpoint `models/tiny/` on the Python standard library's own sources.

    python models/train_tiny.py --hours 1.25 --out models/tiny

Needs a CPU, raydix installed, and the CPython whose sources it reads. The learning rate falls to zero over the
time given, so the schedule always completes; the model card (`models/tiny/README.md`) says what one run reached.
"""

import argparse
import copy
import hashlib
import json
import lzma
import math
import sysconfig
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workers.weights.manifest import Making, write_manifest

SEED = 1234
VOCAB_SIZE = 4096
CONTEXT = 2048
BATCH_TOKENS = 8192
LONG_CONTEXT_FROM = 0.7  # train on 512-token windows first: attention there costs a quarter
BOS, EOS = "<|bos|>", "<|eos|>"
# Every message is Python text and the model continues the file, so a chat is its messages one after another.
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def is_held_out(name: str) -> bool:
    """One file in forty, chosen by the SHA-1 of its path inside the library, never seen in training."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 40 == 0


def read_library() -> tuple[list[str], list[str]]:
    """The standard library's Python files as (train, held-out) texts, in path order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    train: list[str] = []
    held_out: list[str] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(("site-packages/", "dist-packages/", "encodings/")):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a handful of test files are deliberately not UTF-8
        if text:
            (held_out if is_held_out(name) else train).append(text)
    return train, held_out


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE: every byte string has a tokenisation and decodes back to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=[BOS, EOS], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """All texts as one int64 token stream, each framed by BOS and EOS."""
    framed = tokenizer.encode_batch([BOS + text + EOS for text in texts])
    return torch.tensor([token for encoding in framed for token in encoding.ids])


def build_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def windows(stream: torch.Tensor, generator: torch.Generator, progress: list[float]) -> Iterator[torch.Tensor]:
    """Random windows [batch, length + 1] for ever; `progress[0]` says how far the training is (0 to 1)."""
    while True:
        length = CONTEXT if progress[0] > LONG_CONTEXT_FROM else CONTEXT // 4
        starts = torch.randint(len(stream) - length - 1, (BATCH_TOKENS // length,), generator=generator)
        yield stream[starts[:, None] + torch.arange(length + 1)]


def learning_rate_scale(progress: float) -> float:
    """Linear warm-up over 2 % of the time, then linear decay to zero."""
    return min(progress / 0.02, (1 - progress) / 0.98, 1.0)


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks (Jordan 2024), AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def loss_of(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy (nats per token) of windows [batch, length + 1]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch[:, :-1]).logits
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def train(model: LlamaForCausalLM, stream: torch.Tensor, hours: float, out: Path) -> int:
    """Train in place and return the number of steps; saves a snapshot every ten minutes."""
    optimizers = make_optimizers(model)
    base_rates = [group["lr"] for o in optimizers for group in o.param_groups]
    compiled_loss = torch.compile(partial(loss_of, model), dynamic=False)
    progress = [0.0]
    start_s = saved_s = time.monotonic()
    batches = windows(stream, torch.Generator().manual_seed(SEED), progress)
    for step, batch in enumerate(batches):
        elapsed_s = time.monotonic() - start_s
        progress[0] = elapsed_s / (hours * 3600)
        if progress[0] >= 1:
            return step
        for optimizer, rate in zip(optimizers, base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * learning_rate_scale(progress[0])
        loss = compiled_loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step} {elapsed_s:.0f} s {progress[0]:.1%} loss {loss.item():.3f} nats/token", flush=True)
        if time.monotonic() - saved_s > 600:
            save_weights(model, out)
            saved_s = time.monotonic()
    raise AssertionError("windows() never ends")


@torch.no_grad()
def bits_per_byte(model: LlamaForCausalLM, stream: torch.Tensor, num_bytes: int) -> float:
    """Coding cost of the stream, each token given at least 1,024 tokens before it (fewer at the very start)."""
    nats, stride = 0.0, CONTEXT // 2
    for begin in range(0, max(len(stream) - CONTEXT, 0) + stride, stride):
        window = stream[begin : begin + CONTEXT + 1]
        if len(window) < 2:
            break
        losses = F.cross_entropy(model(window[None, :-1]).logits[0].float(), window[1:], reduction="none")
        nats += losses[0 if begin == 0 else CONTEXT - stride :].sum().item()
    return nats / math.log(2) / num_bytes


def save_weights(model: LlamaForCausalLM, out: Path) -> None:
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, model_max_length=CONTEXT
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.25, help="training time in hours (default 1.25)")
    parser.add_argument("--out", type=Path, default=Path("models/tiny"), help="directory to write")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    train_texts, held_out_texts = read_library()
    tokenizer = train_tokenizer(train_texts)
    save_tokenizer(tokenizer, args.out)
    held_out = "".join(held_out_texts).encode()
    packed = lzma.compress(held_out, preset=9)
    (args.out / "heldout.txt.xz").write_bytes(packed)
    stream = encode(tokenizer, train_texts)
    print(f"{len(train_texts)} files, {len(stream):,} tokens; held out {len(held_out_texts)} files", flush=True)
    model = build_model()
    steps = train(model, stream, args.hours, args.out)
    save_weights(model, args.out)
    report = {
        "seed": SEED,
        "hours": args.hours,
        "steps": steps,
        "tokens": steps * BATCH_TOKENS,
        "corpus_tokens": len(stream),
        "held_out_bytes": len(held_out),
        "xz_bits_per_byte": 8 * len(packed) / len(held_out),
        "model_bits_per_byte": bits_per_byte(model, encode(tokenizer, held_out_texts), len(held_out)),
    }
    (args.out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    write_manifest(args.out, Making("train", {"script": "models/train_tiny.py", "seed": SEED}))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
